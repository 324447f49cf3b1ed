"""Fixed atoms, crystals and slabs."""

import shutil
from copy import deepcopy

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms, units
from ase.build import bulk, fcc100, molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.io import write
from test_campaign import CAMPAIGN, ROOT
from torch_sim.models.interface import ModelInterface

from halcyon.campaign.checks import begin
from halcyon.config import (
    AseForceField,
    ExplorationSettings,
    StructureSettings,
    TeacherSettings,
)
from halcyon.domain.failures import FailureMonitor
from halcyon.errors import InputError
from halcyon.exploration.dynamics import Dynamics, Replica
from halcyon.exploration.momenta import start_momenta, temperatures
from halcyon.systems.fixed import fixed_atoms, layers_of, vacuum_A
from halcyon.systems.sites import site_classes
from halcyon.systems.structures import start_structure
from halcyon.teacher.forcefield import make_teacher
from halcyon.teacher.sampling import sample

EMT = AseForceField(kind="ase", calculator="ase.calculators.emt.EMT")
KELVIN = 400.0


def slab(vacuum=6.0):
    """Two by two, three layers; periodic in three directions."""
    atoms = fcc100("Al", (2, 2, 3), vacuum=vacuum)
    atoms.pbc = True
    return atoms


def start(tmp_path, atoms, name="start.xyz", **settings):
    write(tmp_path / name, atoms)
    return start_structure(
        StructureSettings(name="it", file=tmp_path / name, multiplicity=1, **settings)
    )


# --- which atoms are fixed ---


def test_constraints_of_a_poscar_are_kept(tmp_path):
    atoms = slab()
    atoms.set_constraint(FixAtoms([0, 1, 2, 3]))
    kept = fixed_atoms(start(tmp_path, atoms, "POSCAR"))
    assert kept.tolist() == [True] * 4 + [False] * 8
    repeated = fixed_atoms(start(tmp_path, atoms, "POSCAR", supercell=[2, 1, 1]))
    assert repeated.tolist() == kept.tolist() * 2
    assert not fixed_atoms(start(tmp_path, atoms, "POSCAR", fixed="none")).any()


def test_layers_and_numbers(tmp_path):
    atoms = slab()
    assert layers_of(atoms).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    across = atoms.copy()
    across.positions[:, 2] -= 7.0  # the lowest layer is now at the upper end of the cell
    across.wrap()
    assert layers_of(across).tolist() == layers_of(atoms).tolist()
    assert vacuum_A(across) == pytest.approx(12.0)
    assert fixed_atoms(start(tmp_path, atoms, fixed={"layers": 2})).nonzero()[0].tolist() == [
        *range(8)
    ]
    assert fixed_atoms(start(tmp_path, atoms, fixed={"atoms": [5]})).nonzero()[0].tolist() == [5]


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"atoms": [12]}, "no atom 12: expected numbers from 0 to 11"),
        ({"layers": 3}, "all atoms are fixed"),
    ],
)
def test_impossible_fixed_atoms_are_refused(tmp_path, fixed, message):
    with pytest.raises(InputError, match=message):
        start(tmp_path, slab(), fixed=fixed)


def test_a_constraint_of_another_kind_is_refused(tmp_path):
    atoms = slab()
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(InputError, match=r"constraint FixBondLength.*fixed: none"):
        start(tmp_path, atoms, "start.traj")


def test_layers_of_a_molecule_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"fixed\.layers.*not possible without a periodic cell"):
        start(tmp_path, molecule("H2O"), fixed={"layers": 1})


def test_a_slab_periodic_in_two_directions_is_taken_as_periodic_only_where_it_is_asked(tmp_path):
    atoms = fcc100("Al", (2, 2, 3), vacuum=6.0)  # periodic in two directions
    assert atoms.pbc.tolist() == [True, True, False]
    with pytest.raises(InputError, match=r"expected all or none.*periodic: true"):
        start(tmp_path, atoms)
    assert start(tmp_path, atoms, periodic=True).pbc.all()


# --- the model's dynamics ---


class Sites(ModelInterface):
    """Every atom is bound to the site where it first was: E = 1 eV/Å² r²; and all are pushed."""

    def __init__(self, sites):
        super().__init__()
        self._device, self._dtype = torch.device("cpu"), torch.float64
        self._compute_forces, self._compute_stress = True, False
        self.sites = sites

    def forward(self, state):
        away = state.positions - self.sites
        edges = torch.diagonal(state.cell[0])
        away = away - edges * torch.round(away / edges)  # positions are wrapped
        energy = torch.zeros(len(state.cell), dtype=self._dtype)
        return {
            "energy": energy.index_add(0, state.system_idx, (away**2).sum(dim=1)),
            "forces": 0.3 - 2 * away,
        }


