"""Whether a score foretells failure: of points shortly before one, and how early it warns.

Replicas are the independent units: intervals come from resampling whole replicas, never trace
points.

Not for: when replicas fail (see `survival`).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import integrate

from halcyon.verdict.estimates import (
    CONFIDENCE,
    FEWEST_FAILURES,
    Estimate,
    Outcome,
    bootstrapped,
    fraction,
    widened,
)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well a score tells points shortly before a failure from the others.

    Attributes:
        auroc: area under the ROC curve: probability that a point before a failure scores higher
            than one that is not; 0.5 is chance.
        hit_rate: fraction of points before a failure that are recognised at the false-alarm rate.
        false_alarm_rate: largest fraction of the other points that may be taken for such.
        gain: AUROC over that of the score it was held against; its interval is over pairs.
    """

    auroc: Estimate
    hit_rate: Estimate
    gain: Estimate
    false_alarm_rate: float


@dataclass(frozen=True, kw_only=True)
class LeadTime:
    """How long before a failure a score warns.

    Attributes:
        median_ps: median over the failed replicas, ps; a replica without a warning counts as 0.
        warned: fraction of the failed replicas with a warning before the failure.
        threshold: score above which there is a warning.
        false_alarm_rate: largest probability that a replica that does not fail is warned about.
    """

    median_ps: Estimate
    warned: Estimate
    threshold: float | None
    false_alarm_rate: float


