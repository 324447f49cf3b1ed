"""Free atoms: their labels, and the energies of elements in the model that come of them."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.units import Hartree
from tblite.interface import Calculator
from test_mace_model import ELEMENTS, FIT, fit, springs

from halcyon import config
from halcyon.campaign import work
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.campaign.checks import check_numbers
from halcyon.config import SanitySettings, StructureSettings, XtbReference
from halcyon.errors import InputError
from halcyon.frames import write_frames
from halcyon.labels.free_atoms import SPLIT, energies, free_atoms
from halcyon.labels.job import LabelJob
from halcyon.labels.labelling import gather
from halcyon.labels.reference.xtb import Xtb
from halcyon.labels.store import LabelStore
from halcyon.models import energy_zero, mace, training

KNOWN = {1: -13.0, 6: -1030.0, 8: -2040.0}
SYSTEM = {
    "name": "thing",
    "kind": "reactive",
    "forcefield": {"kind": "forcefield_xml", "files": ["x.xml"]},
    "structures": [{"name": "peroxide", "smiles": "OO"}],
}


def test_spins_are_those_of_hunds_rules():
    """2S+1 of the ground states in NIST's tables: ²S, ¹S, ³P, ⁴S, ³P, ⁵D, ⁷S, ¹G, ²P."""
    frames = free_atoms([1, 2, 6, 7, 8, 26, 24, 58, 103])
    assert [f.info["multiplicity"] for f in frames] == [2, 1, 3, 4, 3, 5, 7, 1, 2]
    assert {tuple(f.pbc) for f in frames} == {(False, False, False)}
    assert len({f.info["key"] for f in frames}) == len(frames)


def test_they_are_labelled_once_each_and_kept_apart_from_what_is_learned(tmp_path):
    reference = Xtb(XtbReference(backend="xtb", method="GFN1-xTB", spin_polarized=True))
    hydrogen = StructureSettings(name="H2", smiles="[H][H]", multiplicities=[1, 3])
    frame = molecule("H2")
    frame.info |= {"structure": "H2", "charge": 0, "multiplicity": 1, "split": "train"}
    job = LabelJob(
        structures={"H2": hydrogen},
        sanity=SanitySettings(),
        temperature_K=300.0,
        work=tmp_path / "work",
        check_forces=True,
        provenance={"campaign": "c", "system": "s"},
    )
    store = LabelStore(tmp_path / "labels", reference.level)
    labelled = job.label([*free_atoms([1, 8]), frame], reference, store, cores=1)
    assert [slope.structure for slope in labelled.slopes] == ["H2"]
    alone = job.label(free_atoms([1, 8]), reference, store, cores=1)
    assert alone.slopes == [], "an atom alone has no slope"
    write_frames(tmp_path / "000.parquet", labelled.frames)
    sets = gather([tmp_path / "000.parquet"])
    assert [len(sets[name]) for name in ("train", "validation", "test", "bad", SPLIT)] == [
        1,
        0,
        0,
        0,
        2,
    ]
    expected = {}
    for number, unpaired in ((1, 1), (8, 2)):
        calculator = Calculator("GFN1-xTB", np.array([number]), np.zeros((1, 3)), uhf=unpaired)
        calculator.add("spin-polarization", 1.0)
        calculator.set("verbosity", 0)
        expected[number] = calculator.singlepoint().get("energy") * Hartree
    assert energies(sets[SPLIT]) == pytest.approx(expected, abs=1e-5)


