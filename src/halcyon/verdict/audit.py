"""The audit: how wrong the model is on random frames of its own dynamics, and which signals saw it.

    from halcyon.config import AccuracySettings
    from halcyon.verdict.audit import assess_audit, signal_reports

    audit = assess_audit(frames, AccuracySettings(), confidence=0.95)
    audit.finding  # AuditFinding.PASSED, MISSED, NOT_ENOUGH_DATA or NOT_ASKED
    signal_reports(frames, {"latent": 1.0}, tolerance_eV_per_A=0.3, deciding="latent")

Frames of one replica resemble each other, so that the replica is the unit of every interval. There
are few replicas, and errors are skewed: resampling them gives upper ends that hold in 59 to 92 %
of cases where 95 % are asked for (lognormal errors, 2 to 8 replicas, 10 frames). So the logarithm
of the mean gets a Student interval, from the spread between replicas, with as many degrees of
freedom as equally large replicas of the same spread of sizes would have, less one (L. Kish, Survey
Sampling, 1965, for that number). It holds in 88 to 96 % of the same cases.

Not for: drawing the frames (`exploration.reservoir`), or what follows (`saturation.decide`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from halcyon.config import AccuracySettings, Settings
from halcyon.verdict.estimates import CONFIDENCE, Estimate, Interval, Outcome
from halcyon.verdict.forms import Audit, Audited, AuditFinding, SignalReport
from halcyon.verdict.saturation import confidence_spent

ROLE = "audit"
"""`role` of the frames that were drawn at random."""
PUBLISHED = "audit, by a published neighbour"
"""Beginning of the `reason` of frames that stand for the audit's in a campaign in retrospect."""
DISTANCE = "distance_"
"""Beginning of the names of arrays with a signal's distances."""
EXPECTED = "error"
"""Name of the expected error among the signals."""
FEWEST_FRAMES = 5
"""With fewer labelled frames of a structure and temperature, nothing is said."""
FEWEST_REPLICAS = 2
MOST_BAD = 1 / 3
"""If a greater part of the labels failed, the others may be the easy ones: nothing is said."""
WIDEST = 1000.0
"""Factor from a value to the end of its interval at most: a wider one says nothing more."""
FEWEST_ATOMS = 5
"""With fewer bad atoms, or fewer good ones, there is no AUROC."""
SEEING = 0.7
"""A signal is not called blind from this AUROC on, however wide the interval is."""
QUANTILE = 0.95
RESAMPLES = 500
SEED = 13
"""Of the resampling for the interval of a quantile: the same frames give the same interval."""


def audit_of(frames: Iterable[Atoms], generation: int) -> list[Atoms]:
    """The audit's frames of a generation.

    Frames without `role` were labelled by early releases; those of other roles were chosen.

    Args:
        frames: of label files, whatever became of their labels.
        generation: counted from 0.
    """
    return [
        frame
        for frame in frames
        if frame.info.get("role") == ROLE and frame.info.get("generation") == generation
    ]


def assess_audit(
    frames: Sequence[Atoms], accuracy: AccuracySettings, *, confidence: float
) -> Audit:
    """Errors of the model that explored, held against the campaign's goals.

    Args:
        frames: audit frames with status, structure, temperature and replica in `info`; where the
            label is good with energy, `model_energy` (eV), and arrays forces, `model_forces`
            (N, 3), eV/Å.
        accuracy: the goals.
        confidence: one-sided, of the upper ends.
    """
    computed = [frame for frame in frames if frame.info["status"] != "not computed"]
    groups: dict[tuple[str, float], list[Atoms]] = {}
    for frame in computed:
        groups.setdefault((frame.info["structure"], frame.info["temperature"]), []).append(frame)
    parts = [
        _part(structure, temperature_K, groups[structure, temperature_K], accuracy, confidence)
        for structure, temperature_K in sorted(groups)
    ]
    finding, reason = _overall(parts, accuracy)
    return Audit(
        finding=finding,
        reason=reason,
        parts=parts,
        forces_goal_meV_per_A=accuracy.forces_mae_meV_per_A,
        energy_goal_meV_per_atom=accuracy.energy_mae_meV_per_atom,
        confidence=confidence,
    )


def missed(frames: Sequence[Atoms], settings: Settings) -> bool:
    """Whether an audit missed its goals; with too few frames nobody knows, and it did not.

    Args:
        frames: as for `assess_audit`.
        settings: goals, and the confidence that a generation spends.
    """
    audit = assess_audit(frames, settings.accuracy, confidence=confidence_spent(settings))
    return audit.finding is AuditFinding.MISSED


