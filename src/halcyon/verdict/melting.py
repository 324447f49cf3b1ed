"""Has a crystal melted? A remark of the verdict, never a failure.

    from pathlib import Path
    from halcyon.verdict.forms import ExplorationSummary
    from halcyon.verdict.melting import order_of

    summary = ExplorationSummary.read(Path("results/quickstart/ethanol/gen001/exploration.json"))
    order_of(summary.replicas)  # []: ethanol is no crystal

Crystals melt where the atoms' root-mean-square displacement is 0.1 to 0.15 of the distance of
nearest neighbours (J. J. Gilvarry, Phys. Rev. 102, 308, 1956, after F. A. Lindemann, Phys. Z. 11,
609, 1910). `MELTED` is the upper end, so that a hot crystal is not called molten; in a melt the
ratio grows with time and is over it within some ps.

Not for: measuring displacements (see `exploration.melting`), or failures (`domain.failures`).
"""

import math
from collections.abc import Sequence
from typing import Protocol

from halcyon.verdict.forms import Assessment, Ended, Order, ReplicaEnd
from halcyon.wording import count, listed

MELTED = 0.15
"""A replica whose Lindemann ratio is greater is called molten."""


class Measured(Protocol):
    """A replica's end with its Lindemann ratio."""

    @property
    def structure(self) -> str:
        """Start structure."""

    @property
    def temperature_K(self) -> float:  # noqa: N802 - units are written as units
        """Temperature of the thermostat, K."""

    @property
    def lindemann(self) -> float | None:
        """The ratio; None: not measured."""


def order_of(replicas: Sequence[Measured]) -> list[Order]:
    """Lindemann ratios of each crystal at each temperature; those of replicas in the mean square.

    Args:
        replicas: how each ended.
    """
    ratios: dict[tuple[str, float], list[float]] = {}
    for end in replicas:
        if end.lindemann is not None:
            ratios.setdefault((end.structure, end.temperature_K), []).append(end.lindemann)
    return [
        Order(
            structure=structure,
            temperature_K=kelvin,
            replicas=len(values),
            lindemann=math.sqrt(sum(value**2 for value in values) / len(values)),
            largest=max(values),
            melted=sum(value > MELTED for value in values),
        )
        for (structure, kelvin), values in sorted(ratios.items())
    ]


def with_order(assessment: Assessment, replicas: Sequence[Ended]) -> Assessment:
    """An assessment that knows the Lindemann ratios, and says in words what has melted.

    Args:
        assessment: of the dynamics alone.
        replicas: how each ended.
    """
    order = order_of([end for end in replicas if isinstance(end, ReplicaEnd)])
    reason = "; ".join([assessment.reason, *melted_text(order)])
    return assessment.model_copy(update={"order": order, "reason": reason})


def melted_text(order: Sequence[Order]) -> list[str]:
    """What has melted, in a phrase; empty if nothing has.

    "melted, which is no failure: mgo at 3500 K (2 of 8 replicas, Lindemann ratio up to 0.31)".
    """
    molten = [
        f"{part.structure} at {part.temperature_K:g} K ({part.melted} of "
        f"{count(part.replicas, 'replica')}, Lindemann ratio up to {part.largest:.2g})"
        for part in order
        if part.melted
    ]
    return [f"melted, which is no failure: {listed(molten)}"] if molten else []