def test_an_atom_without_a_label_leaves_its_element_to_the_fit():
    hydrogen, oxygen = free_atoms([1, 8])
    hydrogen.info |= {"status": "ok", "energy": -12.0}
    oxygen.info |= {"status": "unconverged"}
    known = energies([hydrogen, oxygen])
    assert known == {1: -12.0}
    frames = [molecule("H2O"), molecule("H2O2")]
    for frame, energy in zip(frames, (-2070.0, -4112.0), strict=True):
        frame.info["energy"] = energy
    # One unknown, two equations for energies per atom: x/3 = (-2070 + 24)/3 and x/2 = (-4112 +
    # 24)/4, both weighed alike: x = (682·(1/3) + 1022·(1/2)) / (1/9 + 1/4), by hand.
    least_squares = -(682 / 3 + 1022 / 2) / (1 / 9 + 1 / 4)
    assert energy_zero.fit_e0s(frames, known) == {
        1: -12.0,
        8: pytest.approx(least_squares, abs=1e-3),
    }
    assert energy_zero.fit_e0s(frames, KNOWN) == KNOWN


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_a_model_gives_a_free_atom_its_energy_and_learns_the_rest(tmp_path, fine_tuned):
    frames = springs("CH3OH", 12, energy_zero=sum_of(KNOWN, "CH3OH") - 3.0, seed=1)
    start = {}
    if fine_tuned:
        taught = springs("CH3OH", 12, energy_zero=1.0, seed=2)
        fit(tmp_path, taught[:9], taught[9:], name="start.model")
        start = {"start": tmp_path / "start.model"}
    longer = FIT.model_copy(update={"epochs": 40})
    summary = fit(tmp_path, frames[:9], frames[9:], fit=longer, known_e0s=KNOWN, **start)
    assert summary.e0s == KNOWN
    alone = [Atoms(numbers=[z], positions=[[0, 0, 0]]) for z in ELEMENTS]
    predicted = mace.evaluate(tmp_path / "m.model", alone).energy
    np.testing.assert_allclose(predicted, list(KNOWN.values()), atol=1e-4)
    bound = mace.evaluate(tmp_path / "m.model", frames[9:]).energy - sum_of(KNOWN, "CH3OH")
    assert np.mean(bound) == pytest.approx(-3.0, abs=1.5), "learned, since no zero was moved"
    plain = fit(tmp_path, frames[:9], frames[9:], name="plain.model", **start)
    assert abs(plain.e0s[1] - KNOWN[1]) > 1


def sum_of(e0s, name):
    return sum(e0s[z] for z in molecule(name).numbers)


def test_replayed_frames_ask_for_the_energies_that_the_labels_ask_for(tmp_path):
    taught = springs("CH3OH", 12, energy_zero=1.0, seed=2)
    fit(tmp_path, taught[:9], taught[9:], name="start.model")
    model = mace.load(tmp_path / "start.model", device="cpu")
    labelled = [frame.copy() for frame in taught]
    for frame, source in zip(labelled, taught, strict=True):
        frame.info = dict(source.info) | {"energy": source.info["energy"] - 2500.0}
    zero = training._replay_zero(model, taught, labelled, KNOWN)
    # The same frames, labelled by two methods that differ by a constant: no difference is left.
    replayed = taught[0].info["energy"] - sum_of(zero, "CH3OH")
    learned = labelled[0].info["energy"] - sum_of(KNOWN, "CH3OH")
    assert replayed == pytest.approx(learned, abs=1e-3)


def test_reactive_systems_label_their_elements_atoms():
    def plan(kind="reactive", asked=None, **more):
        settings = config.Campaign(
            campaign="it",
            systems=["thing"],
            reference={"backend": "xtb"},
            seed_labels={} if asked is None else {"free_atoms": asked},
        )
        return SystemPlan(config.System(**(SYSTEM | {"kind": kind})), settings, **more)

    reactive, plain = plan(), plan("molecule")
    assert (reactive.free_atoms, plain.free_atoms) == ([1, 8], [])
    assert plan("molecule", asked=True).free_atoms == [1, 8]
    assert plan(asked=False).free_atoms == plan(labels_atoms=False).free_atoms == []
    assert reactive.seed_labels == plain.seed_labels + 2
    assert work.calculations(reactive, None) == work.calculations(plain, None) + 2
    assert work.learned_frames(reactive, 2) == work.learned_frames(plain, 2)
    with pytest.raises(InputError, match=r"it.yaml: seed_labels.free_atoms = true: system thing"):
        check_numbers(plan(asked=True, labels_atoms=False), "it.yaml")


@pytest.mark.parametrize(
    ("reference", "possible"),
    [
        ({"backend": "xtb"}, True),
        ({"backend": "cp2k", "level": "x.yaml"}, True),
        ({"backend": "cp2k", "level": "x.yaml", "k_spacing_per_A": 0.4}, False),
        ({"backend": "dataset", "files": ["x.npz"]}, False),
    ],
)
def test_which_references_can_label_an_atom(reference, possible):
    content = {"campaign": "it", "systems": ["methanol"], "reference": reference}
    plan = Campaign.resolve(content, "it.yaml").systems["methanol"]
    assert plan.labels_atoms == possible
    assert replace(plan, system=config.System(**SYSTEM)).free_atoms == ([1, 8] if possible else [])
