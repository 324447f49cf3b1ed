"""A number with its interval, or the reason why there is none; and four ways to an interval.

    import numpy as np
    from halcyon.verdict.estimates import Outcome, fraction

    fraction(np.array([True, False, True]), 0.95, Outcome.NOT_ENOUGH_FAILURES)
    # Estimate(outcome="estimated", value=0.667, low=0.094, high=0.992, confidence=0.95)

Too little data is an outcome of its own (`Outcome`), never a number.

Not for: what is estimated (see `survival`).
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

FEWEST_FAILURES = 5
"""With fewer failed replicas no interval here is worth its name: none is given."""
CONFIDENCE = 0.95


class Outcome(StrEnum):
    """Whether the data answer the question."""

    ESTIMATED = "estimated"
    NOT_REACHED = "not reached"
    NOT_ENOUGH_FAILURES = "not enough failures"
    NOT_ENOUGH_SURVIVORS = "not enough survivors"
    NOT_ENOUGH_DATA = "not enough data"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with the ends of its interval."""

    # For the forms of files that contain it (`verdict.forms`, `final.evidence`).
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    value: Annotated[float, Field(description="The value.")]
    low: Annotated[float, Field(description="Lower end of its interval.")]
    high: Annotated[float, Field(description="Upper end of its interval.")]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval, or why there is none.

    It is not an `Interval`, because the data need not bound it on both sides.

    Attributes:
        outcome: the numbers are there if `estimated`.
        value: point estimate.
        low: lower end of the interval. Also there if `not reached`: the value is above it.
        high: upper end; None: the data do not bound it.
        confidence: two-sided level of the interval.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

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


def rate_bound(events: int, time_ps: float, confidence: float) -> float:
    """Exact one-sided upper bound of a Poisson rate, 1/ps (F. Garwood, Biometrika 28, 437, 1936).

    Zero events in W ps give 3.0/W at 95 %.

    Args:
        events: number of events.
        time_ps: time in which they were counted, ps, over 0.
        confidence: of the bound.
    """
    from scipy import stats

    return float(stats.gamma.ppf(confidence, events + 1) / time_ps)


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
