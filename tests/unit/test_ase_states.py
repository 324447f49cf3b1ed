"""`backend: ase` proves itself: charge and spin change its labels, and energies fit the forces."""

import numpy as np
import pytest
from ase.calculators.emt import EMT

from halcyon.config import AseReference
from halcyon.errors import InputError
from halcyon.labels.reference import Status, make_reference
from halcyon.labels.store import level_hash

CALCULATORS = """
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT


class Spring(Calculator):
    '''A spring at each atom; `reads` names what of charge and spin changes its energy.'''

    implemented_properties = ["energy", "forces"]

    def __init__(self, reads=(), fails_at=None, **given):
        super().__init__()
        self.reads, self.fails_at, self.given = reads, fails_at, given

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        state = {"charge": atoms.info["charge"], "multiplicity": atoms.info["multiplicity"]}
        if list(state.values()) == self.fails_at:
            raise RuntimeError("no such state")
        energy = (atoms.positions**2).sum() + sum(state[name] for name in self.reads)
        self.results = {"energy": energy, "forces": -2 * atoms.positions}


class Smeared(Calculator):
    '''Forces are the slope of the free energy x^2; energy is extrapolated, and less steep.'''

    implemented_properties = ["energy", "free_energy", "forces"]

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        free = (atoms.positions**2).sum()
        self.results = {"energy": free / 1.2, "free_energy": free, "forces": -2 * atoms.positions}


class Unannounced(Smeared):
    implemented_properties = ["energy", "forces"]


class Promise(Spring):
    implemented_properties = ["energy", "free_energy", "forces"]


def smeared():
    return Smeared()


def emt():
    return EMT()
"""


@pytest.fixture
def reference(tmp_path, monkeypatch):
    """A function that makes a reference of one of `CALCULATORS` with arguments."""
    (tmp_path / "own_calculators.py").write_text(CALCULATORS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_calculators", raising=False)

    def made(name="Spring", **arguments):
        path = name if "." in name else f"own_calculators.{name}"
        return make_reference(AseReference(backend="ase", calculator=path, arguments=arguments))

    return made


def state(water, charge, multiplicity):
    frame = water.copy()
    frame.info = {"charge": charge, "multiplicity": multiplicity, "structure": "water"}
    return frame


BOTH = ["charge", "multiplicity"]


@pytest.mark.parametrize(
    ("charge", "multiplicity", "arguments"),
    [
        (0, 1, {}),  # nothing to prove
        (-2, 1, {"reads": ["charge"]}),
        (1, 2, {"reads": BOTH}),
        (0, 3, {"reads": ["multiplicity"]}),
        (-2, 1, {"charge": -2}),  # the arguments say so
        (0, 3, {"uhf": 2}),
        (-1, 2, {"total_charge": -1, "spin": 1}),
        (-2, 1, {"fails_at": [0, 1]}),  # it noticed the other state
    ],
)
def test_a_calculator_that_knows_the_state_passes(
    reference, water, charge, multiplicity, arguments
):
    reference(**arguments).check([state(water, charge, multiplicity)])


@pytest.mark.parametrize(
    ("charge", "multiplicity", "arguments", "message"),
    [
        (-2, 1, {}, "water: charge = -2: .*the same label with charge = 0: it ignores it"),
        (-2, 1, {"reads": ["multiplicity"]}, "charge = -2"),
        (-1, 2, {"reads": ["charge"]}, "multiplicity = 2: .*with multiplicity = 4: it ignores"),
        (0, 3, {"reads": ["charge"]}, "multiplicity = 3: .*with multiplicity = 1"),
        (0, 1, {"charge": -2}, "charge = 0: .* with charge = 2"),
        (-2, 1, {"charge": -1}, "charge = -2"),
        (0, 1, {"multiplicity": 3}, "multiplicity = 1: .* with multiplicity = 3"),
        (-2, 1, {"fails_at": [-2, 1]}, r"was not: RuntimeError: no such state.* runs where"),
    ],
)
def test_a_calculator_that_ignores_the_state_is_refused(
    reference, water, *, charge, multiplicity, arguments, message
):
    with pytest.raises(InputError, match=message):
        reference(**arguments).check([state(water, charge, multiplicity)])


def test_an_ion_beside_neutral_molecules_is_enough(reference, water):
    with pytest.raises(InputError, match="charge = -2"):
        reference().check([state(water, 0, 1), state(water, -2, 1)])


@pytest.mark.parametrize("name", ["Smeared", "smeared"])
def test_the_energy_is_that_of_the_forces(reference, water, tmp_path, name):
    step, energies = 1e-4, []
    for shift in (-step, 0.0, step):
        frame = state(water, 0, 1)
        frame.positions[0, 2] += shift
        (record,) = reference(name).label([frame], tmp_path, 1)
        energies.append(record.energy)
        if not shift:
            force = record.forces[0, 2]
    slope = -(energies[2] - energies[0]) / (2 * step)
    assert slope == pytest.approx(force, rel=1e-6)
    assert abs(force) > 0.1  # else any energy fits


def test_a_free_energy_is_part_of_the_level(reference):
    assert reference("Smeared").level["energy"] == "free_energy"
    assert reference("smeared").level["energy"] == "free_energy"


@pytest.mark.parametrize(
    "name", ["Spring", "Unannounced", "emt", "ase.calculators.emt.EMT", "tblite.ase.TBLite"]
)
def test_levels_of_before_keep_their_hash(reference, name):
    level = reference(name).level
    before = {key: level[key] for key in ("program", "version", "calculator", "arguments", "files")}
    assert level_hash(level) == level_hash(before)


def test_emt_announces_what_the_list_exempts():
    assert "free_energy" in EMT.implemented_properties  # else the case above shows nothing


def test_a_free_energy_that_is_not_announced_is_refused(reference, water, tmp_path):
    with pytest.raises(InputError, match=r"energy = .* free_energy = .*implemented_properties"):
        list(reference("Unannounced").label([state(water, 0, 1)], tmp_path, 1))


def test_a_free_energy_that_is_announced_and_missing_is_no_label(reference, water, tmp_path):
    (record,) = reference("Promise").label([state(water, 0, 1)], tmp_path, 1)
    assert record.status is Status.CRASHED
    assert "free_energy" in record.message
    assert record.forces is None
    assert np.isfinite(record.seconds)