def _overall(parts: Sequence[Audited], accuracy: AccuracySettings) -> tuple[AuditFinding, str]:
    """The worst finding of the parts, with its reason."""
    if accuracy.forces_mae_meV_per_A is None and accuracy.energy_mae_meV_per_atom is None:
        return AuditFinding.NOT_ASKED, "accuracy was not asked for"
    if not parts:
        return AuditFinding.NOT_ENOUGH_DATA, "no audit frame was labelled"
    order = (AuditFinding.MISSED, AuditFinding.NOT_ENOUGH_DATA, AuditFinding.PASSED)
    worst = min((part.finding for part in parts), key=order.index)
    of_these = [part for part in parts if part.finding is worst]
    if len(parts) == 1:
        return worst, parts[0].reason
    named = [f"{p.structure} at {p.temperature_K:g} K: {p.reason}" for p in of_these]
    return worst, "; ".join(named)


def _part(
    structure: str,
    temperature_K: float,
    frames: Sequence[Atoms],
    accuracy: AccuracySettings,
    confidence: float,
) -> Audited:
    """The audit of one structure at one temperature."""
    good = [frame for frame in frames if _usable(frame)]
    replicas = np.array([frame.info["replica"] for frame in good], dtype=int)
    number, bad = len(set(replicas.tolist())), len(frames) - len(good)
    errors = None
    if number >= FEWEST_REPLICAS and len(good) >= FEWEST_FRAMES:
        errors = _Errors.of(good, replicas, confidence)
    if errors is None:
        failed = f", {bad} more without a label" if bad else ""
        finding = AuditFinding.NOT_ENOUGH_DATA
        reason = (
            f"{len(good)} labelled frames of {number} replicas{failed}: at least {FEWEST_FRAMES} "
            f"of {FEWEST_REPLICAS} are needed"
        )
    elif bad > MOST_BAD * len(frames):
        finding = AuditFinding.NOT_ENOUGH_DATA
        reason = (
            f"{bad} of {len(frames)} audit frames got no label: the others may be the easy ones"
        )
    else:
        finding, reason = _judged(errors, accuracy)
        basis = f"{100 * confidence:.4g} %, {len(good)} frames of {number} replicas"
        reason += f" ({basis}, {bad} without a label)" if bad else f" ({basis})"
    if any(frame.info.get("reason", "").startswith(PUBLISHED) for frame in frames):
        reason += "; measured on the published frames nearest to the random ones"
    return Audited(
        structure=structure,
        temperature_K=temperature_K,
        finding=finding,
        reason=reason,
        frames=len(good),
        bad=bad,
        replicas=number,
        forces_mae_meV_per_A=errors and errors.forces_mae_meV_per_A,
        forces_rmse_meV_per_A=errors and errors.forces_rmse_meV_per_A,
        atom_error_q95_eV_per_A=errors and errors.atom_error_q95_eV_per_A,
        energy_mae_meV_per_atom=errors and errors.energy_mae_meV_per_atom,
    )


def _usable(frame: Atoms) -> bool:
    """Whether a frame has a good label, and what the model predicted for it."""
    return (
        frame.info["status"] == "ok"
        and "model_energy" in frame.info
        and {"forces", "model_forces"} <= frame.arrays.keys()
    )


def _judged(errors: "_Errors", accuracy: AccuracySettings) -> tuple[AuditFinding, str]:
    """Errors of one structure at one temperature against the goals."""
    goals = (
        ("forces", errors.forces_mae_meV_per_A, accuracy.forces_mae_meV_per_A, "meV/Å"),
        ("energies", errors.energy_mae_meV_per_atom, accuracy.energy_mae_meV_per_atom, "meV/atom"),
    )
    texts, any_over = [], False
    for what, error, goal, unit in goals:
        if goal is not None:
            over = error.high >= goal
            any_over |= over
            texts.append(
                f"{what} {error.value:.3g}, up to {error.high:.3g} {unit}, "
                f"{'over' if over else 'under'} {goal:g}"
            )
    if not texts:
        return AuditFinding.NOT_ASKED, "accuracy was not asked for"
    finding = AuditFinding.MISSED if any_over else AuditFinding.PASSED
    return finding, f"mean errors of {' and '.join(texts)}"


