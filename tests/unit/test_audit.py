"""The audit's errors against numbers worked out by hand, and its intervals against simulations."""

import numpy as np
import pytest
from ase import Atoms, units

from halcyon.config import AccuracySettings, Settings
from halcyon.verdict.audit import assess_audit, audit_of, missed
from halcyon.verdict.between_replicas import mean_interval
from halcyon.verdict.estimates import Outcome
from halcyon.verdict.forms import AuditFinding, SelectionSummary
from halcyon.verdict.signal_reports import signal_reports

GOALS = AccuracySettings(forces_mae_meV_per_A=43.0, energy_mae_meV_per_atom=5.0)


def frame(force_errors, energy_error=0.0, *, replica=0, status="ok", **changes):
    """A frame of N atoms whose forces are wrong by so much, eV/Å, along x."""
    force_errors = np.asarray(force_errors, dtype=float)
    atoms = Atoms(f"H{len(force_errors)}")
    atoms.info = {
        "role": "audit",
        "generation": 2,
        "structure": "water",
        "temperature": 500.0,
        "replica": replica,
        "status": status,
        "model_energy": 3.0 + energy_error,
    } | changes
    atoms.arrays["model_forces"] = np.ones((len(force_errors), 3))
    if status == "ok":
        atoms.info["energy"] = 3.0
        atoms.arrays["forces"] = np.ones((len(force_errors), 3))
        atoms.arrays["forces"][:, 0] -= force_errors
    return atoms


def even(error=0.06, *, replicas=4, each=3, **changes):
    """Frames of two atoms whose errors hardly differ: component MAE is a third of the error."""
    return [
        frame([error * (1 + 0.01 * i)] * 2, 0.002 * (-1) ** i, replica=r, **changes)
        for r in range(replicas)
        for i in range(each)
    ]


def test_errors_are_those_worked_out_by_hand():
    frames = even(error=0.06, each=2)
    (part,) = assess_audit(frames, GOALS, confidence=0.95).parts
    assert (part.frames, part.bad, part.replicas) == (8, 0, 4)
    mean = 60.3  # meV/Å, of 60 and 60.6
    assert part.forces_mae_meV_per_A.value == pytest.approx(mean / 3)
    square = (60**2 + 60.6**2) / 2
    assert part.forces_rmse_meV_per_A.value == pytest.approx(np.sqrt(square / 3))
    assert part.atom_error_q95_eV_per_A.value == pytest.approx(0.0606)
    # ±1 meV/atom about a mean of 0, of eight frames.
    assert part.energy_mae_meV_per_atom.value == pytest.approx(1.0 * np.sqrt(8 / 7))
    assert part.finding is AuditFinding.PASSED


def test_a_constant_offset_of_energies_is_no_error():
    frames = even()
    for one_of_them in frames:
        one_of_them.info["model_energy"] += 7.0
    (part,) = assess_audit(frames, GOALS, confidence=0.95).parts
    (before,) = assess_audit(even(), GOALS, confidence=0.95).parts
    assert part.energy_mae_meV_per_atom.value == pytest.approx(before.energy_mae_meV_per_atom.value)


def test_the_upper_bound_decides_and_not_the_value():
    frames = [frame([0.12 * (1 + 0.4 * (-1) ** r)] * 2, replica=r) for r in range(6)]
    audit = assess_audit(frames, GOALS, confidence=0.95)
    interval = audit.parts[0].forces_mae_meV_per_A
    assert interval.value == pytest.approx(40.0)
    assert interval.low < 40
    assert interval.high > 43
    assert audit.finding is AuditFinding.MISSED
    assert "over 43" in audit.reason


def test_an_energy_goal_alone_can_be_missed():
    frames = [frame([0.01] * 2, 0.05 * (-1) ** r, replica=r) for r in range(8)]
    assert assess_audit(frames, GOALS, confidence=0.95).finding is AuditFinding.MISSED
    no_energy = GOALS.model_copy(update={"energy_mae_meV_per_atom": None})
    assert assess_audit(frames, no_energy, confidence=0.95).finding is AuditFinding.PASSED


def test_accuracy_that_was_not_asked_for_is_measured_and_not_judged():
    nothing = AccuracySettings(forces_mae_meV_per_A=None, energy_mae_meV_per_atom=None)
    audit = assess_audit(even(5.0), nothing, confidence=0.95)
    assert audit.finding is AuditFinding.NOT_ASKED
    assert audit.parts[0].forces_mae_meV_per_A.value > 1000


@pytest.mark.parametrize(
    ("frames", "word"),
    [
        ([], "no audit frame"),
        (even(replicas=1, each=9), "9 labelled frames of 1 replica"),
        (even(replicas=4, each=1), "4 labelled frames of 4 replicas"),
        (even(replicas=3, each=2) + even(replicas=4, each=1, status="unconverged"), "4 of 10"),
    ],
)
def test_with_too_little_nothing_is_said(frames, word):
    audit = assess_audit(frames, GOALS, confidence=0.95)
    assert audit.finding is AuditFinding.NOT_ENOUGH_DATA
    assert word in audit.reason