@pytest.mark.parametrize("ensemble", ["nvt", "nve"])
def test_fixed_atoms_stay_and_the_others_have_the_temperature(ensemble):
    """Free atoms in harmonic wells: equipartition gives each of their 3M degrees kT/2."""
    atoms = slab()
    atoms.info = {"charge": 0, "multiplicity": 1, "structure": "it"}
    settings = ExplorationSettings(
        temperatures_K=[KELVIN], ensemble=ensemble, timestep_fs=2.0, friction_per_ps=20.0
    )
    replicas = [Replica(number, KELVIN, atoms) for number in range(8)]
    positions = torch.tensor(np.tile(atoms.positions, (8, 1)))
    dynamics = Dynamics(Sites(positions), settings, seed=1, fixed={"it": range(4)})
    state = dynamics.begin(replicas)
    free = dynamics.free(replicas, torch.device("cpu"))
    where = state.masses, state.system_idx, 8
    np.testing.assert_allclose(temperatures(state.momenta, *where, free), KELVIN, rtol=1e-6)
    dynamics.lay_out(state, replicas, [0] * 8)
    measured = []
    for step in range(1200):
        state = dynamics.step(state, step)
        if step > 200:
            measured.append(temperatures(state.momenta, *where, free).mean())
    assert torch.equal(state.positions[~free], positions[~free])
    assert not state.momenta[~free].any()
    assert state.forces[~free].abs().min() > 0.1  # the model's own, as they are learned
    assert (state.positions[free] - positions[free]).abs().max() > 0.1
    if ensemble == "nvt":
        # 8 × 24 degrees of freedom over 100 times 1/friction: a standard error of 1 %.
        assert np.mean(measured) == pytest.approx(KELVIN, rel=0.05)


def test_momenta_with_fixed_atoms_have_three_degrees_of_freedom_each():
    masses = torch.tensor([1.0, 16.0, 40.0], dtype=torch.float64)
    free = torch.tensor([True, True, False])
    momenta = start_momenta(masses, KELVIN, seed=1, free=free)
    kinetic = float((momenta**2).sum(dim=1) @ (1 / masses)) / 2
    assert kinetic == pytest.approx(6 / 2 * units.kB * KELVIN, rel=1e-6)
    assert not momenta[2].any()
    assert momenta[:2].sum(dim=0).abs().min() > 1e-3  # the fixed atom takes up what is missing


def test_fixed_atoms_do_not_change_a_replica_without_any():
    """A replica moves the same whether or not another in its batch has fixed atoms."""
    mobile, held = slab(), slab()
    for atoms, name in ((mobile, "mobile"), (held, "held")):
        atoms.info = {"charge": 0, "multiplicity": 1, "structure": name}
    ends = []
    for starts in ([mobile], [mobile, held]):
        replicas = [Replica(number, KELVIN, atoms) for number, atoms in enumerate(starts)]
        sites = torch.tensor(np.concatenate([atoms.positions for atoms in starts]))
        dynamics = Dynamics(Sites(sites), ExplorationSettings(), seed=1, fixed={"held": [0, 5]})
        state = dynamics.begin(replicas)
        dynamics.lay_out(state, replicas, [0] * len(starts))
        for step in range(60):
            state = dynamics.step(state, step)
        ends.append(state.positions[: len(mobile)])
    assert torch.equal(*ends)


# --- the teacher's ---


def test_the_teacher_moves_no_fixed_atom_and_labels_its_force(tmp_path):
    atoms = start(tmp_path, slab(), fixed={"layers": 1})
    atoms.rattle(0.05, seed=1)
    teacher = make_teacher(EMT, atoms, [(0, 4), (4, 8), (0, 1)])
    settings = TeacherSettings(
        md_frames=6,
        displaced_frames=6,
        stretched_frames=6,
        contact_frames=4,
        dissociated_frames=0,
        temperatures_K=[KELVIN],
        md_interval_fs=5.0,
    )
    frames, _ = sample(teacher, atoms, settings, seed=1)
    assert {frame.info["origin"] for frame in frames} >= {"md", "displaced", "stretched"}
    for frame in frames:
        moved = np.abs(frame.positions - atoms.positions).max(axis=1)
        assert moved[:4].max() < 1e-6
        assert moved[4:].max() > 1e-3
        assert np.abs(frame.arrays["forces"][:4]).max() > 1e-3
        assert not frame.constraints


