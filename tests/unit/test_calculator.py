"""The monitored calculator in ASE and OpenMM, with a small model that dynamics soon break.

Not for: the examples, and a model with sensible forces (`tests/integration/test_watched.py`).
"""

import json
import os
import re
import threading
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.socketio import SocketIOCalculator
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from openmm import Platform, VerletIntegrator, unit
from openmm.app import Simulation
from test_mace_model import fit, springs

from conftest import ROOT
from halcyon.config import FitSettings
from halcyon.domain import bounds
from halcyon.domain.bounds import by_class
from halcyon.domain.curves import Curve
from halcyon.domain.expected import ExpectedErrors
from halcyon.domain.intervals import Domain
from halcyon.errors import InputError
from halcyon.final import folder as product
from halcyon.final import lammps_export
from halcyon.final.card import Card
from halcyon.final.monitor.ase import (
    CliMonitor,
    MonitoredMace,
    UnreliableDynamics,
    UnreliableDynamicsWarning,
)
from halcyon.final.monitor.matching import match
from halcyon.final.monitor.openmm import CliReporter, mace_system, topology
from halcyon.final.monitor.watch import Thresholds
from halcyon.models import mace

CLASSES = ["C", "O", "H", "H", "H", "H"]
BONDS = [(0, 1), (0, 2), (0, 4), (0, 5), (1, 3)]
"""Of ASE's CH3OH."""
NEVER = {"bond_stretch_A": 1e9, "min_distance_A": 1e-9}
"""Nothing counts as a failure."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A `final` folder of methanol, with an under-trained model."""
    folder = tmp_path_factory.mktemp("final")
    frames = springs("CH3OH", 24, energy_zero=-310.0, seed=2, stiffness=20.0)
    fit(
        folder,
        frames[:8],
        frames[8:12],
        fit=FitSettings(epochs=60, batch_size=5, learning_rate=0.02),
        name="model.model",
    )
    for frame in frames:
        frame.info["structure"] = "methanol"
    nodes = mace.evaluate(folder / "model.model", frames).node_energy
    groups = [by_class([values], [CLASSES]) for values in nodes]
    lengths = {pair: np.mean([frame.get_distance(*pair) for frame in frames[:8]]) for pair in BONDS}
    bounds.build(
        bounds.ClassEnergies(
            train=by_class(nodes[:8], [CLASSES] * 8),
            teacher={},
            held_out=groups[8:16],
            check=groups[16:],
        ),
        classes={"methanol": CLASSES},
        bonds={"methanol": [(i, j, float(length)) for (i, j), length in lengths.items()]},
        alpha=1e-2,
        seed=1,
    ).write(folder / "domain.json")
    start = molecule("CH3OH")
    start.info = {"charge": 0, "multiplicity": 1, "structure": "methanol"}
    product.write_structures({"methanol": start}, folder)
    card = Card.read(ROOT / "tests/data/final/card.json")
    changes = {"kind": "molecule", "dtype": "float64", "watch": Thresholds(rate=0.05)}
    card.model_copy(update=changes).write(folder / "card.json")
    return folder


@pytest.fixture
def atoms(folder):
    atoms = read(folder / "structures/methanol.xyz")
    atoms.calc = MonitoredMace(folder)
    return atoms


def hot(atoms, kelvin, *, seed=1):
    thermalize_momenta(atoms, kelvin, rng=np.random.default_rng(seed))
    return Langevin(
        atoms,
        0.5 * units.fs,
        temperature_K=kelvin,
        friction=0.005 / units.fs,
        fixcm=False,
        rng=np.random.default_rng(seed),
    )


def furthest_bond(atoms, folder):
    """Greatest deviation of a bond from its mean, Å."""
    bonds = json.loads((folder / "domain.json").read_text())["bonds"]["methanol"]
    return max(
        abs(np.linalg.norm(atoms.positions[i] - atoms.positions[j]) - r) for i, j, r in bonds
    )


