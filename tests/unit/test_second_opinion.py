"""A second Hamiltonian's opinion of random frames: learned, judged, refused where it is none."""

import numpy as np
import pytest
from ase import Atoms
from test_audit import GOALS, even, frame
from test_batched_mace import random_model

from halcyon.config import (
    AseReference,
    AuditSettings,
    Cp2kReference,
    DatasetReference,
    Settings,
    XtbReference,
)
from halcyon.errors import InputError, Interrupted
from halcyon.exploration.opinions import judge_random_frames
from halcyon.exploration.reservoir import audit_frames, in_turn
from halcyon.frames import read_frames, write_frames
from halcyon.labels.labelling import Labeller
from halcyon.labels.reference.xtb import Xtb
from halcyon.labels.second_opinion import ForceDifference, refuse_unfit, second_hamiltonian
from halcyon.labels.store import LabelStore
from halcyon.models import mace
from halcyon.verdict.audit import assess_audit, missed
from halcyon.verdict.forms import Audit, AuditFinding, Foretold
from halcyon.verdict.signal_reports import signal_reports


def forces_of(hamiltonian, frames, tmp_path):
    return [record.forces for record in hamiltonian.label(frames, tmp_path, 1)]


@pytest.fixture
def labelled(rattled, tmp_path):
    """Frames with forces of GFN2-xTB."""
    frames = rattled(40)
    reference = Xtb(XtbReference(backend="xtb"))
    for atoms, forces in zip(frames, forces_of(reference, frames, tmp_path), strict=True):
        atoms.info |= {"status": "ok", "split": "train"}
        atoms.arrays["forces"] = forces
    return frames


def labeller(tmp_path, reference=None, **options):
    reference = reference or second_hamiltonian("gfn1")
    return Labeller(
        reference=reference,
        store=LabelStore(tmp_path / "labels", reference.level),
        work=tmp_path / "work",
        cores=1,
        provenance={"campaign": "trial", "system": "water"},
        **{"systemic": False} | options,
    )


@pytest.fixture
def reservoir(rattled):
    frames = rattled(70)[40:]
    for number, atoms in enumerate(frames):
        atoms.info |= {"replica": number % 4, "temperature": 500.0, "time": 0.01 * number}
        atoms.info["draw"] = ((7 * number) % 30) / 30
    return frames


# What is learned.


def test_the_difference_of_two_hamiltonians_is_learned(labelled, tmp_path):
    second = forces_of(second_hamiltonian("gfn1"), labelled, tmp_path)
    difference = ForceDifference.learn(labelled[:25], second[:25])
    raw, left = [], []
    for atoms, forces in zip(labelled[25:], second[25:], strict=True):
        raw.append(np.abs(forces - atoms.arrays["forces"]).mean())
        left.append(np.abs(difference.corrected(atoms, forces) - atoms.arrays["forces"]).mean())
    assert np.mean(left) < 0.5 * np.mean(raw)


def test_a_pair_force_and_a_factor_are_found_exactly():
    """Between oxygen and hydrogen acts 0.7 exp(-((r - 1.1)/0.3)²) eV/Å more, on both as much."""
    random = np.random.default_rng(2)
    frames, second = [], []
    for _ in range(30):
        atoms = Atoms("OH", positions=[[0, 0, 0], random.normal(size=3)])
        away = atoms.positions[1] / (distance := np.linalg.norm(atoms.positions[1]))
        pair = 0.7 * np.exp(-(((distance - 1.1) / 0.3) ** 2)) * away
        forces = random.normal(size=(2, 3))
        atoms.arrays["forces"] = 1.2 * forces + np.array([-pair, pair])
        frames.append(atoms)
        second.append(forces)
    difference = ForceDifference.learn(frames, second)
    for atoms, forces in zip(frames, second, strict=True):
        expected = atoms.arrays["forces"]
        assert difference.corrected(atoms, forces) == pytest.approx(expected, abs=0.02)


