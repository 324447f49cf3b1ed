import numpy as np
import pytest
from ase.units import Bohr, Hartree
from tblite.interface import Calculator

from halcyon.config import AseReference, SanitySettings, StructureSettings, XtbReference
from halcyon.errors import InputError
from halcyon.frames import structure_key
from halcyon.labels import spin
from halcyon.labels.job import LabelJob
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.labels.reference.ase import AseCalculator
from halcyon.labels.reference.xtb import Xtb
from halcyon.labels.store import LabelStore
from halcyon.labels.systemic import SystemicFailure
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


@pytest.mark.parametrize(
    ("multiplicity", "spins"), [(1, [1, 3]), (2, [2, 4]), (3, [1, 3]), (4, [2, 4]), (5, [1, 3, 5])]
)
def test_spins_of_a_reaction_pair_and_part_electrons(multiplicity, spins):
    assert spin.likely_spins(multiplicity) == spins


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


class Blind(AseCalculator):
    """A reference that takes no notice of the multiplicity, as many calculators do."""

    def __init__(self):
        super().__init__(
            AseReference(
                backend="ase",
                calculator="tblite.ase.TBLite",
                arguments={"multiplicity": 1, "verbosity": 0},
            )
        )


def test_equal_energies_of_two_spins_are_no_two_labels(tmp_path):
    oxygen = StructureSettings(**OXYGEN, multiplicities=[1, 3])
    frames = [start_structure(oxygen) for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.set_distance(0, 1, 1.2 + 0.05 * number)

    def labelled(reference, frames):
        job = LabelJob(
            structures={"O2": oxygen},
            sanity=SanitySettings(),
            temperature_K=300.0,
            work=tmp_path / type(reference).__name__,
            provenance={"campaign": "c", "system": "O2"},
        )
        store = LabelStore(tmp_path / "labels", reference.level)
        return job.label(frames, reference, store, cores=1).frames

    words = "multiplicities 1 and 3 have the same energy"
    (alone,) = labelled(Blind(), frames[:1])
    assert (alone.info["status"], words in alone.info["message"]) == ("rejected", True)
    assert "forces" not in alone.arrays
    with pytest.raises(SystemicFailure, match=f"all 3 frames: {words}.*takes no notice"):
        labelled(Blind(), frames)
    seeing = Xtb(XtbReference(backend="xtb", spin_polarized=True))
    assert [frame.info["multiplicity"] for frame in labelled(seeing, frames)] == [3, 3, 3]
    assert {frame.info["status"] for frame in labelled(seeing, frames)} == {"ok"}


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