def test_failed_labels_are_counted_and_those_never_computed_are_not():
    frames = even() + even(replicas=2, each=1, status="crashed")
    frames += even(replicas=3, each=1, status="not computed")
    audit = assess_audit(frames, GOALS, confidence=0.95)
    assert (audit.parts[0].frames, audit.parts[0].bad) == (12, 2)
    assert audit.finding is AuditFinding.PASSED
    assert "2 without a label" in audit.reason


def test_the_worst_part_decides_and_is_named():
    hot = even(1.0, temperature=900.0)
    audit = assess_audit(even() + hot, GOALS, confidence=0.95)
    assert [p.finding for p in audit.parts] == [AuditFinding.PASSED, AuditFinding.MISSED]
    assert audit.finding is AuditFinding.MISSED
    assert audit.reason.startswith("water at 900 K: ")
    few = assess_audit(even() + hot[:3], GOALS, confidence=0.95)
    assert few.finding is AuditFinding.NOT_ENOUGH_DATA


def test_in_retrospect_the_reason_says_what_was_measured():
    reason = "audit, by a published neighbour: nearest in the set: 0.100 Å away"
    audit = assess_audit(even(reason=reason), GOALS, confidence=0.95)
    assert "published frames nearest" in audit.reason
    assert "published" not in assess_audit(even(), GOALS, confidence=0.95).reason


def test_only_the_audits_frames_of_the_generation_count():
    old = frame([9.0])
    del old.info["role"]
    frames = [frame([0.1]), frame([9.0], role="selected"), frame([9.0], generation=1), old]
    assert audit_of(frames, 2) == frames[:1]


def test_whether_the_last_audit_missed():
    assert missed(even(3.0), Settings())
    assert not missed(even(), Settings())
    assert not missed([], Settings()), "with too few frames nobody knows"


def test_values_of_equal_replicas_have_students_interval():
    """With one value for each of n replicas it is the textbook's interval of a mean, as logarithm.

    Mean 2, standard deviation 1 of five values: standard error 1/√5; t(0.95, 4) = 2.1318.
    """
    values = 2 + np.array([-1, 1, 0, -1, 1]) * np.sqrt(1.0)
    interval = mean_interval(values, np.arange(5), 0.95)
    factor = np.exp(2.1318467 * (1 / np.sqrt(5)) / 2)
    assert interval.high == pytest.approx(2 * factor)
    assert interval.low == pytest.approx(2 / factor)


def covered(method, *, replicas, between, confidence, runs=1500):
    """How often the upper end holds, for 10 lognormal errors (σ = 0.5) of a few replicas.

    Args:
        method: (values, replicas, confidence) → upper end.
        replicas: that frames are drawn from.
        between: part of the variance that is between replicas.
        confidence: asked for.
        runs: number of simulated audits.
    """
    random = np.random.default_rng(17)
    hits = []
    for _ in range(runs):
        of_frame = random.integers(0, replicas, 10)
        if len(set(of_frame.tolist())) < 2:
            continue
        shared = random.normal(0, 0.5 * np.sqrt(between), replicas)[of_frame]
        own = random.normal(0, 0.5 * np.sqrt(1 - between), 10)
        hits.append(method(np.exp(shared + own), of_frame, confidence) >= np.exp(0.125))
    return np.mean(hits)


@pytest.mark.parametrize("replicas", [2, 4, 8])
@pytest.mark.parametrize("between", [0.0, 0.5])
def test_the_upper_end_holds_about_as_often_as_asked(replicas, between):
    def upper(values, of_frame, confidence):
        return mean_interval(values, of_frame, confidence).high

    case = {"replicas": replicas, "between": between}
    assert 0.89 < covered(upper, confidence=0.95, **case) < 0.98
    assert covered(upper, confidence=0.99, **case) > 0.965


def test_resampling_replicas_would_be_too_narrow():
    """Why the interval is no percentile bootstrap."""

    def upper(values, of_frame, confidence):
        draws = np.random.default_rng(1).integers(0, 4, (200, 4))
        sums, numbers = (np.bincount(of_frame, w, minlength=4) for w in (values, None))
        means = sums[draws].sum(axis=1) / np.maximum(numbers[draws].sum(axis=1), 1)
        return np.quantile(means, confidence)

    assert covered(upper, replicas=4, between=0.5, confidence=0.95) < 0.87


def watched_frames(distance_of, *, frames=12, replicas=4, seed=3):
    """Frames of 20 atoms, a quarter of them bad, with distances made from (is bad, random)."""
    random = np.random.default_rng(seed)
    made = []
    for n in range(frames):
        bad = random.random(20) < 0.25
        atoms = frame(np.where(bad, 0.6, 0.1), replica=n % replicas)
        atoms.arrays["expected_error"] = np.where(bad, 0.5, 0.05)
        atoms.arrays["distance_latent"] = distance_of(bad, random)
        made.append(atoms)
    return made