def fails_within(
    time_ps: np.ndarray, end_ps: np.ndarray, failed: np.ndarray, *, horizon_ps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which points lie shortly before a failure, and for which that is known.

    Args:
        time_ps: time of each point, shape (P,), ps.
        end_ps: when the point's replica failed or was stopped, shape (P,), ps.
        failed: whether it failed, shape (P,).
        horizon_ps: what "shortly" is, ps.

    Returns:
        Whether the replica fails within `horizon_ps`, and whether that is known, both of shape
        (P,). It is not known for a replica that was stopped within the horizon; and a point at or
        after the failure itself is none that could have warned.
    """
    left = end_ps - time_ps
    truth = failed & (left <= horizon_ps)
    known = np.where(failed, left > 0, left >= horizon_ps)
    return truth, known


def detection(
    score: np.ndarray,
    truth: np.ndarray,
    replica: np.ndarray,
    *,
    false_alarm_rate: float,
    seed: int,
    against: np.ndarray | float = 0.0,
    confidence: float = CONFIDENCE,
    resamples: int = 1000,
) -> Detection:
    """AUROC, and hit rate at a false-alarm rate that is the same for all scores compared.

    The intervals are percentile bootstraps over whole replicas: the points of one replica are
    correlated, and counting them as independent would make any score look certain.

    Args:
        score: of each point, higher is worse, shape (P,); infinite is allowed.
        truth: whether the point's replica fails shortly (see `fails_within`), shape (P,).
        replica: which replica the point belongs to, shape (P,).
        false_alarm_rate: largest fraction of the other points that may be taken for true.
        seed: of the bootstrap.
        against: a score to beat, shape (P,); by default chance.
        confidence: two-sided level of the intervals.
        resamples: bootstrap samples; those without both kinds of points are left out.

    Raises:
        ValueError: a score is NaN.
    """
    _refuse_nan(score)
    truth = np.asarray(truth, dtype=bool)
    missing = None
    if len(np.unique(replica[truth])) < FEWEST_FAILURES:
        missing = Outcome.NOT_ENOUGH_FAILURES
    elif truth.all():
        missing = Outcome.NOT_ENOUGH_SURVIVORS
    if missing is not None:
        nothing = Estimate(outcome=missing, confidence=confidence)
        return Detection(
            auroc=nothing, hit_rate=nothing, gain=nothing, false_alarm_rate=false_alarm_rate
        )
    roc = _roc(score, truth, false_alarm_rate)
    other = _roc(np.broadcast_to(against, score.shape), truth, false_alarm_rate)
    _, owner = np.unique(replica, return_inverse=True)
    n = int(owner.max()) + 1
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    weights = itertools.chain([np.ones(len(score))], (draw[owner] for draw in draws))
    found = np.array([(*roc(mine), other(mine)[0]) for mine in weights])
    found[:, 2] = found[:, 0] - found[:, 2]
    value, resampled = found[0], found[1:]
    resampled = resampled[~np.isnan(resampled).any(axis=1)]
    auroc, hit_rate, gain = (
        bootstrapped(value[i], resampled[:, i], confidence) for i in range(len(value))
    )
    return Detection(auroc=auroc, hit_rate=hit_rate, gain=gain, false_alarm_rate=false_alarm_rate)


def lead_time(
    score: np.ndarray,
    time_ps: np.ndarray,
    replica: np.ndarray,
    end_ps: np.ndarray,
    failed: np.ndarray,
    *,
    false_alarm_rate: float,
    seed: int,
    confidence: float = CONFIDENCE,
    resamples: int = 2000,
) -> LeadTime:
    """How long before failure a score first exceeds a threshold, at a matched false-alarm rate.

    The threshold is the k-th greatest of the survivors' greatest scores, with k as large as the
    rate r allows: k ≤ r (S + 1) with S survivors. A further survivor then exceeds it with
    probability at most r (split conformal; exact for exchangeable replicas). Comparing scores at
    one r, none wins by crying wolf. Fewer survivors than 1/r - 1 cannot show such a rate.

    Survivors are watched for longer than replicas that fail, so the threshold is on the safe side.

    Args:
        score: of each point, higher is worse, shape (P,); infinite is allowed.
        time_ps: time of each point, shape (P,), ps.
        replica: which replica the point belongs to, shape (P,).
        end_ps: when that replica failed or was stopped, shape (P,), ps. Points at the failure
            itself do not count: they warn of nothing.
        failed: whether it failed, shape (P,).
        false_alarm_rate: largest probability of a warning in a replica that does not fail.
        seed: of the bootstrap, over survivors (they set the threshold) and failed replicas.
        confidence: two-sided level of the intervals.
        resamples: bootstrap samples.

    Raises:
        ValueError: a score is NaN.
    """
    _refuse_nan(score)
    order = np.lexsort((time_ps, replica))
    _, starts = np.unique(replica[order], return_index=True)
    groups = np.split(order, starts[1:])
    doomed = [mine for mine in groups if failed[mine[0]]]
    survivors = [mine for mine in groups if not failed[mine[0]]]
    rank = int(false_alarm_rate * (len(survivors) + 1) + 1e-9)
    missing = None
    if len(doomed) < FEWEST_FAILURES:
        missing = Outcome.NOT_ENOUGH_FAILURES
    elif rank < 1:
        missing = Outcome.NOT_ENOUGH_SURVIVORS
    if missing is not None:
        nothing = Estimate(outcome=missing, confidence=confidence)
        return LeadTime(
            median_ps=nothing, warned=nothing, threshold=None, false_alarm_rate=false_alarm_rate
        )
    thresholds = np.sort([score[mine].max() for mine in survivors])[::-1]
    # leads[f, s]: lead time of failed replica f, were the s-th threshold used, ps.
    leads = np.array(
        [_leads(score[mine], time_ps[mine], end_ps[mine[0]], thresholds) for mine in doomed]
    )
    random = np.random.default_rng(seed)
    chosen = np.sort(random.integers(len(survivors), size=(resamples, len(survivors))), axis=1)
    drawn = random.integers(len(doomed), size=(resamples, len(doomed)))
    resampled = leads[drawn, chosen[:, [rank - 1]]]
    mine = leads[:, rank - 1]
    tail = (1 - confidence) / 2
    warned = fraction(mine > 0, confidence, Outcome.NOT_ENOUGH_FAILURES)
    return LeadTime(
        median_ps=bootstrapped(float(np.median(mine)), np.median(resampled, axis=1), confidence),
        # The wider of both: the bootstrap has no width where all were warned.
        warned=widened(warned, *np.quantile((resampled > 0).mean(axis=1), [tail, 1 - tail])),
        threshold=float(thresholds[rank - 1]),
        false_alarm_rate=false_alarm_rate,
    )


def _refuse_nan(score: np.ndarray) -> None:
    if np.isnan(score).any():
        raise ValueError("scores must not be NaN: leave those points out, or score them infinite")


def _roc(
    score: np.ndarray, truth: np.ndarray, false_alarm_rate: float
) -> Callable[[np.ndarray], tuple[float, float]]:
    """AUROC and hit rate as a function of the points' weights; NaN without both kinds."""
    order = np.argsort(-score)
    ordered, positive = score[order], truth[order]
    # Points of equal score are one step of the curve: a tie counts half in the area.
    steps = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))

    def measure(weights: np.ndarray) -> tuple[float, float]:
        weights = weights[order]
        hits = np.add.reduceat(weights * positive, steps).cumsum()
        alarms = np.add.reduceat(weights * ~positive, steps).cumsum()
        if hits[-1] == 0 or alarms[-1] == 0:
            return np.nan, np.nan
        hits = np.append(0.0, hits / hits[-1])
        alarms = np.append(0.0, alarms / alarms[-1])
        allowed = alarms <= false_alarm_rate + 1e-12
        return float(integrate.trapezoid(hits, alarms)), float(hits[allowed][-1])

    return measure


def _leads(
    score: np.ndarray, time_ps: np.ndarray, end_ps: float, thresholds: np.ndarray
) -> np.ndarray:
    """Time from the first score above each threshold to the end; 0 where there is none, ps."""
    before = time_ps < end_ps
    highest = np.maximum.accumulate(score[before])
    first = np.searchsorted(highest, thresholds, side="right")
    # Past the last point stands the failure itself: no lead.
    return end_ps - np.append(time_ps[before], end_ps)[first]
