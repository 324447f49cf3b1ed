"""When replicas fail: survival curves, the critical CLI, and whether a score foretells failure.

A replica either failed or was stopped while it still ran (censored). Both count. Time and Λ are in
ps, so one estimator serves both: the survival curve over time, and the curve over Λ, whose median
is the critical CLI `Λ_c`.

    ends = endings(traces, replicas, column="cli_label")
    critical_cli(ends).median  # Estimate(outcome="estimated", value=…, low=…, high=…) in ps

Too little data is an outcome of its own (`Outcome`), never a number. Replicas are the independent
units: intervals come from resampling whole replicas, never trace points.

Not for: the rate of excursions and the verdict of a generation (see `saturation`).
"""

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
from scipy import integrate, stats

from halcyon.saturation import rate_bound

FEWEST_FAILURES = 5
"""With fewer failed replicas no interval here is worth its name: none is given."""
CONFIDENCE = 0.95


class Outcome(StrEnum):
    """Whether the data answer the question."""

    ESTIMATED = "estimated"
    NOT_REACHED = "not reached"
    NOT_ENOUGH_FAILURES = "not enough failures"
    NOT_ENOUGH_SURVIVORS = "not enough survivors"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval, or why there is none.

    Attributes:
        outcome: the numbers are there if `estimated`.
        value: point estimate.
        low: lower end of the interval. Also there if `not reached`: the value is above it.
        high: upper end; None: the data do not bound it.
        confidence: two-sided level of the interval.
    """

    outcome: Outcome
    value: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float = CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How one replica ended.

    Attributes:
        time_ps: simulated time until it failed or was stopped, ps.
        cli_ps: its Λ then, ps.
        failed: whether it failed; else it is censored.
    """

    time_ps: float
    cli_ps: float
    failed: bool


@dataclass(frozen=True, kw_only=True)
class SurvivalCurve:
    """Kaplan–Meier estimate: the fraction that gets further than each point without failing.

    Attributes:
        at_ps: time or Λ of every ending, ascending, ps. Before the first, survival is 1.
        survival: fraction surviving from there on; like all arrays of the shape of `at_ps`.
        low: lower end of the pointwise interval.
        high: upper end.
        at_risk: replicas still under observation just before.
        failures: failed replicas in all.
        confidence: two-sided level of the pointwise interval.
    """

    at_ps: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_risk: np.ndarray
    failures: int
    confidence: float


@dataclass(frozen=True, kw_only=True)
class FailureRate:
    """Failures per simulated time.

    Attributes:
        failures: failed replicas.
        time_ps: simulated time of all replicas together, ps.
        rate_per_ps: their quotient, 1/ps.
        bound_per_ps: its exact one-sided upper bound, 1/ps.
        confidence: level of the bound.
    """

    failures: int
    time_ps: float
    rate_per_ps: float
    bound_per_ps: float
    confidence: float


@dataclass(frozen=True, kw_only=True)
class CriticalCli:
    """The CLI at failure, and how badly it separates.

    Attributes:
        median: Λ that half of the replicas do not outlive, ps.
        failures: failed replicas.
        survivors: censored replicas.
        missed: fraction of the failed that failed below the median Λ_c.
        false_alarms: fraction of the survivors that are above it and run on.
    """

    median: Estimate
    failures: int
    survivors: int
    missed: Estimate
    false_alarms: Estimate


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


def endings(
    traces: pd.DataFrame, replicas: Sequence[dict[str, Any]], *, column: str = "cli_label"
) -> list[Ending]:
    """How the replicas of an exploration ended.

    Args:
        traces: as `explore` makes them; a failure is always a trace point.
        replicas: entries with replica, time_ps, failure (None if it did not fail).
        column: which CLI, ps.
    """
    last = traces.sort_values("time").groupby("replica")[column].last()
    return [
        Ending(
            time_ps=float(entry["time_ps"]),
            cli_ps=float(last.get(entry["replica"], 0.0)),
            failed=entry["failure"] is not None,
        )
        for entry in replicas
    ]