def test_a_force_field_holds_them_too():
    """OpenMM's own minimiser and dynamics, a molecule this time."""
    from halcyon.config import XmlForceField
    from halcyon.systems import bonds

    settings = StructureSettings(name="ethanol", smiles="CCO", fixed={"atoms": [0, 3]})
    atoms = start_structure(settings)
    file = ROOT / "config/forcefields/small-molecules.xml"
    forcefield = XmlForceField(kind="forcefield_xml", files=[file])
    teacher = make_teacher(forcefield, atoms, bonds(settings, atoms))
    frames, _ = sample(
        teacher, atoms, TeacherSettings(md_frames=4, temperatures_K=[KELVIN]), seed=1
    )
    for frame in frames:
        moved = np.abs(frame.positions - atoms.positions).max(axis=1)
        assert moved[[0, 3]].max() < 1e-6 < moved.max()


# --- kinds, classes ---


def test_sites_of_a_crystal():
    """Rocksalt has one site of each element, the Wyckoff positions 4a and 4b of Fm-3m."""
    crystal = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    crystal.info["structure"] = "mgo"
    assert sorted(set(site_classes(crystal))) == ["mgo:Mg0", "mgo:O0"]
    crystal.rattle(0.1, seed=1)
    assert len(set(site_classes(crystal))) == 8  # no symmetry is left


def test_an_atom_may_leave_its_neighbour_in_a_solid_but_not_meet_it():
    pair = Atoms("MgO", [[0, 0, 0], [0, 0, 2.1]], info={"structure": "it"})
    bonds = {"it": [(0, 1, 2.1)]}
    reasons = {}
    for kind in ("molecule", "solid", "slab"):
        monitor = FailureMonitor(
            [pair],
            bonds,
            kind=kind,
            bond_stretch_A=0.5,
            min_distance_A=0.8,
            device=torch.device("cpu"),
        )
        for distance in (3.5, 0.7):
            positions = torch.tensor([[0, 0, 0], [0, 0, distance]], dtype=torch.float64)
            found = monitor.check(positions, torch.zeros(1), torch.zeros(2, 3))
            reasons[kind, distance] = found.get(0)
    assert reasons["molecule", 3.5] == "bond broken"
    assert reasons["solid", 3.5] is reasons["slab", 3.5] is None
    assert reasons["solid", 0.7] == reasons["slab", 0.7] == "atoms overlap"


# --- a campaign's checks ---


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """Begin a campaign of a structure file."""
    (tmp_path / "config/systems").mkdir(parents=True)
    shutil.copytree(ROOT / "config/cp2k", tmp_path / "config/cp2k")
    monkeypatch.chdir(tmp_path)

    def run(atoms, kind="slab", *, more=(), system=None, structure=None, **campaign):
        write("start.extxyz", atoms)
        it = {"name": "it", "file": "start.extxyz"} | (structure or {})
        thing = {"name": "thing", "kind": kind, "structures": [it, *more]}
        thing |= {"forcefield": {"kind": "xtb"}} | (system or {})
        (tmp_path / "config/systems/thing.yaml").write_text(yaml.safe_dump(thing))
        return begin(deepcopy(CAMPAIGN) | campaign, "campaign.yaml")

    return run


SALT = {"crystalstructure": "rocksalt", "a": 5.64, "cubic": True}


def salt_slab(vacuum=5.0):
    """One conventional cell of NaCl(001), two layers, periodic in three directions."""
    atoms = bulk("NaCl", **SALT)
    atoms.cell[2, 2] = 2.82 + vacuum
    return atoms


def test_a_slab_that_the_model_sees_the_image_of_is_refused(attempt):
    with pytest.raises(InputError, match=r"vacuum is 3\.5 Å thick, and model\.r_max_A = 4"):
        attempt(salt_slab(3.5))
    assert attempt(salt_slab(5.0)).systems["thing"].system.kind == "slab"
    # A cutoff that reaches further sees it, too.
    with pytest.raises(InputError, match=r"vacuum is 5\.0 Å thick, and model\.r_max_A = 6"):
        attempt(salt_slab(5.0), model={"r_max_A": 6.0})


def test_a_cell_too_small_for_the_nearest_image_is_refused(attempt):
    primitive = bulk("Si", "diamond", a=5.43)
    with pytest.raises(InputError, match=r"3\.14 Å wide.*4\.70 Å.*supercell: \[2, 2, 2\]"):
        attempt(primitive, "solid")
    assert attempt(primitive, "solid", structure={"supercell": [2, 2, 2]})


