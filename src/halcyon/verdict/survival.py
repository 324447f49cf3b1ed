"""When replicas fail: survival curves, the critical CLI, restricted means and failure rates.

A replica either failed or was stopped while it still ran (censored). Both count. Time and Λ are in
ps, so one estimator serves both: the survival curve over time, and the curve over Λ, whose median
is the critical CLI `Λ_c`.

    from pathlib import Path
    from halcyon.verdict.runs import read_run
    from halcyon.verdict.survival import critical_cli, endings

    run = read_run(Path("results/quickstart/ethanol/gen001"))
    ends = endings(run.traces, run.replicas, column="cli_label")
    critical_cli(ends).median  # Estimate(outcome="estimated", value=…, low=…, high=…) in ps

Replicas are the independent units: intervals come from resampling whole replicas, never trace
points.

Not for: the rate of events and the verdict of a generation (see `events`, `saturation`), or whether
a score foretells failure (see `benchmarks/validity/detection.py`).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from halcyon.verdict.estimates import (
    CONFIDENCE,
    FEWEST_FAILURES,
    Estimate,
    Outcome,
    bootstrapped,
    fraction,
    rate_bound,
    widened,
)
from halcyon.verdict.forms import CriticalCli, Ended, FailureRate


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How one replica ended.

    Attributes:
        time_ps: simulated time until the replica failed or was stopped, ps.
        cli_ps: Λ of the replica at that time, ps.
        failed: whether the replica failed; if not, it is censored.
    """

    time_ps: float
    cli_ps: float
    failed: bool


@dataclass(frozen=True, kw_only=True)
class SurvivalCurve:
    """Kaplan–Meier estimate: the fraction that gets further than each point without failing.

    Attributes:
        at_ps: time or Λ of every ending, ascending, shape (E,), ps. Survival is 1 before the
            first of them.
        survival: fraction surviving from each ending on, shape (E,).
        low: lower end of the pointwise interval of the survival, shape (E,).
        high: upper end of that interval, shape (E,).
        at_risk: replicas still under observation just before each ending, shape (E,).
        failures: number of failed replicas.
        confidence: two-sided level of the pointwise interval.
    """

    at_ps: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_risk: np.ndarray
    failures: int
    confidence: float


def endings(
    traces: pd.DataFrame, replicas: Sequence[Ended], *, column: str = "cli_label"
) -> list[Ending]:
    """How the replicas of an exploration ended.

    Args:
        traces: as `exploration.explore` makes them; a failure is always a trace point.
        replicas: how each ended, e.g. `forms.ReplicaEnd`.
        column: column of the traces that holds Λ, ps.
    """
    last = traces.sort_values("time").groupby("replica")[column].last()
    return [
        Ending(
            time_ps=end.time_ps,
            cli_ps=float(last.get(end.replica, 0.0)),
            failed=end.failure is not None,
        )
        for end in replicas
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
        failed: whether the replica failed then, shape (R,); if not, it is censored.
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
        ends: how all replicas so far ended.
        confidence: two-sided level of the intervals.

    Raises:
        ValueError: no replicas, or values that are not finite or negative.
    """
    cli = np.array([end.cli_ps for end in ends])
    failed = np.array([end.failed for end in ends])
    median = median_ps(kaplan_meier(cli, failed, confidence=confidence))
    missed = false_alarms = Estimate(outcome=median.outcome, confidence=confidence)
    if median.value is not None:
        missed = fraction(cli[failed] < median.value, confidence, Outcome.NOT_ENOUGH_FAILURES)
        false_alarms = fraction(
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
        failed: whether the replica failed, shape (R,).
        horizon_ps: at most the longest of the times, ps.
        seed: seed of the bootstrap.
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
    estimate = bootstrapped(areas[0], areas[1:], confidence)
    in_time = events & (times <= horizon_ps)
    if (failures := int(in_time.sum())) >= FEWEST_FAILURES:
        return estimate
    whole = int((in_time | (times >= horizon_ps)).sum())
    lost = 1.0
    if failures < whole:
        lost = float(stats.beta.ppf((1 + confidence) / 2, failures + 1, whole - failures))
    return widened(estimate, (1 - lost) * horizon_ps, horizon_ps)


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


def _checked(
    at_ps: Sequence[float] | np.ndarray, failed: Sequence[bool] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    values, events = np.asarray(at_ps, dtype=float), np.asarray(failed, dtype=bool)
    if not len(values) or values.shape != events.shape:
        raise ValueError(f"expected one value and one flag per replica: {values.shape} values")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError("times and Λ must be finite and not negative")
    return values, events


def _first(at_ps: np.ndarray, reached: np.ndarray) -> float | None:
    return float(at_ps[reached.argmax()]) if reached.any() else None


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