def reports(frames):
    made = signal_reports(
        frames, {"latent": 1.0, "guard": 1.0}, tolerance_eV_per_A=0.3, deciding="error"
    )
    return {report.name: report for report in made}


def test_a_signal_that_sees_everything_and_one_that_guesses():
    both = reports(watched_frames(lambda _bad, random: random.random(20) + 0.5, seed=5))
    assert list(both) == ["error", "latent"]
    error, latent = both["error"], both["latent"]
    assert error.decides
    assert not latent.decides
    assert error.auroc.value == error.flagged.value == 1.0
    assert error.false_alarms.value == 0.0
    assert 0.6 < error.auroc.low < 1.0, "twelve frames prove no perfection"
    assert error.false_alarms.high > 0.1
    assert not error.blind
    assert latent.auroc.low < 0.5 < latent.auroc.high
    assert latent.blind
    assert error.atoms == latent.atoms == 240
    assert 30 < error.bad_atoms < 90


def test_auroc_is_the_share_of_pairs_in_order():
    """Against the pairs counted one by one, ties as halves."""
    frames = watched_frames(lambda bad, random: np.round(random.random(20) + 0.3 * bad, 1))
    latent = reports(frames)["latent"]
    error = np.concatenate([0.6 * (f.arrays["expected_error"] > 0.3) for f in frames])
    distance = np.concatenate([f.arrays["distance_latent"] for f in frames])
    bad, good = distance[error > 0.3], distance[error <= 0.3]
    pairs = [(b > g) + 0.5 * (b == g) for b in bad for g in good]
    assert latent.auroc.value == pytest.approx(np.mean(pairs))
    assert latent.flagged.value == pytest.approx(np.mean(bad > 1))
    assert latent.false_alarms.value == pytest.approx(np.mean(good > 1))


def test_intervals_of_the_auroc_hold_where_replicas_differ():
    """Distances share a shift within a replica; the true AUROC is measured on many."""

    def shifted(bad, random):
        return random.normal(size=20) + bad

    truth = reports(watched_frames(shifted, frames=600, replicas=300))["latent"].auroc.value
    held = [
        (auroc := reports(watched_frames(shifted, seed=s))["latent"].auroc).low
        <= truth
        <= auroc.high
        for s in range(100, 260)
    ]
    assert 0.88 < np.mean(held) <= 1.0


def test_without_bad_atoms_nothing_is_said_of_a_signal():
    frames = even(0.01)
    for atoms in frames:
        atoms.arrays["distance_guard"] = np.ones(2)
    guard = reports(frames)["guard"]
    assert guard.auroc.outcome is Outcome.NOT_ENOUGH_DATA
    assert guard.flagged.outcome is Outcome.NOT_ENOUGH_DATA
    assert guard.false_alarms.value == 0.0
    assert not guard.blind


def test_counts_of_an_early_selection_are_read_and_no_signal_is_judged_by_them(tmp_path):
    path = tmp_path / "selection.json"
    path.write_text('{"candidates": 3, "fates": {"selected": 3}}')
    selection = SelectionSummary.read(path)
    assert (selection.candidates, selection.deciding) == (3, "node_energy")
    limits = selection.signal_limits
    assert signal_reports(even(), limits, tolerance_eV_per_A=0.3, deciding="node_energy") == []


def stressed(error_GPa, *, replica):
    """A frame whose six stresses are wrong by so much, GPa."""
    of = frame([0.06] * 2, replica=replica)
    of.info["stress"] = [0.01, 0.02, -0.03, 0.0, 0.004, 0.0]
    of.info["model_stress"] = [value + error_GPa * units.GPa for value in of.info["stress"]]
    return of


def test_the_error_of_the_stress_is_that_of_the_frames_that_have_one():
    frames = [stressed(0.2 if i % 2 else 0.4, replica=r) for r in range(4) for i in range(3)]
    (part,) = assess_audit([*frames, *even()], GOALS, confidence=0.95).parts
    assert (part.frames, part.frames_with_stress) == (24, 12)
    assert part.stress_mae_GPa.value == pytest.approx((0.4 + 0.2 + 0.4) / 3)
    by_frame = mean_interval(np.array([0.4, 0.2, 0.4] * 4), np.repeat(range(4), 3), 0.95)
    assert part.stress_mae_GPa.high == pytest.approx(by_frame.high)
    (few,) = assess_audit([*frames[:4], *even()], GOALS, confidence=0.95).parts
    assert (few.stress_mae_GPa, few.frames_with_stress) == (None, 4)
    (none,) = assess_audit(even(), GOALS, confidence=0.95).parts
    assert (none.stress_mae_GPa, none.frames_with_stress) == (None, 0)
