"""May an exploration end early, since it cannot be calm any more?

    from halcyon.config import Settings
    from halcyon.verdict.early import restless

    restless(traces, replicas, Settings())  # a replica of ethanol at 500 K failed

A model that has learned little leaves its domain at once. The verdict is certain long before the
end then, and frames to label are plenty: the rest of the run would only cost.

Not for: the verdict, which judges what was explored as if no more had been asked (`saturation`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from halcyon.config import SaturationSettings, Settings
from halcyon.verdict.calm import calm_parts
from halcyon.verdict.forms import Calm, Ended
from halcyon.verdict.saturation import confidence_spent
from halcyon.wording import count, significant

if TYPE_CHECKING:
    import pandas as pd

TIMES_OVER = 10.0
"""Lower bounds so many times over their limits decide: starts may be restless, and calm down."""


def restless(traces: "pd.DataFrame", replicas: Sequence[Ended], settings: Settings) -> str:
    """Why an exploration cannot be calm any more; empty: it may be.

    Args:
        traces: so far, as `exploration.explore` makes them.
        replicas: how each would end now.
        settings: limits; `exploration.time_ps` is the time so far.
    """
    parts = calm_parts(traces, replicas, settings, confidence=confidence_spent(settings))
    for part in parts:
        if why := _decisive(part, settings.saturation):
            return f"{part.structure} at {part.temperature_K:g} K: {why}"
    return ""


def _decisive(part: Calm, limits: SaturationSettings) -> str:
    """What a structure at a temperature can hardly make good; empty: nothing."""
    if part.failed:
        return f"{part.failed} of {count(part.replicas, 'replica')} failed"
    if part.window_ps > 0 and not part.calm_ps > 0:
        return "some atom was unreliable all the time in each replica"
    if (part.events_low_per_ns or 0.0) > TIMES_OVER * limits.events_per_ns:
        low = significant(part.events_low_per_ns or 0.0)
        return f"over {low} events per ns and {part.per}, limit {limits.events_per_ns:g}"
    if (part.unreliable_low or 0.0) > TIMES_OVER * limits.unreliable_fraction:
        return (
            f"over {part.unreliable_low:.0%} of the atomic predictions unreliable, limit "
            f"{limits.unreliable_fraction:.3g}"
        )
    return ""