def test_it_predicts_what_the_model_predicts_and_scores_by_the_intervals(atoms, folder):
    atoms.rattle(0.05, seed=3)
    atoms.positions *= 0.75  # squeezed: far outside
    known = mace.evaluate(folder / "model.model", [atoms])
    assert atoms.get_potential_energy() == pytest.approx(known.energy[0], abs=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), known.forces[0], rtol=1e-5, atol=1e-5)
    told = json.loads((folder / "domain.json").read_text())
    for tier in ("label", "guard"):
        bounds = np.array([told[tier][name] for name in CLASSES])
        energy = known.node_energy[0]
        outside = np.maximum(np.maximum(bounds[:, 0] - energy, energy - bounds[:, 1]), 0)
        expected = outside / (bounds[:, 1] - bounds[:, 0])
        found = atoms.calc.results[f"score_{tier}"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert found.max() > 0


def test_the_monitor_counts_every_step_once_and_nothing_else(atoms):
    dynamics = hot(atoms, 1000)
    monitor = CliMonitor(atoms, dynamics, action="warn", frame=None)
    outside = []
    dynamics.attach(lambda: outside.append(atoms.calc.results["score_label"] > 0), interval=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableDynamicsWarning)
        dynamics.run(60)
        for _ in range(5):  # energies of other positions: no time passes
            moved = atoms.copy()
            moved.rattle(0.3)
            atoms.calc.get_property("energy", moved)
        dynamics.run(60)
    steps = np.array(outside[1:])  # ASE also calls before the first step
    assert monitor.watch.steps == len(steps) == 120
    assert steps.any()
    np.testing.assert_allclose(monitor.watch.cli[0], 0.0005 * steps.sum(axis=0))
    begun = steps & ~np.vstack([np.zeros(6, bool), steps[:-1]])
    np.testing.assert_array_equal(monitor.watch.excursions[0], begun.sum(axis=0))
    assert monitor.watch.rate[0] == pytest.approx(steps.sum() / 6 / 200)
    assert monitor.summary()["cli_label_ps"] == pytest.approx(0.0005 * steps.sum() / 6)


def test_expected_errors_decide_where_the_domain_has_them(atoms, folder):
    curve = Curve(distance=[1.0], error=[0.3], source="class", pairs=9)
    expected = ExpectedErrors(
        tolerance_eV_per_A=0.2,
        signals=["node_energy"],
        curves={"node_energy": dict.fromkeys(CLASSES, curve)},
    )
    domain = replace(Domain.read(folder / "domain.json"), expected=expected)
    atoms.calc = MonitoredMace(folder, domain)
    dynamics = hot(atoms, 1000)
    monitor = CliMonitor(atoms, dynamics, frame=None, action="warn", **NEVER)
    # By hand: 0.3 eV/Å within the interval and 0.3 times the distance beyond, 0.2 tolerated.
    with pytest.warns(UnreliableDynamicsWarning, match="expected to be wrong by more than"):
        dynamics.run(210)
    results = atoms.calc.results
    assert results["score_error"].min() == pytest.approx(0.5)
    beyond = 1 + 2 * results["score_label"]  # half widths from the middle
    np.testing.assert_allclose(results["score_error"], beyond * 0.3 / 0.2 - 1, rtol=1e-4)
    summary = monitor.summary()
    assert summary["decides"] == "error"
    assert summary["rate_error"] == 1
    assert summary["cli_error_ps"] == pytest.approx(210 * 0.0005)


def test_the_label_domain_alarms_where_no_error_is_expected(atoms, folder):
    """As far from a first generation's few labels, where its expected errors are too low."""
    curve = Curve(distance=[1.0], error=[1e-4], source="class", pairs=9)
    expected = ExpectedErrors(
        tolerance_eV_per_A=1e3,
        signals=["node_energy"],
        curves={"node_energy": dict.fromkeys(CLASSES, curve)},
    )
    domain = replace(Domain.read(folder / "domain.json"), expected=expected)
    atoms.calc = MonitoredMace(folder, domain)
    dynamics = hot(atoms, 1000)
    monitor = CliMonitor(atoms, dynamics, frame=None, action="warn", **NEVER | {"rate": 0.05})
    with pytest.warns(UnreliableDynamicsWarning, match="outside the model's training domain"):
        dynamics.run(210)
    assert {alarm.cause for alarm in monitor.alarms} == {"rate"}
    summary = monitor.summary()
    assert (summary["decides"], summary["rate_error"]) == ("error", 0)
    assert summary["rate_label"] > 0.05


def test_a_domain_of_an_early_release_is_watched_by_intervals_and_says_so(folder, atoms):
    with pytest.warns(UserWarning, match="goes by the intervals of atomic energies"):
        MonitoredMace(folder)
    assert CliMonitor(atoms, hot(atoms, 300)).summary()["decides"] == "label"


def test_watched_it_is_the_same_run_until_the_first_step_with_a_broken_bond(folder, tmp_path):
    def start():
        atoms = read(folder / "structures/methanol.xyz")
        atoms.calc = MonitoredMace(folder)
        return atoms, hot(atoms, 1500)

    atoms, dynamics = start()
    path = []
    dynamics.attach(lambda: path.append(atoms.positions.copy()), interval=1)
    dynamics.run(160)
    stretch = [furthest_bond(Atoms(atoms.numbers, positions), folder) for positions in path]
    assert max(stretch) > 2.0
    broken = next(step for step, value in enumerate(stretch) if value > 0.5)

    atoms, dynamics = start()
    frame = tmp_path / "stopped.xyz"
    # This model breaks inside its own domain; one that does not: tests/integration/test_watched.py.
    monitor = CliMonitor(atoms, dynamics, frame=frame, rate=1.0, atom_rate=1.0)
    with pytest.raises(UnreliableDynamics, match="bond broken"):
        dynamics.run(160)
    assert dynamics.nsteps == monitor.watch.steps == broken
    np.testing.assert_array_equal(atoms.positions, path[broken])
    np.testing.assert_allclose(read(frame).positions, path[broken], atol=1e-6)


def test_a_warning_is_given_once_and_the_run_goes_on(atoms):
    dynamics = hot(atoms, 1500)
    # Bonds are not watched here: a broken one would be an alarm of its own.
    monitor = CliMonitor(atoms, dynamics, action="warn", frame=None, **NEVER)
    with pytest.warns(UnreliableDynamicsWarning) as given:
        dynamics.run(150)
    assert dynamics.nsteps == 150
    causes = [alarm.cause for alarm in monitor.alarms]
    assert len(given) == len(causes) < 20
    assert "rate" in causes or "atom_rate" in causes


def test_a_broken_bond_stops_whatever_the_rates_may_be(atoms):
    dynamics = hot(atoms, 1500)
    CliMonitor(atoms, dynamics, frame=None, rate=1.0, atom_rate=1.0)
    with pytest.raises(UnreliableDynamics, match="bond broken") as stopped:
        dynamics.run(400)
    assert stopped.value.alarm.cause == "failure"


def test_a_limit_of_the_cli_stops(atoms):
    dynamics = hot(atoms, 1500)
    monitor = CliMonitor(
        atoms, dynamics, frame=None, rate=1.0, atom_rate=1.0, cli_ps=0.005, **NEVER
    )
    with pytest.raises(UnreliableDynamics, match="Λ of atom") as stopped:
        dynamics.run(400)
    assert stopped.value.alarm.cause == "cli"
    assert monitor.watch.cli[0].max() == pytest.approx(0.0055)  # the first step beyond


def test_atoms_in_another_order_get_the_same_scores(atoms, folder):
    atoms.rattle(0.05, seed=4)
    atoms.get_potential_energy()
    order = [3, 5, 1, 0, 2, 4]
    other = atoms[order]
    other.calc = MonitoredMace(folder)
    other.get_potential_energy()
    for name in ("score_label", "score_guard"):
        np.testing.assert_allclose(
            other.calc.results[name], atoms.calc.results[name][order], atol=1e-6
        )


def test_atoms_of_another_molecule_are_refused(folder):
    for name in ("C2H6", "H2O"):
        other = molecule(name)
        other.calc = MonitoredMace(folder)
        with pytest.raises(InputError, match=r"methanol \(6 atoms\)"):
            other.get_potential_energy()


def test_what_is_missing_is_said(atoms, folder, tmp_path):
    with pytest.raises(InputError, match=r"give its domain\.json"):
        MonitoredMace(folder / "model.model")
    with pytest.raises(InputError, match="no such file"):
        MonitoredMace(tmp_path)
    with pytest.raises(InputError, match="expected 'stop' or 'warn'"):
        CliMonitor(atoms, hot(atoms, 300), action="shout")
    with pytest.raises(InputError, match="expected at least the time step"):
        CliMonitor(atoms, hot(atoms, 300), window_ps=1e-6)
    plain = molecule("CH3OH")
    with pytest.raises(InputError, match="expected a MonitoredMace"):
        CliMonitor(plain, VelocityVerlet(plain, 1.0))


def test_model_and_domain_alone_are_enough(folder):
    atoms = molecule("CH3OH")
    atoms.calc = MonitoredMace(folder / "model.model", Domain.read(folder / "domain.json"))
    assert np.isfinite(atoms.get_potential_energy())
    assert atoms.calc.thresholds == Thresholds()
    assert MonitoredMace(folder).thresholds.rate == 0.05


def openmm_run(calculator, atoms, kelvin=0.0):
    simulation = Simulation(
        topology(atoms),
        mace_system(calculator, atoms),
        VerletIntegrator(0.0005),
        Platform.getPlatformByName("Reference"),
    )
    simulation.context.setPositions(atoms.positions / 10)
    if kelvin:
        simulation.context.setVelocitiesToTemperature(kelvin, 1)
    return simulation


def test_openmm_takes_energies_and_forces_and_looks_at_every_step(atoms):
    atoms.rattle(0.05, seed=5)
    simulation = openmm_run(atoms.calc, atoms)
    state = simulation.context.getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    assert energy == pytest.approx(atoms.get_potential_energy() * 96.48533, rel=1e-6)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    np.testing.assert_allclose(forces, atoms.get_forces() * 964.8533, rtol=1e-5, atol=1e-3)
    calls = []
    calculate = atoms.calc.calculate
    atoms.calc.calculate = lambda *args, **kwargs: (calls.append(1), calculate(*args, **kwargs))
    monitor = CliReporter(atoms.calc, atoms, action="warn", frame=None)
    simulation.reporters.append(monitor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableDynamicsWarning)
        simulation.step(30)
    assert monitor.watch.steps == 30
    assert monitor.watch.time_ps == pytest.approx(0.015)
    # The pass that the monitor looks at is the next step's, too.
    assert len(calls) <= 31


def test_the_lammps_export_says_what_mace_says(folder, tmp_path):
    model = mace.load(folder / "model.model", device="cpu")
    frames = springs("CH3OH", 3, energy_zero=-310.0, seed=9)
    lammps_export.export(model, tmp_path / "m-lammps.pt")
    # MACE's own forward, without anything of ours in between
    exported = lammps_export.predict(tmp_path / "m-lammps.pt", model, frames)
    from mace.calculators import MACECalculator

    theirs = MACECalculator(
        model_paths=str(folder / "model.model"), device="cpu", default_dtype="float64"
    )
    for frame, energy, forces in zip(frames, exported.energy, exported.forces, strict=True):
        plain = Atoms(frame.numbers, frame.positions, calculator=theirs)
        assert energy == pytest.approx(plain.get_potential_energy(), abs=1e-7)
        np.testing.assert_allclose(forces, plain.get_forces(), atol=1e-7)
    assert lammps_export.check(tmp_path / "m-lammps.pt", model, frames) < 1e-5
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    with pytest.raises(InputError, match="differs from the model"):
        lammps_export.check(tmp_path / "m-lammps.pt", model, frames)


def test_an_export_with_right_energies_and_wrong_forces_is_refused(folder, tmp_path):
    model = mace.load(folder / "model.model", device="cpu", dtype="float64")
    frames = springs("CH3OH", 1, energy_zero=-310.0, seed=9)
    lammps_export.export(model, tmp_path / "m-lammps.pt")
    exported = lammps_export.predict(tmp_path / "m-lammps.pt", model, frames).energy
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
        off = float((exported - mace.evaluate(model, frames).energy)[0])
        model.atomic_energies_fn.atomic_energies += off / len(frames[0])
    now = mace.evaluate(model, frames).energy
    assert now == pytest.approx(exported, abs=1e-6)
    with pytest.raises(InputError, match="differs from the model"):
        lammps_export.check(tmp_path / "m-lammps.pt", model, frames)


def waters(number, *, order=None):
    """Waters on a line, in a periodic box; `order` lists their atoms."""
    parts = Atoms()
    for index in range(number):
        one = molecule("H2O")
        one.positions += [4.0 * index, 0, 0]
        parts += one
    parts.set_cell([4.0 * number, 12, 12])
    parts.pbc = True
    return parts if order is None else parts[order]


def test_molecules_of_a_liquid_are_found_in_any_order():
    bonds = [(3 * m, 3 * m + i, 0.97) for m in range(3) for i in (1, 2)]
    domain = Domain(
        classes={"water": ["O", "H", "H"] * 3},
        label={},
        guard={},
        margin=None,
        bonds={"water": bonds},
    )
    order = [0, 3, 6, 1, 4, 7, 2, 5, 8]
    found = match(waters(3, order=order), domain, "liquid")
    mixed = waters(3, order=order)
    for i, j, length in bonds:
        apart = mixed.get_distance(found.order[i], found.order[j], mic=True)
        assert apart == pytest.approx(length, abs=0.05)
    assert sorted(found.order) == list(range(9))
    # Of a reactive system any atom of the element will do.
    loose = match(waters(3, order=order), domain, "reactive")
    np.testing.assert_array_equal(mixed.numbers[loose.order], [8, 1, 1] * 3)


def test_a_folder_made_again_keeps_what_a_person_put_there(tmp_path):
    (tmp_path / "card.json").write_text("{}")
    product.write_manifest(tmp_path)
    (tmp_path / "my-notes.txt").write_text("mine")
    product.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["my-notes.txt"]


@pytest.fixture
def served(atoms, folder):
    """A server of i-PI's protocol, and the documentation's client of it, in a thread of its own."""
    name = f"halcyon-test-{os.getpid()}"
    page = (ROOT / "docs/production.md").read_text()
    (block,) = re.findall(r"```py\n((?:(?!```).)*SocketClient.*?)```", page, re.DOTALL)
    for old, new in (
        ("results/quickstart/ethanol/final", str(folder)),
        ("ethanol.xyz", "methanol.xyz"),
        ('unixsocket="halcyon"', f'unixsocket="{name}", timeout=600'),
    ):
        assert block.count(old) == 1
        block = block.replace(old, new)
    # Read before the thread begins: two threads that read models change torch's default precision
    # under each other's hands.
    direct = MonitoredMace(folder)
    names, faults = {}, []

    def run():
        try:
            exec(block, names)  # noqa: S102 - our own documentation
        except UnreliableDynamics as stop:
            faults.append(stop)

    client = threading.Thread(target=run, daemon=True)
    with SocketIOCalculator(unixsocket=name, timeout=600) as server:
        client.start()
        atoms.calc = server
        yield SimpleNamespace(atoms=atoms, client=client, names=names, faults=faults, direct=direct)


def test_the_documented_client_of_ipi_gives_forces_and_watches(served):
    for seed in range(3):
        served.atoms.rattle(0.01, seed=seed)
        forces = served.atoms.get_forces()
        np.testing.assert_allclose(forces, served.direct.get_forces(served.atoms), atol=1e-5)
        assert served.atoms.get_potential_energy() == pytest.approx(
            served.direct.get_potential_energy(served.atoms), abs=1e-5
        )
    served.atoms.calc.close()  # the server's end is the client's
    served.client.join(600)
    assert not served.faults
    assert served.names["monitor"].watch.steps == 3
    assert served.names["monitor"].summary()["time_ps"] == pytest.approx(0.0015)


def test_a_broken_molecule_stops_the_client_of_ipi(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    served.atoms.positions[1] += 1.5 * (served.atoms.positions[1] - served.atoms.positions[0])
    with pytest.raises(OSError):
        served.atoms.get_forces()
    served.client.join(600)
    assert served.faults[0].alarm.cause == "failure"
    assert (tmp_path / "unreliable.xyz").exists()
