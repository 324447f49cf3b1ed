"""A number with its interval, or the reason why there is none; and three ways to an interval.

Too little data is an outcome of its own (`Outcome`), never a number.

Not for: what is estimated (see `survival`, `detection`).
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

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


def fraction(flags: np.ndarray, confidence: float, if_none: Outcome) -> Estimate:
    """A fraction with its exact interval (C. J. Clopper, E. S. Pearson, Biometrika 26, 404)."""
    if not len(flags):
        return Estimate(outcome=if_none, confidence=confidence)
    from scipy import stats

    interval = stats.binomtest(int(flags.sum()), len(flags)).proportion_ci(confidence)
    return Estimate(
        outcome=Outcome.ESTIMATED,
        value=float(flags.mean()),
        low=float(interval.low),
        high=float(interval.high),
        confidence=confidence,
    )


def bootstrapped(value: float, resampled: np.ndarray, confidence: float) -> Estimate:
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


def widened(estimate: Estimate, low: float, high: float) -> Estimate:
    """The estimate with an interval that reaches at least from `low` to `high`."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(
        estimate, low=min(estimate.low, float(low)), high=max(estimate.high, float(high))
    )