def test_a_fixed_atom_that_would_have_to_move_is_refused(attempt):
    held = {"fixed": {"atoms": [0, 4]}}
    with pytest.raises(InputError, match=r"2 atoms are fixed.*'npt'.*fixed: none"):
        attempt(salt_slab(), structure=held, exploration={"ensemble": "npt"})

    def pushed(*atoms):
        distance = {"kind": "distance", "atoms": list(atoms), "sigma_A": 0.1}
        bias = {"kind": "metadynamics", "variables": [distance], "height_eV": 0.01}
        return attempt(salt_slab(), structure=held, exploration={"bias": bias | {"bias_factor": 5}})

    with pytest.raises(InputError, match=r"bias\.variables\.0: all of its atoms \(0, 4\)"):
        pushed(0, 4)
    assert pushed(0, 1)


def test_k_points_are_for_crystals_and_slabs(attempt):
    reference = {"backend": "cp2k", "level": "config/cp2k/pbe-solid.yaml", "k_spacing_per_A": 0.8}
    with pytest.raises(InputError, match=r"k_spacing_per_A = 0\.8: system thing has `kind: reac"):
        attempt(salt_slab(), "reactive", reference=reference)


def test_seeds_are_strained_where_the_cell_of_a_solid_moves(attempt):
    salt = bulk("NaCl", **SALT)
    for number, (settings, expected) in enumerate(
        [
            ({}, 0.0),
            ({"exploration": {"ensemble": "npt"}}, 0.02),
            ({"seed_labels": {"strain": 0.05}}, 0.05),
            ({"exploration": {"ensemble": "npt"}, "seed_labels": {"strain": 0.0}}, 0.0),
        ]
    ):
        campaign = attempt(salt, "solid", campaign=f"c{number}", **settings)
        assert campaign.systems["thing"].seed_strain("it") == expected
    slab = attempt(salt_slab(), campaign="slab", seed_labels={"strain": 0.05})
    assert slab.systems["thing"].seed_strain("it") == 0.0


def test_bulk_slab_and_cluster_are_learned_together(attempt):
    write("bulk.extxyz", bulk("NaCl", **SALT))
    write("cluster.extxyz", Atoms("NaClNaCl", [[0, 0, 0], [2.6, 0, 0], [2.6, 2.6, 0], [0, 2.6, 0]]))
    more = [{"name": n, "file": f"{n}.extxyz"} for n in ("bulk", "cluster")]
    campaign = attempt(salt_slab(), "slab", more=[more[1]], structure={"fixed": {"layers": 1}})
    plan = campaign.systems["thing"]
    assert plan.fixed == {"it": fixed_atoms(plan.start("it")).nonzero()[0].tolist()}
    assert len(plan.fixed["it"]) == 4
    with pytest.raises(InputError, match=r"structure bulk: its vacuum is 2\.8 Å"):
        attempt(salt_slab(), "slab", more=more, campaign="another", exploration={"replicas": 24})
    assert attempt(bulk("NaCl", **SALT), "solid", more=[more[1]], campaign="third")


def test_a_bulk_crystal_takes_slabs_and_clusters_with_it(attempt):
    write("slab.extxyz", salt_slab())
    write("cluster.extxyz", Atoms("NaClNaCl", [[0, 0, 0], [2.6, 0, 0], [2.6, 2.6, 0], [0, 2.6, 0]]))
    more = [{"name": n, "file": f"{n}.extxyz"} for n in ("slab", "cluster")]
    settings = {"seed_labels": {"strain": 0.02}, "exploration": {"replicas": 24}}
    campaign = attempt(bulk("NaCl", **SALT), "solid", more=more, **settings)
    plan = campaign.systems["thing"]
    assert plan.explored == ["it", "slab", "cluster"]
    assert [plan.seed_strain(name) for name in plan.explored] == [0.02, 0.0, 0.0]
    assert sorted(plan.sites) == ["it", "slab"]
    assert plan.classes("slab")[0].startswith("slab:")
    settings = {"exploration": {"replicas": 24, "ensemble": "npt"}}
    with pytest.raises(InputError, match=r"structure slab: it has a vacuum of 5\.0 Å.*'npt'"):
        attempt(bulk("NaCl", **SALT), "solid", more=more[:1], campaign="moving", **settings)


def test_an_element_that_the_teacher_does_not_know_is_refused(attempt):
    uranium = bulk("U", "bcc", a=4.0, cubic=True).repeat((2, 2, 2))
    with pytest.raises(InputError, match=r"structure it: forcefield: .*U"):
        attempt(uranium, "solid")