def kaplan_meier(
    at_ps: Sequence[float] | np.ndarray,
    failed: Sequence[bool] | np.ndarray,
    *,
    confidence: float = CONFIDENCE,
) -> SurvivalCurve:
    """Survival curve with pointwise log-log intervals.

    E. L. Kaplan, P. Meier, J. Am. Stat. Assoc. 53, 457 (1958); the variance is Greenwood's.

    Args:
        at_ps: time or Λ at the end of each replica, shape (R,), ps.
        failed: whether it failed then, shape (R,); else it is censored.
        confidence: two-sided level of the intervals.

    Raises:
        ValueError: no replicas, or values that are not finite or negative.
    """
    values, events = _checked(at_ps, failed)
    data = stats.CensoredData(uncensored=values[events], right=values[~events])
    function = stats.ecdf(data).sf
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        band = function.confidence_interval(confidence, method="log-log")
    survival, low, high = (
        np.array(part.probabilities, dtype=float) for part in (function, band.low, band.high)
    )
    # The formula has no value where survival is 1 (before the first failure) or 0 (after the last).
    low[survival == 1], high[survival == 1] = 1.0, 1.0
    if (survival == 0).any():
        low[survival == 0] = 0.0
        high[survival == 0] = high[survival > 0][-1] if (survival > 0).any() else 1.0
    at = np.asarray(function.quantiles, dtype=float)
    return SurvivalCurve(
        at_ps=at,
        survival=survival,
        low=low,
        high=high,
        at_risk=(values[None, :] >= at[:, None]).sum(axis=1),
        failures=int(events.sum()),
        confidence=confidence,
    )


def median_ps(curve: SurvivalCurve) -> Estimate:
    """Median of a survival curve, ps: where the curve, and where its band, comes down to 1/2.

    R. Brookmeyer, J. Crowley, Biometrics 38, 29 (1982). `not reached` where half or more never
    failed; then `low` alone may be there.
    """
    if curve.failures < FEWEST_FAILURES:
        return Estimate(outcome=Outcome.NOT_ENOUGH_FAILURES, confidence=curve.confidence)
    value, low, high = (
        _first(curve.at_ps, part <= 0.5) for part in (curve.survival, curve.low, curve.high)
    )
    return Estimate(
        outcome=Outcome.NOT_REACHED if value is None else Outcome.ESTIMATED,
        value=value,
        low=low,
        high=high,
        confidence=curve.confidence,
    )


def critical_cli(ends: Sequence[Ending], *, confidence: float = CONFIDENCE) -> CriticalCli:
    """The critical CLI, Λ_c: the median CLI at failure, by survival analysis over Λ.

    Survivors are censored at the Λ they had when they were stopped. That censoring is not quite
    independent: of two replicas stopped at the same time, the one that gathers Λ faster is
    censored later on the Λ axis (D. Y. Lin et al., Biometrics 53, 419 (1997), on costs, where it
    is the same). Λ_c is biased upwards where replicas that gather it fast also bear more of it.
    The error rates beside it are in-sample: they say how far failed and surviving replicas
    overlap in Λ, not what a monitor would do on new ones.

    Args:
        ends: of all replicas seen so far.
        confidence: two-sided level of the intervals.

    Raises:
        ValueError: no replicas, or values that are not finite or negative.
    """
    cli = np.array([end.cli_ps for end in ends])
    failed = np.array([end.failed for end in ends])
    median = median_ps(kaplan_meier(cli, failed, confidence=confidence))
    missed = false_alarms = Estimate(outcome=median.outcome, confidence=confidence)
    if median.value is not None:
        missed = _fraction(cli[failed] < median.value, confidence, Outcome.NOT_ENOUGH_FAILURES)
        false_alarms = _fraction(
            cli[~failed] >= median.value, confidence, Outcome.NOT_ENOUGH_SURVIVORS
        )
    return CriticalCli(
        median=median,
        failures=int(failed.sum()),
        survivors=int((~failed).sum()),
        missed=missed,
        false_alarms=false_alarms,
    )


def restricted_mean_ps(
    time_ps: Sequence[float] | np.ndarray,
    failed: Sequence[bool] | np.ndarray,
    *,
    horizon_ps: float,
    seed: int,
    confidence: float = CONFIDENCE,
    resamples: int = 2000,
) -> Estimate:
    """Mean time without failure up to a horizon, ps: the area under the survival curve.

    Unlike the median it exists however few replicas fail. The interval is a percentile bootstrap
    over replicas; with fewer than `FEWEST_FAILURES` failures that would be too narrow (with none
    it has no width), and the lower end is what the exact binomial bound on the fraction failing
    allows if all of them failed at once.

    Args:
        time_ps: time at which each replica failed or was stopped, shape (R,), ps.
        failed: whether it failed, shape (R,).
        horizon_ps: at most the longest of the times, ps.
        seed: of the bootstrap.
        confidence: two-sided level of the interval.
        resamples: bootstrap samples.

    Raises:
        ValueError: no replicas, values that are not finite or negative, or a horizon beyond
            what was observed.
    """
    times, events = _checked(time_ps, failed)
    if not 0 < horizon_ps <= times.max():
        raise ValueError(f"horizon_ps = {horizon_ps}: expected 0 to {times.max()}, the longest run")
    # At equal times failures come before censorings.
    order = np.lexsort((~events, times))
    times, events = times[order], events[order]
    n = len(times)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    areas = _areas(times, events, np.vstack([np.ones(n), drawn]), horizon_ps)
    estimate = _estimate(areas[0], areas[1:], confidence)
    in_time = events & (times <= horizon_ps)
    if (failures := int(in_time.sum())) >= FEWEST_FAILURES:
        return estimate
    whole = int((in_time | (times >= horizon_ps)).sum())
    lost = 1.0
    if failures < whole:
        lost = float(stats.beta.ppf((1 + confidence) / 2, failures + 1, whole - failures))
    return _widened(estimate, (1 - lost) * horizon_ps, horizon_ps)