def test_a_turned_or_shifted_frame_has_turned_forces(labelled, tmp_path):
    second = forces_of(second_hamiltonian("gfn1"), labelled, tmp_path)
    difference = ForceDifference.learn(labelled, second)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = labelled[0].copy()
    turned.positions = turned.positions @ turn.T + 5.0
    expected = difference.corrected(labelled[0], second[0]) @ turn.T
    assert difference.corrected(turned, second[0] @ turn.T) == pytest.approx(expected)


def test_neighbours_across_a_periodic_boundary_count(labelled, tmp_path):
    second = forces_of(second_hamiltonian("gfn1"), labelled, tmp_path)
    difference = ForceDifference.learn(labelled, second)
    whole = labelled[0].copy()
    whole.cell, whole.pbc = [9.0, 9.0, 9.0], True
    wrapped = whole.copy()
    wrapped.positions += whole.cell.sum(axis=0) / 2 - whole.positions[0]
    wrapped.positions -= [4.4, 4.4, 4.4]
    wrapped.wrap()
    assert np.ptp(wrapped.positions, axis=0).max() > 5, "the molecule is cut"
    expected = difference.corrected(whole, second[0])
    assert difference.corrected(wrapped, second[0]) == pytest.approx(expected)


def test_elements_that_no_label_has_are_left_as_they_are(labelled, tmp_path):
    second = forces_of(second_hamiltonian("gfn1"), labelled, tmp_path)
    difference = ForceDifference.learn(labelled, second)
    nitrogen = Atoms("N2", positions=[[0, 0, 0], [1.1, 0, 0]])
    forces = np.ones((2, 3))
    assert difference.corrected(nitrogen, forces) == pytest.approx(forces)
    assert ForceDifference.learn([], []).corrected(nitrogen, forces) == pytest.approx(forces)


# What is judged.


def test_random_frames_get_the_models_forces_and_what_is_expected_of_the_reference(
    reservoir, labelled, tmp_path
):
    model = random_model()
    judged = judge_random_frames(
        reservoir, labelled, model, labeller(tmp_path), method="gfn1", number=20
    )
    write_frames(tmp_path / "second_opinion.parquet", judged)
    judged = read_frames(tmp_path / "second_opinion.parquet")
    expected = [f.info["draw"] for f in in_turn(reservoir)[0]][:20]
    assert [f.info["draw"] for f in judged] == expected
    assert {f.info["second_opinion"] for f in judged} == {"gfn1"}
    reference = forces_of(Xtb(XtbReference(backend="xtb")), judged, tmp_path)
    predicted = mace.evaluate(model, judged).forces
    for atoms, true, of_model in zip(judged, reference, predicted, strict=True):
        assert atoms.arrays["model_forces"] == pytest.approx(of_model, abs=1e-5)
        assert np.abs(atoms.arrays["second_forces"] - true).mean() < 0.1
        assert "forces" not in atoms.arrays, "it is no label"
    stored = LabelStore(tmp_path / "labels", second_hamiltonian("gfn1").level)
    assert len(stored.find([f.info["key"] for f in judged])) == 20, "nor paid for twice"


def test_frames_that_do_not_converge_are_kept_and_counted(reservoir, labelled, tmp_path):
    hopeless = Xtb(XtbReference(backend="xtb", method="GFN1-xTB", max_iterations=1))
    judged = judge_random_frames(
        reservoir,
        labelled,
        random_model(),
        labeller(tmp_path, hopeless),
        method="gfn1",
        number=20,
    )
    assert [f.info["status"] for f in judged] == ["unconverged"] * 20
    assert all("second_forces" not in f.arrays and f.info["message"] for f in judged)


def test_stopped_in_between_it_goes_on_to_the_same(reservoir, labelled, tmp_path):
    model = random_model()
    looks = iter([False] * 30 + [True] * 9)
    with pytest.raises(Interrupted):
        judge_random_frames(
            reservoir,
            labelled,
            model,
            labeller(tmp_path / "stopped", stop=lambda: next(looks)),
            method="gfn1",
            number=20,
        )
    calculated = []

    class Counting(Xtb):
        def label(self, frames, work, cores):
            calculated.extend(frames)
            return super().label(frames, work, cores)

    counting = Counting(XtbReference(backend="xtb", method="GFN1-xTB", accuracy=1.0))
    both = [
        judge_random_frames(reservoir, labelled, model, of, method="gfn1", number=20)
        for of in (labeller(tmp_path / "stopped", counting), labeller(tmp_path / "undisturbed"))
    ]
    assert len(calculated) == 29, "60 frames, of which 31 were computed before it stopped"
    for stopped, undisturbed in zip(*both, strict=True):
        assert np.array_equal(stopped.arrays["second_forces"], undisturbed.arrays["second_forces"])


