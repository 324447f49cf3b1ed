"""How long a unit of work takes, with an interval and where that is known from.

    from halcyon.campaign.rates import from_ledger

    entries = [{"stage": "explore", "seconds": 64.0, "units": 32_000}]
    rate = from_ledger(campaign.systems["ethanol"], entries, "campaign ethanol-1")["explore"]
    rate.times(1000).value  # 2.0

Rates come from this campaign's own jobs, from other campaigns, from stored labels, or from a short
trial. All are for one core, or one GPU.

Not for: how many units there are (`work`), or what a cluster is asked for (`sizes`).
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from halcyon.campaign.campaign import SystemPlan
from halcyon.campaign.work import recorded_units
from halcyon.verdict.estimates import Interval
from halcyon.wording import count

LEDGER_FACTORS = (0.8, 1.5)
"""By how much the next job may be faster or slower than the fastest and the slowest before it:
assumed, not measured."""


@dataclass(frozen=True, kw_only=True)
class Rate(Interval):
    """Seconds per unit of work: what to expect, at least and at most.

    Attributes:
        source: where that is known from, for people.
    """

    source: str

    @classmethod
    def around(cls, values: Iterable[float], factors: tuple[float, float], source: str) -> "Rate":
        """The range of some measurements, widened by a factor below and one above."""
        ordered = sorted(values)
        return cls(
            value=statistics.median(ordered),
            low=factors[0] * ordered[0],
            high=factors[1] * ordered[-1],
            source=source,
        )

    def times(self, units: float) -> "Rate":
        """Seconds of so many units."""
        low, value, high = (part * units for part in (self.low, self.value, self.high))
        return Rate(value=value, low=low, high=high, source=self.source)


def from_ledger(
    plan: SystemPlan, entries: Iterable[Mapping[str, Any]], source: str
) -> dict[str, Rate]:
    """Rates by stage from the jobs that a system has done.

    Label jobs give none: labels that the store had cost nothing. The store itself knows better.

    Args:
        plan: of the system.
        entries: its entries in the ledger, see `stage.Job.done`.
        source: which campaign, for people.
    """
    seconds: dict[str, list[float]] = {}
    for entry in entries:
        stage = entry["stage"]
        if stage != "label":
            per_unit = entry["seconds"] / max(recorded_units(plan, entry), 1)
            seconds.setdefault(stage, []).append(per_unit)
    return {
        stage: Rate.around(values, LEDGER_FACTORS, f"{source}, {count(len(values), 'job')}")
        for stage, values in seconds.items()
    }