def failure_rate(ends: Sequence[Ending], *, confidence: float = CONFIDENCE) -> FailureRate:
    """Failures per time, with the exact one-sided Poisson bound of all replicas together.

    A failed replica adds the time until its failure. The bound holds for a rate that is the same
    at all times and for all replicas.

    Raises:
        ValueError: no simulated time.
    """
    time_ps = sum(end.time_ps for end in ends)
    if not time_ps > 0:
        raise ValueError("no simulated time: a failure rate is not defined")
    failures = sum(end.failed for end in ends)
    return FailureRate(
        failures=failures,
        time_ps=time_ps,
        rate_per_ps=failures / time_ps,
        bound_per_ps=rate_bound(failures, time_ps, confidence),
        confidence=confidence,
    )


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
        _estimate(value[i], resampled[:, i], confidence) for i in range(len(value))
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
    warned = _fraction(mine > 0, confidence, Outcome.NOT_ENOUGH_FAILURES)
    return LeadTime(
        median_ps=_estimate(float(np.median(mine)), np.median(resampled, axis=1), confidence),
        # The wider of both: the bootstrap has no width where all were warned.
        warned=_widened(warned, *np.quantile((resampled > 0).mean(axis=1), [tail, 1 - tail])),
        threshold=float(thresholds[rank - 1]),
        false_alarm_rate=false_alarm_rate,
    )


def _checked(
    at_ps: Sequence[float] | np.ndarray, failed: Sequence[bool] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    values, events = np.asarray(at_ps, dtype=float), np.asarray(failed, dtype=bool)
    if not len(values) or values.shape != events.shape:
        raise ValueError(f"expected one value and one flag per replica: {values.shape} values")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError("times and Λ must be finite and not negative")
    return values, events


def _refuse_nan(score: np.ndarray) -> None:
    if np.isnan(score).any():
        raise ValueError("scores must not be NaN: leave those points out, or score them infinite")


def _first(at_ps: np.ndarray, reached: np.ndarray) -> float | None:
    return float(at_ps[reached.argmax()]) if reached.any() else None


def _fraction(flags: np.ndarray, confidence: float, if_none: Outcome) -> Estimate:
    """A fraction with its exact interval (C. J. Clopper, E. S. Pearson, Biometrika 26, 404)."""
    if not len(flags):
        return Estimate(outcome=if_none, confidence=confidence)
    interval = stats.binomtest(int(flags.sum()), len(flags)).proportion_ci(confidence)
    return Estimate(
        outcome=Outcome.ESTIMATED,
        value=float(flags.mean()),
        low=float(interval.low),
        high=float(interval.high),
        confidence=confidence,
    )


def _estimate(value: float, resampled: np.ndarray, confidence: float) -> Estimate:
    """A value with the percentile interval of its bootstrap samples."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(
        outcome=Outcome.ESTIMATED,
        value=float(value),
        low=float(low),
        high=float(high),
        confidence=confidence,
    )


def _widened(estimate: Estimate, low: float, high: float) -> Estimate:
    """The estimate with an interval that reaches at least from `low` to `high`."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(
        estimate, low=min(estimate.low, float(low)), high=max(estimate.high, float(high))
    )


def _areas(
    times_ps: np.ndarray, events: np.ndarray, weights: np.ndarray, horizon_ps: float
) -> np.ndarray:
    """Areas under weighted survival curves up to the horizon, shape (B,), ps.

    Args:
        times_ps: ascending, shape (R,), ps.
        events: whether each is a failure; at equal times failures first, shape (R,).
        weights: how often each replica counts, shape (B, R).
        horizon_ps: where the area ends, ps.
    """
    at_risk = weights[:, ::-1].cumsum(axis=1)[:, ::-1]
    lost = np.where(events, weights, 0) / np.maximum(at_risk, 1)
    survival = np.cumprod(1 - lost, axis=1)
    before = np.hstack([np.ones((len(weights), 1)), survival])
    edges = np.concatenate([[0.0], np.minimum(times_ps, horizon_ps), [horizon_ps]])
    return before @ np.diff(edges)


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