def test_the_audit_s_frames_are_among_those_that_are_judged(reservoir, labelled, tmp_path):
    judged = judge_random_frames(
        reservoir, labelled[:5], random_model(), labeller(tmp_path), method="gfn1", number=6
    )
    assert len(judged) == 6
    audit = audit_frames(reservoir, 5, limit=100)
    assert {f.info["draw"] for f in audit} < {f.info["draw"] for f in judged}


# What the audit makes of it.


def audited(error, *, frames=12, others=100, replicas=4, off=0.0, seed=1):
    """Audit frames of two atoms with errors around `error`, eV/Å, and what is predicted of all.

    The error of a frame is drawn evenly from half to one and a half times; `off` is how far the
    second opinion is from the reference, eV/Å.
    """
    random = np.random.default_rng(seed)
    labelled, opinions = [], []
    for number in range(frames + others):
        wrong = error * random.uniform(0.5, 1.5)
        atoms = frame([wrong] * 2, replica=number % replicas, draw=number / 1000)
        opinion = atoms.copy()
        opinion.info = {k: v for k, v in atoms.info.items() if k not in ("energy", "status")}
        opinion.info["second_opinion"] = "gfn1"
        opinion.arrays["second_forces"] = opinion.arrays.pop("forces") + off
        opinions.append(opinion)
        if number < frames:
            labelled.append(atoms)
    return labelled, opinions


def part_of(labelled, opinions, accuracy=GOALS):
    (part,) = assess_audit(labelled, accuracy, confidence=0.95, opinions=opinions).parts
    return part


def test_the_verdict_takes_the_powered_bound_and_says_so():
    labelled, opinions = audited(0.112, seed=2)  # 37 meV/Å of a component
    audit = assess_audit(labelled, GOALS, confidence=0.95, opinions=opinions)
    (part,) = audit.parts
    plain, second = part.forces_mae_meV_per_A, part.second_opinion
    assert plain.high > 43 > second.forces_mae_meV_per_A.high
    assert audit.finding is AuditFinding.PASSED
    assert audit.second_opinion == "gfn1"
    assert part.judged_forces_mae == second.forces_mae_meV_per_A
    assert "by a second opinion on 112 frames (without it " in part.reason
    assert assess_audit(labelled, GOALS, confidence=0.95).finding is AuditFinding.MISSED
    assert Audit.model_validate_json(audit.model_dump_json()) == audit


def test_without_a_second_opinion_nothing_changes():
    labelled, _ = audited(0.105)
    audit = assess_audit(labelled, GOALS, confidence=0.95)
    assert (audit.second_opinion, audit.parts[0].second_opinion) == ("none", None)
    assert audit.parts[0].judged_forces_mae == audit.parts[0].forces_mae_meV_per_A
    assert "opinion" not in audit.reason


def foretold_by_index(opinions, **changes):
    """What the index expects: what the second opinions of `audited` foretell."""
    return [
        Foretold(
            structure=opinion.info["structure"],
            temperature_K=opinion.info["temperature"],
            replica=opinion.info["replica"],
            draw=opinion.info["draw"],
            forces_mae_eV_per_A=float(
                np.abs(opinion.arrays["model_forces"] - opinion.arrays["second_forces"]).mean()
            ),
        ).model_copy(update=changes)
        for opinion in opinions
    ]


