"""The audit: how wrong the model is on random frames of its own dynamics.

    from halcyon.config import AccuracySettings
    from halcyon.verdict.audit import assess_audit

    audit = assess_audit(frames, AccuracySettings(), confidence=0.95)
    audit.finding  # AuditFinding.PASSED, MISSED, NOT_ENOUGH_DATA or NOT_ASKED

Frames of one replica resemble each other, so that the replica is the unit of every interval
(`between_replicas`). Where errors of more random frames are foretold, by the index or by a second
Hamiltonian, the force error has a second, prediction-powered interval, and its upper end is held
against the goal.

Not for: drawing the frames (`exploration.reservoir`), which signals saw the errors
(`signal_reports`), or what follows (`saturation.decide`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units

from halcyon.config import AccuracySettings, Settings
from halcyon.verdict.between_replicas import (
    WIDEST,
    Predicted,
    logarithmic,
    mean_interval,
    powered_interval,
)
from halcyon.verdict.estimates import Interval
from halcyon.verdict.forms import Audit, Audited, AuditFinding, Foretold, SecondOpinion
from halcyon.verdict.saturation import confidence_spent

ROLE = "audit"
"""`role` of the frames that were drawn at random."""
PUBLISHED = "audit, by a published neighbour"
"""Beginning of the `reason` of frames that stand for the audit's in a campaign in retrospect."""
FEWEST_FRAMES = 5
"""With fewer labelled frames of a structure and temperature, nothing is said."""
FEWEST_REPLICAS = 2
INDEX = "index"
"""Who foretold the errors, where it was the index."""
MOST_OVER_MEDIAN = 10.0
"""A frame is foretold at most so many times the median error: the far end of an expected error is
extrapolated, and one frame must not decide."""
MOST_BAD = 1 / 3
"""If a greater part of the labels failed, the others may be the easy ones: nothing is said."""
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
    frames: Sequence[Atoms],
    accuracy: AccuracySettings,
    *,
    confidence: float,
    opinions: Sequence[Atoms] = (),
    foretold: Sequence[Foretold] = (),
) -> Audit:
    """Errors of the model that explored, held against the campaign's goals.

    Args:
        frames: audit frames with status, structure, temperature and replica in `info`; where the
            label is good with energy, `model_energy` (eV), and arrays forces, `model_forces`
            (N, 3), eV/Å.
        accuracy: the goals.
        confidence: one-sided, of the upper ends.
        opinions: random frames that a second Hamiltonian has judged, the audit's among them, with
            structure, temperature, replica, draw and second_opinion in `info`, and arrays
            `model_forces` and, where it converged, `second_forces` (N, 3), eV/Å.
        foretold: what the index expects of random frames, the audit's among them; it is used
            where there are no opinions.
    """
    tried = [frame for frame in frames if computed(frame)]
    groups: dict[tuple[str, float], list[Atoms]] = {}
    for frame in tried:
        groups.setdefault(group_of(frame), []).append(frame)
    parts = [
        _part(
            structure,
            temperature_K,
            groups[structure, temperature_K],
            _Predictions.of(opinions, foretold, (structure, temperature_K)),
            accuracy=accuracy,
            confidence=confidence,
        )
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
        second_opinion=_who(opinions, foretold),
    )


def _who(opinions: Sequence[Atoms], foretold: Sequence[Foretold]) -> str:
    """Who foretold errors, as in audit.second_opinion."""
    if opinions:
        return str(opinions[0].info["second_opinion"])
    return INDEX if foretold else "none"


def group_of(frame: Atoms) -> tuple[str, float]:
    """Structure and temperature, K, of a frame."""
    return frame.info["structure"], frame.info["temperature"]