@dataclass(frozen=True, kw_only=True)
class _Errors:
    """Errors on n frames with good labels; see `forms.Audited`."""

    forces_mae_meV_per_A: Interval
    forces_rmse_meV_per_A: Interval
    atom_error_q95_eV_per_A: Interval
    energy_mae_meV_per_atom: Interval

    @classmethod
    def of(cls, frames: Sequence[Atoms], replicas: np.ndarray, confidence: float) -> "_Errors":
        """Of frames of one structure.

        Args:
            frames: at least two, of at least two replicas.
            replicas: number of each frame's replica, shape (n,).
            confidence: one-sided, of both ends.
        """
        forces = [frame.arrays["model_forces"] - frame.arrays["forces"] for frame in frames]
        energy = np.array(
            [(f.info["model_energy"] - f.info["energy"]) / len(f) for f in frames], dtype=float
        )
        # Deviations from a mean of n values are smaller than those from the true mean.
        deviation = np.abs(energy - energy.mean()) * np.sqrt(len(frames) / (len(frames) - 1))
        mean_square = mean_interval(
            np.array([np.mean(part**2) for part in forces]), replicas, confidence
        )
        rmse = {end: float(np.sqrt(getattr(mean_square, end))) for end in ("value", "low", "high")}
        absolute = mean_interval(
            np.array([np.abs(part).mean() for part in forces]), replicas, confidence
        )
        atoms = [np.linalg.norm(part, axis=1) for part in forces]
        return cls(
            forces_mae_meV_per_A=_times(1e3, absolute),
            forces_rmse_meV_per_A=_times(1e3, Interval(**rmse)),
            atom_error_q95_eV_per_A=_quantile_interval(atoms, replicas, confidence),
            energy_mae_meV_per_atom=_times(1e3, mean_interval(deviation, replicas, confidence)),
        )


def _times(factor: float, interval: Interval) -> Interval:
    return Interval(
        value=factor * interval.value, low=factor * interval.low, high=factor * interval.high
    )


def mean_interval(values: np.ndarray, replicas: np.ndarray, confidence: float) -> Interval:
    """Mean of positive values of n frames, with the interval that the module describes.

    Args:
        values: shape (n,).
        replicas: the replica of each, shape (n,); at least two differ.
        confidence: one-sided, of each end.
    """
    mean = float(values.mean())
    if mean <= 0:
        return Interval(value=0.0, low=0.0, high=0.0)
    relative = _spread_of_mean(values - mean, replicas) / mean
    return _logarithmic(mean, relative, replicas, confidence)


def _logarithmic(
    value: float, relative: float, replicas: np.ndarray, confidence: float
) -> Interval:
    """Student's interval of the logarithm of a value with this relative standard error."""
    factor = float(np.exp(min(_student(replicas, confidence) * relative, np.log(WIDEST))))
    return Interval(value=value, low=value / factor, high=value * factor)


def _spread_of_mean(deviations: np.ndarray, replicas: np.ndarray) -> float:
    """Standard error of a mean, from deviations of single frames added up by replica."""
    names, of_frame = np.unique(replicas, return_inverse=True)
    sums = np.bincount(of_frame, weights=deviations)
    number = len(names)
    return float(np.sqrt(number / (number - 1) * (sums**2).sum()) / len(deviations))


def _student(replicas: np.ndarray, confidence: float) -> float:
    """Quantile of Student's distribution for replicas of unequal numbers of frames."""
    from scipy import stats

    sizes = np.unique(replicas, return_counts=True)[1]
    effective = len(replicas) ** 2 / float((sizes**2).sum())
    return float(stats.t.ppf(confidence, max(effective - 1, 0.5)))


def _quantile_interval(
    atoms: Sequence[np.ndarray], replicas: np.ndarray, confidence: float
) -> Interval:
    """The `QUANTILE` of all atoms' errors; its spread by resampling replicas.

    Args:
        atoms: errors of the atoms of each frame.
        replicas: the replica of each frame.
        confidence: one-sided, of each end.
    """
    names = np.unique(replicas)
    pooled = [
        np.concatenate([a for a, r in zip(atoms, replicas, strict=True) if r == name])
        for name in names
    ]
    value = float(np.quantile(np.concatenate(pooled), QUANTILE))
    if value <= 0:
        return Interval(value=0.0, low=0.0, high=0.0)
    random = np.random.default_rng(SEED)
    draws = random.integers(0, len(names), (RESAMPLES, len(names)))
    resampled = [np.quantile(np.concatenate([pooled[i] for i in draw]), QUANTILE) for draw in draws]
    spread = np.log(np.maximum(resampled, value / WIDEST)).std()
    # Resamples of few replicas spread less than new replicas would.
    return _logarithmic(
        value, float(spread * np.sqrt(len(names) / (len(names) - 1))), replicas, confidence
    )


def signal_reports(
    frames: Sequence[Atoms],
    limits: Mapping[str, float],
    *,
    tolerance_eV_per_A: float,
    deciding: str,
) -> list[SignalReport]:
    """How well each signal told bad forces from good ones on audit frames.

    Args:
        frames: as for `assess_audit`, with arrays `distance_<signal>` and `expected_error`, (N,).
        limits: distance over which an atom is outside, by signal; that of the expected error is
            the tolerance.
        tolerance_eV_per_A: an atom whose force error is over it is bad.
        deciding: name of the signal that the index counts by.

    Returns:
        The expected error first, where the frames have it, then the signals by name.
    """
    good = [frame for frame in frames if _usable(frame)]
    present = {name for frame in good for name in frame.arrays}
    limits = dict(limits) | {EXPECTED: tolerance_eV_per_A}
    names = [EXPECTED] if "expected_error" in present else []
    names += sorted(
        name.removeprefix(DISTANCE)
        for name in present
        if name.startswith(DISTANCE) and name.removeprefix(DISTANCE) in limits
    )
    reports = []
    for name in names:
        array = "expected_error" if name == EXPECTED else DISTANCE + name
        measured = [frame for frame in good if array in frame.arrays]
        reports.append(
            _report(
                name,
                measured,
                array,
                limits[name],
                tolerance_eV_per_A,
                decides=name == deciding,
            )
        )
    return reports