def test_the_index_powers_the_audit_as_a_second_opinion_does():
    labelled, opinions = audited(0.112, seed=2)
    by_index = assess_audit(labelled, GOALS, confidence=0.95, foretold=foretold_by_index(opinions))
    (part,), second = by_index.parts, part_of(labelled, opinions).second_opinion
    assert by_index.second_opinion == "index"
    assert by_index.finding is AuditFinding.PASSED
    assert part.second_opinion.forces_mae_meV_per_A == second.forces_mae_meV_per_A
    assert part.second_opinion.difference_meV_per_A is None
    assert "by the index's expectation of 112 frames (without it " in part.reason
    assert missed(labelled, Settings(saturation={"confidence": 0.9}))
    assert not missed(
        labelled, Settings(saturation={"confidence": 0.9}), foretold=foretold_by_index(opinions)
    )


def test_a_second_hamiltonian_has_precedence():
    labelled, opinions = audited(0.112, seed=2)
    foretold = foretold_by_index(opinions, forces_mae_eV_per_A=0.04)
    both = assess_audit(labelled, GOALS, confidence=0.95, opinions=opinions, foretold=foretold)
    assert both == assess_audit(labelled, GOALS, confidence=0.95, opinions=opinions)


def test_an_expectation_far_over_all_others_is_cut():
    labelled, opinions = audited(0.1)
    foretold = foretold_by_index(opinions)
    middle = float(np.median([each.forces_mae_eV_per_A for each in foretold]))

    def upper_end(error):
        changed = [*foretold[:-1], foretold[-1].model_copy(update={"forces_mae_eV_per_A": error})]
        audit = assess_audit(labelled, GOALS, confidence=0.95, foretold=changed)
        return audit.parts[0].second_opinion.forces_mae_meV_per_A.high

    assert upper_end(1e3) == pytest.approx(upper_end(10 * middle), rel=1e-2)
    assert upper_end(10 * middle) > upper_end(middle)


def test_expectations_that_are_not_finite_are_counted():
    labelled, opinions = audited(0.1)
    foretold = foretold_by_index(opinions)
    for i in range(0, len(foretold), 10):
        foretold[i] = foretold[i].model_copy(update={"forces_mae_eV_per_A": None})
    audit = assess_audit(labelled, GOALS, confidence=0.95, foretold=foretold)
    assert audit.parts[0].second_opinion.failed == 12
    assert audit.parts[0].second_opinion.forces_mae_meV_per_A is not None
    none = foretold_by_index(opinions, forces_mae_eV_per_A=None)
    part = assess_audit(labelled, GOALS, confidence=0.95, foretold=none).parts[0]
    assert part.judged_forces_mae == part.forces_mae_meV_per_A
    assert "the index's expectation does not count: it has no finite" in part.reason


def test_it_says_how_far_the_second_opinion_is_from_the_reference():
    labelled, opinions = audited(0.1, off=0.02)
    second = part_of(labelled, opinions).second_opinion
    assert second.difference_meV_per_A == pytest.approx(20.0)
    assert 0 <= second.factor <= 1


def test_frames_without_its_forces_are_counted_and_stay():
    labelled, opinions = audited(0.1)
    before = part_of(labelled, opinions).second_opinion
    for opinion in opinions[::10]:
        del opinion.arrays["second_forces"]
    second = part_of(labelled, opinions).second_opinion
    assert (second.frames, second.failed) == (112, 12)
    assert second.forces_mae_meV_per_A.high > before.forces_mae_meV_per_A.high
    for opinion in opinions[: len(opinions) // 2]:
        opinion.arrays.pop("second_forces", None)
    part = part_of(labelled, opinions)
    assert part.second_opinion.forces_mae_meV_per_A is None
    assert part.judged_forces_mae == part.forces_mae_meV_per_A
    assert "no forces of " in part.reason
    assert "the second opinion does not count" in part.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda opinions: opinions[12:], "not all audit frames"),
        (lambda opinions: opinions[:20], "judged 8 more frames, expected at least 12"),
    ],
)
def test_too_few_judged_frames_do_not_count(change, words):
    labelled, opinions = audited(0.1)
    part = part_of(labelled, change(opinions))
    assert words in part.second_opinion.reason
    assert part.judged_forces_mae == part.forces_mae_meV_per_A


def test_only_opinions_of_the_same_temperature_count():
    labelled, opinions = audited(0.1)
    for opinion in opinions:
        opinion.info["temperature"] = 900.0
    assert part_of(labelled, opinions).second_opinion is None


