import numpy as np
import pytest
from ase.units import Bohr, Hartree
from tblite.interface import Calculator

from halcyon.config import StructureSettings
from halcyon.errors import InputError
from halcyon.frames import structure_key
from halcyon.labels import spin
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.systems.structures import start_structure

OXYGEN = {"name": "O2", "smiles": "O=O", "multiplicity": 3}


def test_a_frame_keeps_its_multiplicity_unless_others_are_asked_for(rattled):
    settings = {"water": StructureSettings(name="water", smiles="O")}
    (frame,) = rattled(1)
    assert [[f.info["multiplicity"] for f in s] for s in spin.states([frame], settings)] == [[1]]
    scan = {"water": StructureSettings(name="water", smiles="O", multiplicities=[1, 3])}
    ((singlet, triplet),) = spin.states([frame], scan)
    assert (singlet.info["multiplicity"], triplet.info["multiplicity"]) == (1, 3)
    assert singlet.info["key"] == structure_key(frame) != triplet.info["key"]


def test_the_lowest_state_of_oxygen_is_its_triplet():
    """By experiment 0.98 eV under the singlet; spin-polarised GFN2-xTB has the order."""
    settings = StructureSettings(**OXYGEN, multiplicities=[1, 3, 5])
    states = spin.states([start_structure(settings)], {"O2": settings})[0]
    for state in states:
        calculator = Calculator(
            "GFN2-xTB",
            state.numbers,
            state.positions / Bohr,
            uhf=state.info["multiplicity"] - 1,
        )
        calculator.add("spin-polarization", 1.0)
        calculator.set("verbosity", 0)
        result = calculator.singlepoint()
        state.info |= {"status": "ok", "energy": result.get("energy") * Hartree, "paid": 2.0}
        state.arrays["forces"] = -result.get("gradient") * Hartree / Bohr
    chosen = spin.lowest(states)
    assert chosen.info["multiplicity"] == 3
    assert chosen.info["energy"] == min(state.info["energy"] for state in states)
    np.testing.assert_array_equal(chosen.arrays["forces"], states[1].arrays["forces"])
    assert chosen.info["paid"] == 6.0


def test_a_state_without_a_label_might_be_the_lowest(rattled):
    states = rattled(3)
    for number, state in enumerate(states):
        state.info |= {"multiplicity": 2 * number + 1, "status": "ok", "energy": -1.0, "paid": 1.0}
    states[1].info |= {"status": "unconverged", "message": "no luck"}
    del states[1].info["energy"]
    chosen = spin.lowest(states)
    assert chosen.info["status"] == "unconverged"
    assert chosen.info["message"].startswith("multiplicity 3 of 1, 3, 5")
    assert "energy" not in chosen.info
    states[2].info |= {"status": NOT_COMPUTED, "message": "budget"}
    assert spin.lowest(states).info["status"] == NOT_COMPUTED


@pytest.mark.parametrize(
    ("scan", "words"),
    [([1, 5], "multiplicity` = 3"), ([3, 3], "different ones"), ([], None), ([1, 3], None)],
)
def test_what_is_scanned_has_the_structures_own_among_it(scan, words):
    if words is None:
        StructureSettings(**OXYGEN, multiplicities=scan)
    else:
        with pytest.raises(ValueError, match=words):
            StructureSettings(**OXYGEN, multiplicities=scan)


def test_an_impossible_spin_is_refused_before_the_first_job():
    settings = StructureSettings(**OXYGEN, multiplicities=[2, 3])
    with pytest.raises(InputError, match=r"multiplicities = 2.*16 electrons.*odd multiplicity"):
        start_structure(settings)