def _report(
    name: str,
    frames: Sequence[Atoms],
    array: str,
    limit: float,
    tolerance_eV_per_A: float,
    *,
    decides: bool,
) -> SignalReport:
    """The report of one signal on frames that have its distances."""
    error = np.concatenate(
        [np.linalg.norm(f.arrays["model_forces"] - f.arrays["forces"], axis=1) for f in frames]
    )
    distance = np.concatenate([np.asarray(f.arrays[array], dtype=float) for f in frames])
    sizes = [len(frame) for frame in frames]
    replica = np.repeat([frame.info["replica"] for frame in frames], sizes)
    frame_of = np.repeat(np.arange(len(frames)), sizes)
    bad, outside = error > tolerance_eV_per_A, distance > limit
    auroc = _auroc(distance, bad, replica, frame_of)
    blind = (
        auroc.outcome is Outcome.ESTIMATED
        and auroc.value is not None
        and auroc.low is not None
        and auroc.low <= 0.5
        and auroc.value < SEEING
    )
    return SignalReport(
        name=name,
        decides=decides,
        atoms=len(error),
        bad_atoms=int(bad.sum()),
        auroc=auroc,
        flagged=_share(outside[bad], replica[bad], frame_of[bad]),
        false_alarms=_share(outside[~bad], replica[~bad], frame_of[~bad]),
        blind=bool(blind),
    )


def _auroc(
    distance: np.ndarray, bad: np.ndarray, replica: np.ndarray, frame_of: np.ndarray
) -> Estimate:
    """Probability that a bad atom has a greater distance than a good one; ties count half.

    Its spread between replicas: N. A. Obuchowski, Biometrics 53, 567 (1997).
    """
    from scipy import stats

    numbers = int(bad.sum()), int((~bad).sum())
    if min(numbers) < FEWEST_ATOMS or len(np.unique(replica)) < FEWEST_REPLICAS:
        return Estimate(outcome=Outcome.NOT_ENOUGH_DATA)
    ranks = stats.rankdata(distance)
    placed = np.empty(len(distance))
    # Of each bad atom the part of good ones below it, of each good atom that of bad ones above it.
    placed[bad] = (ranks[bad] - stats.rankdata(distance[bad])) / numbers[1]
    placed[~bad] = 1 - (ranks[~bad] - stats.rankdata(distance[~bad])) / numbers[0]
    value = float(placed[bad].mean())
    weight = np.where(bad, 1 / numbers[0], 1 / numbers[1])
    return _of_share(value, (placed - value) * weight, replica, len(np.unique(frame_of[bad])))


def _share(flags: np.ndarray, replica: np.ndarray, frame_of: np.ndarray) -> Estimate:
    """The part of atoms that are outside."""
    if len(flags) < FEWEST_ATOMS or len(np.unique(replica)) < FEWEST_REPLICAS:
        return Estimate(outcome=Outcome.NOT_ENOUGH_DATA)
    value = float(flags.mean())
    return _of_share(value, (flags - value) / len(flags), replica, len(np.unique(frame_of)))


def _of_share(value: float, influence: np.ndarray, replica: np.ndarray, frames: int) -> Estimate:
    """A number between 0 and 1 with its interval: Student's, of its log-odds, between replicas.

    At 0 or 1 there is no spread: it then counts as measured on so many independent frames
    (C. J. Clopper, E. S. Pearson, Biometrika 26, 404, 1934).

    Args:
        value: the number.
        influence: what each atom adds to its deviation; their sum is 0.
        replica: of each atom.
        frames: number of frames that the atoms are of.
    """
    from scipy import special, stats

    tail = (1 - CONFIDENCE) / 2
    spread = _spread_of_mean(influence, replica) * len(influence)
    if value in (0.0, 1.0) or spread == 0:
        successes = round(value * frames)
        interval = stats.binomtest(successes, frames).proportion_ci(CONFIDENCE)
        low, high = float(interval.low), float(interval.high)
    else:
        step = _student(replica, 1 - tail) * spread / (value * (1 - value))
        low, high = (float(special.expit(special.logit(value) + end)) for end in (-step, step))
    return Estimate(outcome=Outcome.ESTIMATED, value=value, low=low, high=high)
