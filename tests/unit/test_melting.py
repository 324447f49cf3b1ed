"""Sites of crystals: how far atoms are from them, what has melted, and what fails."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, fcc100, molecule
from fabricated import replica_end
from test_explore import after, domain, same
from torch_sim.models.interface import ModelInterface

from halcyon import files
from halcyon.config import DomainSettings, ExplorationSettings
from halcyon.domain.failures import FailureMonitor
from halcyon.errors import Interrupted
from halcyon.exploration.explore import Monitoring, Replica, RunControl, explore
from halcyon.exploration.melting import SiteWatch
from halcyon.systems.lattice import lattice_sites
from halcyon.systems.molecules import finite_molecules, number_of_molecules
from halcyon.verdict.melting import order_of
from toy_campaign import show

STIFFNESS = 4.0
"""eV/Å², of the springs of an Einstein crystal."""
KELVIN = 600.0
EDGE = 5.0
"""Of the cell of a simple cubic crystal of eight atoms, Å."""
CUBIC = {"crystalstructure": "rocksalt", "a": 5.64, "cubic": True}


def named(atoms, structure="crystal"):
    atoms.info |= {"structure": structure, "charge": 0, "multiplicity": 1}
    return atoms


def ratio(frames, sites):
    watch = SiteWatch(sites)
    for frame in frames:
        watch.look(frame)
    return watch.lindemann()


# --- sites ---


def test_sites_of_crystals_and_slabs():
    assert lattice_sites(bulk("NaCl", **CUBIC), kind="solid").nearest_A == pytest.approx(2.82)
    # One atom in its cell: its neighbours are its own images, a/√2 away.
    assert lattice_sites(bulk("Cu", a=3.6), kind="solid").nearest_A == pytest.approx(3.6 / 2**0.5)
    assert lattice_sites(bulk("NaCl", **CUBIC), kind="liquid") is None
    assert lattice_sites(molecule("H2O"), kind="solid") is None
    slab = fcc100("Al", (2, 2, 3), vacuum=6.0, periodic=True)
    water = molecule("H2O")
    water.translate([2.0, 2.0, slab.positions[:, 2].max() + 3.0])
    both = slab + water
    both.pbc = True
    sites = lattice_sites(both, kind="slab")
    assert (sites.unit >= 0).tolist() == [True] * 12 + [False] * 3


def test_a_molecular_crystal_has_the_centres_of_its_molecules_for_sites():
    nitrogen = Atoms("N2", [[0, 0, -0.55], [0, 0, 0.55]], cell=[4.0] * 3, pbc=True)
    crystal = nitrogen.repeat((2, 2, 2))
    sites = lattice_sites(crystal, kind="solid")
    assert sites.nearest_A == pytest.approx(4.0)
    turned = crystal.copy()
    for i in range(0, 16, 2):  # about the centre of each
        across = np.array([[-0.55, 0, 0], [0.55, 0, 0]])
        turned.positions[i : i + 2] = across + turned.positions[i : i + 2].mean(axis=0)
    assert ratio([turned], sites) == pytest.approx(0, abs=1e-9)


def test_parts_that_go_on_in_their_image_are_no_molecules():
    assert finite_molecules(bulk("Si", cubic=True)) == []
    water = molecule("H2O", cell=[4.0] * 3, pbc=True)
    water.translate([3.9, 0, 0])
    water.wrap()  # across the boundary
    assert [part.tolist() for part in finite_molecules(water)] == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("atoms", "kind", "number"),
    [
        (bulk("NaCl", **CUBIC), "solid", 1),
        (bulk("NaCl", **CUBIC).repeat((2, 2, 2)), "solid", 7),
        (bulk("Si", cubic=True).repeat((2, 2, 2)), "solid", 7),
        (bulk("NaCl", **CUBIC), "reactive", 8),
        (molecule("H2O"), "solid", 1),
        (Atoms("N2", [[0, 0, 0], [0, 0, 1.1]], cell=[4.0] * 3, pbc=True) * (2, 2, 2), "solid", 8),
    ],
)
def test_ten_atoms_of_a_crystal_count_as_a_molecule(atoms, kind, number):
    assert number_of_molecules(atoms, kind=kind) == number


# --- the Lindemann ratio ---


def test_the_ratio_of_an_einstein_crystal_is_that_of_equipartition():
    """k⟨u²⟩/2 = 3/2 kB T for each atom; taking off the mean of N atoms leaves (N − 1)/N of it."""
    crystal = bulk("NaCl", **CUBIC)
    sites, random = lattice_sites(crystal, kind="solid"), np.random.default_rng(1)
    spread = (units.kB * KELVIN / STIFFNESS) ** 0.5
    frames = []
    for _ in range(4000):
        frame = crystal.copy()
        frame.positions += random.normal(0, spread, (8, 3))
        frame.positions += random.uniform(0, 20, 3)  # it drifts as a whole, over boundaries, too
        frames.append(frame)
    expected = (3 * units.kB * KELVIN / STIFFNESS * 7 / 8) ** 0.5 / 2.82
    assert ratio(frames, sites) == pytest.approx(expected, rel=0.02)


def test_a_larger_cell_is_no_displacement_and_only_the_later_half_counts():
    crystal = bulk("NaCl", **CUBIC)
    sites = lattice_sites(crystal, kind="solid")
    larger = crystal.copy()
    larger.set_cell(crystal.cell * 1.05, scale_atoms=True)
    assert ratio([larger], sites) == pytest.approx(0, abs=1e-9)
    moved = crystal.copy()
    moved.positions[0] += 0.5
    # Of one atom in eight that moves by √0.75 Å, the mean of all is taken off.
    assert ratio([moved], sites) == pytest.approx((0.75 / 8 * 7 / 8) ** 0.5 / 2.82)
    assert ratio([moved] * 2 + [larger] * 2, sites) == pytest.approx(0, abs=1e-9)
    assert SiteWatch(sites).lindemann() is None


class Einstein(ModelInterface):
    """Every atom on a spring to its own site; the crystal may begin anywhere."""

    def __init__(self, stiffness=STIFFNESS):
        super().__init__()
        self._device, self._dtype = torch.device("cpu"), torch.float64
        self._compute_forces, self._compute_stress = True, False
        self.stiffness = stiffness

    def forward(self, state):
        sites = torch.as_tensor(crystal().positions)
        away = state.positions.reshape(-1, 8, 3) - sites
        away -= EDGE * (away / EDGE).round()  # torch-sim puts atoms back into the cell
        energies = self.stiffness / 2 * (away**2).sum(dim=2)
        return {
            "energy": energies.sum(dim=1),
            "forces": -self.stiffness * away.reshape(-1, 3),
            "node_energy": energies.flatten(),
        }


def crystal():
    return named(Atoms("N", cell=[EDGE / 2] * 3, pbc=True).repeat((2, 2, 2)))


SETTINGS = ExplorationSettings(
    temperatures_K=[KELVIN],
    replicas=4,
    time_ps=3.0,
    timestep_fs=2.0,
    candidate_interval_fs=40.0,
    checkpoint_s=1e6,
)


def run(work, *, replicas=4, stop=lambda: False, stiffness=STIFFNESS, **settings):
    bounds = replace(domain(upper=9.0, guard=9.0), classes={"crystal": ["N"] * 8}, bonds={})
    numbers = range(replicas) if isinstance(replicas, int) else replicas
    return explore(
        Einstein(stiffness),
        [Replica(n, KELVIN, crystal()) for n in numbers],
        SETTINGS.model_copy(update=settings),
        Monitoring(
            domain=bounds,
            settings=DomainSettings(signals=[]),
            system_kind="solid",
            sites={"crystal": lattice_sites(crystal(), kind="solid")},
        ),
        RunControl(work=work, identity="test", stop=stop),
        seed=3,
    )


def test_an_exploration_measures_it_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    (order,) = order_of(whole.replicas)
    # 4 replicas of 8 atoms, 1.5 ps each: within 10 %.
    expected = (3 * units.kB * KELVIN / STIFFNESS * 7 / 8) ** 0.5 / (EDGE / 2)
    assert order.lindemann == pytest.approx(expected, rel=0.1)
    assert (order.replicas, order.melted) == (4, 0)
    for interruption in (5, 9):
        with pytest.raises(Interrupted):
            run(tmp_path / "killed", stop=after(interruption))
    same(run(tmp_path / "killed"), whole)
    alone = run(tmp_path / "alone", replicas=[2])
    assert alone.replicas[0].lindemann == whole.replicas[2].lindemann
    monkeypatch.setattr("halcyon.exploration.replicas.BLOCK_STEPS", 7)
    same(run(tmp_path / "blocks"), whole)


def test_what_is_soft_melts_and_does_not_fail(tmp_path):
    ends = run(tmp_path, stiffness=0.5, min_distance_A=1e-6).replicas
    assert [end.failure for end in ends] == [None] * 4
    assert order_of(ends)[0].melted == 4


# --- failures ---


def test_an_atom_too_far_from_its_site_is_a_failure_where_it_is_asked(tmp_path):
    ends = run(tmp_path, stiffness=0.5, site_distance_A=0.9, replacements=0).replicas
    assert {end.failure for end in ends} == {"an atom over 0.9 Å from its site"}


def far(start, shift, limit=1.0, kind="solid"):
    monitor = FailureMonitor(
        [start],
        {},
        kind=kind,
        bond_stretch_A=0.5,
        min_distance_A=0.1,
        device=torch.device("cpu"),
        site_distance_A=limit,
        sites={"crystal": lattice_sites(start, kind=kind)},
    )
    positions = torch.tensor(start.positions + np.asarray(shift))
    values = positions, torch.zeros(1), torch.zeros(len(start), 3)
    reasons = monitor.check(*values)
    assert (float(monitor.room(*values)) > 0) == (not reasons)
    return reasons.get(0)


def test_the_distance_is_without_the_drift_and_not_of_molecules_on_a_slab():
    salt = named(bulk("NaCl", **CUBIC).repeat((2, 2, 2)))
    shift = np.zeros((64, 3))
    shift[0] = [0, 0, 1.2]
    assert far(salt, shift) == "an atom over 1 Å from its site"
    assert far(salt, shift, limit=None) is None
    assert far(salt, np.full((64, 3), 1.4)) is None  # all of it
    assert far(salt, np.tile(salt.cell[0], (64, 1)) + shift, limit=1.5) is None
    slab = fcc100("Al", (2, 2, 3), vacuum=6.0, periodic=True)
    water = molecule("H2O")
    water.translate([2.0, 2.0, slab.positions[:, 2].max() + 3.0])
    both = named(slab + water)
    both.pbc = True
    away = np.zeros((15, 3))
    away[12:] = [0, 0, 2.0]
    assert far(both, away, kind="slab") is None
    away[0] = [0, 0, 2.0]
    assert far(both, away, kind="slab") is not None


def test_fixed_atoms_hold_the_crystal_where_it_is():
    salt = named(bulk("NaCl", **CUBIC))
    salt.arrays["fixed"] = np.arange(8) < 2
    assert far(salt, np.full((8, 3), 0.7)) is not None


# --- what is said of it ---


def test_the_page_and_the_reason_say_what_has_melted(toy):
    campaign, verdicts = toy()
    assert "order" not in show(campaign, verdicts).texts
    part = {"structure": "mgo", "replicas": 4, "lindemann": 0.2, "largest": 0.31, "melted": 2}
    verdict = files.read_json(verdicts[-1])
    verdict["saturation"]["order"] = [part | {"temperature_K": 3500.0}]
    files.write_json(verdicts[-1], verdict)
    page = show(campaign, verdicts)
    assert page.texts["order"].strip() == (
        "Melted, which is no failure: mgo at 3500 K (2 of 4 replicas, Lindemann ratio up to "
        "0.31); molten: over 0.15."
    )
    assert page.tables["order-table"][1:] == [["mgo", "3500", "0.2", "0.31", "2 / 4"]]


def test_replicas_count_in_the_mean_square():
    ends = [replica_end(n, 2.0, lindemann=r) for n, r in enumerate((0.1, 0.2, None))]
    (order,) = order_of(ends)
    assert order.lindemann == pytest.approx(((0.01 + 0.04) / 2) ** 0.5)
    assert (order.largest, order.replicas, order.melted) == (0.2, 2, 1)