def test_whether_the_last_audit_missed_is_judged_as_its_verdict_was():
    labelled, opinions = audited(0.112, seed=2)
    settings = Settings(saturation={"confidence": 0.9})
    assert missed(labelled, settings)
    assert not missed(labelled, settings, opinions)


def test_it_is_reported_like_a_signal():
    labelled, opinions = audited(0.3, others=1)
    for atoms, opinion in zip(labelled[::2], opinions[::2], strict=False):
        atoms.arrays["forces"][0] = opinion.arrays["second_forces"][0] = -5.0
    made = signal_reports(labelled, {}, tolerance_eV_per_A=0.9, deciding="error", opinions=opinions)
    assert [report.name for report in made] == ["second_opinion"]
    assert (made[0].bad_atoms, made[0].atoms, made[0].decides) == (6, 24, False)
    assert made[0].auroc.value == made[0].flagged.value == 1.0
    assert signal_reports(labelled, {}, tolerance_eV_per_A=0.9, deciding="error") == []
    # Frames without a draw have none.
    assert (
        signal_reports(even(), {}, tolerance_eV_per_A=0.9, deciding="error", opinions=opinions)
        == []
    )


# What is refused.

XTB_OF_CP2K = {"input": {"+FORCE_EVAL": [{"+DFT": {"+QS": {"METHOD": "xTB"}}}]}}


@pytest.mark.parametrize(
    ("method", "reference", "level", "words"),
    [
        ("gfn2", XtbReference(backend="xtb"), {}, "the reference is GFN2-xTB itself"),
        (
            "gfn2",
            AseReference(backend="ase", calculator="tblite.ase.TBLite"),
            {},
            "GFN2-xTB itself",
        ),
        (
            "gfn1",
            AseReference(
                backend="ase",
                calculator="tblite.ase.TBLite",
                arguments={"method": "GFN1-xTB"},
            ),
            {},
            r"expected another Hamiltonian \(gfn2\)",
        ),
        ("gfn1", Cp2kReference(backend="cp2k", level="x.yaml"), XTB_OF_CP2K, "GFN1-xTB itself"),
        ("gfn1", DatasetReference(backend="dataset", files=["x.xyz"]), {}, "published frames"),
    ],
)
def test_no_second_opinion_is_refused(water, method, reference, level, words):
    with pytest.raises(InputError, match=rf"audit.second_opinion = {method}: .*{words}"):
        refuse_unfit(method, reference, level, [water])


def test_another_hamiltonian_than_the_references_may_judge(water):
    refuse_unfit("gfn1", XtbReference(backend="xtb"), {}, [water])
    dft = {"input": {"+FORCE_EVAL": [{"+DFT": {"+QS": {"METHOD": "GPW"}}}]}}
    refuse_unfit("gfn1", Cp2kReference(backend="cp2k", level="x.yaml"), dft, [water])
    lj = AseReference(backend="ase", calculator="ase.calculators.lj.LennardJones")
    refuse_unfit("gfn2", lj, {}, [water])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda atoms: atoms.set_atomic_numbers([88, 1, 1]), "element Ra: GFN1-xTB has parameters"),
        (lambda atoms: atoms.info.update(charge=1), "impossible with 9 electrons"),
        (lambda atoms: atoms.info.update(multiplicity=2), "impossible with 10 electrons"),
        (lambda atoms: atoms.set_pbc([True, True, False]), "pbc = "),
    ],
)
def test_systems_that_tblite_cannot_compute_are_refused(water, change, words):
    atoms = water.copy()
    atoms.info = dict(water.info)
    change(atoms)
    with pytest.raises(
        InputError, match=f"audit.second_opinion = gfn1: structure water: .*{words}"
    ):
        refuse_unfit("gfn1", XtbReference(backend="xtb"), {}, [atoms])


def test_an_unknown_hamiltonian_is_no_setting():
    with pytest.raises(ValueError, match="'none', 'gfn1' or 'gfn2'"):
        AuditSettings(second_opinion="pm7")