def missed(
    frames: Sequence[Atoms],
    settings: Settings,
    opinions: Sequence[Atoms] = (),
    foretold: Sequence[Foretold] = (),
) -> bool:
    """Whether an audit missed its goals; with too few frames nobody knows, and it did not.

    Args:
        frames: as for `assess_audit`.
        settings: goals, and the confidence that a generation spends.
        opinions: as for `assess_audit`.
        foretold: as for `assess_audit`.
    """
    audit = assess_audit(
        frames,
        settings.accuracy,
        confidence=confidence_spent(settings),
        opinions=opinions,
        foretold=foretold,
    )
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
    predictions: "_Predictions | None",
    *,
    accuracy: AccuracySettings,
    confidence: float,
) -> Audited:
    """The audit of one structure at one temperature."""
    good = [frame for frame in frames if usable(frame)]
    replicas = np.array([frame.info["replica"] for frame in good], dtype=int)
    number, bad = len(set(replicas.tolist())), len(frames) - len(good)
    errors = second = None
    if number >= FEWEST_REPLICAS and len(good) >= FEWEST_FRAMES:
        errors = _Errors.of(good, replicas, confidence)
        if predictions:
            second = _second_opinion(good, replicas, predictions, confidence)
    stressed = [(f, r) for f, r in zip(good, replicas, strict=True) if _has_stresses(f)]
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
        who = predictions.who if predictions else "none"
        finding, reason = _judged(errors, second, accuracy, who=who)
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
        second_opinion=second,
        stress_mae_GPa=_stress_interval(stressed, confidence),
        frames_with_stress=len(stressed),
    )


@dataclass(frozen=True, kw_only=True)
class _Predictions:
    """Errors that are foretold of n random frames of one structure at one temperature.

    Attributes:
        who: foretold them, as in audit.second_opinion.
        draws: the frames' random numbers.
        replicas: the replica of each, shape (n,).
        errors: mean absolute errors of force components, eV/Å, shape (n,); NaN: nothing is
            foretold.
        forces: a second Hamiltonian's, eV/Å, by draw.
    """

    who: str
    draws: list[float]
    replicas: np.ndarray
    errors: np.ndarray
    forces: dict[float, np.ndarray]

    @classmethod
    def of(
        cls,
        opinions: Sequence[Atoms],
        foretold: Sequence[Foretold],
        group: tuple[str, float],
    ) -> "_Predictions | None":
        """Of a structure and temperature, from what `assess_audit` takes; None: there are none."""
        judged = [frame for frame in opinions if group_of(frame) == group]
        if judged:
            forces = {
                frame.info["draw"]: frame.arrays["second_forces"]
                for frame in judged
                if "second_forces" in frame.arrays
            }
            return cls(
                who=judged[0].info["second_opinion"],
                draws=[frame.info["draw"] for frame in judged],
                replicas=np.array([frame.info["replica"] for frame in judged]),
                errors=np.array([_predicted_by_forces(frame) for frame in judged]),
                forces=forces,
            )
        expected = [each for each in foretold if (each.structure, each.temperature_K) == group]
        if opinions or not expected:
            return None
        errors = np.array([each.forces_mae_eV_per_A for each in expected], dtype=float)
        if np.isfinite(errors).any():
            errors = np.minimum(errors, MOST_OVER_MEDIAN * np.nanmedian(errors))
        return cls(
            who=INDEX,
            draws=[each.draw for each in expected],
            replicas=np.array([each.replica for each in expected]),
            errors=errors,
            forces={},
        )


def _predicted_by_forces(opinion: Atoms) -> float:
    """The error that a second Hamiltonian's forces foretell, eV/Å; NaN: it has none."""
    if "second_forces" not in opinion.arrays:
        return float("nan")
    difference = opinion.arrays["model_forces"] - opinion.arrays["second_forces"]
    return float(np.abs(difference).mean())


def _second_opinion(
    frames: Sequence[Atoms], replicas: np.ndarray, predictions: _Predictions, confidence: float
) -> SecondOpinion:
    """The prediction-powered force error of one structure at one temperature.

    A frame of which nothing is foretold is predicted to have the mean error of the others: what is
    predicted may be wrong, but must not depend on who is labelled.

    Args:
        frames: with good labels, of at least two replicas.
        replicas: number of each frame's replica, shape (n,).
        predictions: of this structure at this temperature.
        confidence: one-sided, of each end.
    """
    predicted, number = predictions.errors.copy(), len(predictions.errors)
    known = np.isfinite(predicted)
    index: dict[Any, int] = {draw: i for i, draw in enumerate(predictions.draws)}
    of_labelled = [index.get(frame.info.get("draw"), -1) for frame in frames]
    others = np.setdiff1d(np.arange(number), of_labelled)
    failed = int((~known).sum())
    reason = ""
    if -1 in of_labelled:
        reason = "not all audit frames were judged by it"
    elif failed > MOST_BAD * number:
        what = "finite expectation" if predictions.who == INDEX else "forces"
        reason = f"it has no {what} of {failed} of {number} frames"
    elif len(others) < len(frames):
        reason = f"it judged {len(others)} more frames, expected at least {len(frames)}"
    if reason:
        return SecondOpinion(frames=number, failed=failed, reason=reason)
    predicted[~known] = predicted[known].mean()
    interval, factor = powered_interval(
        np.array([np.abs(f.arrays["model_forces"] - f.arrays["forces"]).mean() for f in frames]),
        replicas,
        Predicted(
            measured=predicted[of_labelled],
            others=predicted[others],
            replicas=predictions.replicas[others],
        ),
        confidence,
    )
    differences = [
        np.abs(predictions.forces[draw] - frame.arrays["forces"]).mean()
        for frame in frames
        if (draw := frame.info.get("draw")) in predictions.forces
    ]
    return SecondOpinion(
        frames=number,
        failed=failed,
        forces_mae_meV_per_A=_times(1e3, interval),
        factor=factor,
        difference_meV_per_A=1e3 * float(np.mean(differences)) if differences else None,
    )


def _has_stresses(frame: Atoms) -> bool:
    """Whether label and model both have a stress."""
    return {"stress", "model_stress"} <= frame.info.keys()


def _stress_interval(stressed: Sequence[tuple[Atoms, int]], confidence: float) -> Interval | None:
    """Mean absolute error of the six numbers of a stress; None: too few frames or replicas.

    Args:
        stressed: frames with both stresses, and the replica of each.
        confidence: one-sided, of each end.
    """
    replicas = np.array([replica for _, replica in stressed], dtype=int)
    if len(set(replicas.tolist())) < FEWEST_REPLICAS or len(stressed) < FEWEST_FRAMES:
        return None
    errors = [
        np.abs(np.subtract(frame.info["model_stress"], frame.info["stress"])).mean()
        for frame, _ in stressed
    ]
    return _times(1 / units.GPa, mean_interval(np.array(errors), replicas, confidence))


def computed(frame: Atoms) -> bool:
    """Whether a frame's label was computed, whatever came of it; no budget kept it back."""
    return bool(frame.info["status"] != "not computed")


def usable(frame: Atoms) -> bool:
    """Whether a frame has a good label, and what the model predicted for it."""
    return (
        frame.info["status"] == "ok"
        and "model_energy" in frame.info
        and {"forces", "model_forces"} <= frame.arrays.keys()
    )


def _judged(
    errors: "_Errors", second: SecondOpinion | None, accuracy: AccuracySettings, *, who: str
) -> tuple[AuditFinding, str]:
    """Errors of one structure at one temperature against the goals; `who` foretold errors."""
    powered = second.forces_mae_meV_per_A if second else None
    goals = (
        (
            "forces",
            powered or errors.forces_mae_meV_per_A,
            accuracy.forces_mae_meV_per_A,
            "meV/Å",
        ),
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
    if second and powered:
        plain = errors.forces_mae_meV_per_A
        whose = "the index's expectation of" if who == INDEX else "a second opinion on"
        texts[0] += (
            f", by {whose} {second.frames} frames "
            f"(without it {plain.value:.3g}, up to {plain.high:.3g})"
        )
    elif second:
        whose = "the index's expectation" if who == INDEX else "the second opinion"
        texts[0] += f" ({whose} does not count: {second.reason})"
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
    return logarithmic(
        value, float(spread * np.sqrt(len(names) / (len(names) - 1))), replicas, confidence
    )
