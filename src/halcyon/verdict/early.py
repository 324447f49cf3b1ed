"""May an exploration end early, since it will hardly be calm?

    from pathlib import Path
    from halcyon.config import Settings
    from halcyon.verdict.early import restless
    from halcyon.verdict.runs import read_run

    run = read_run(Path("results/quickstart/ethanol/gen000"))
    restless(run.traces, run.replicas, Settings())  # ethanol at 500 K: 1 of 8 replicas failed

A model that has learned little leaves its domain at once. The verdict is as good as known long
before the end then, and frames to label are plenty. Lower bounds must be far over their limits for
it: replicas may be restless where they begin, and calm down.

Not for: the verdict, which judges what was explored as if no more had been asked (`saturation`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from halcyon.config import Settings
from halcyon.verdict.calm import calm_parts, hopeless
from halcyon.verdict.forms import Ended
from halcyon.verdict.saturation import confidence_spent

if TYPE_CHECKING:
    import pandas as pd


def restless(traces: "pd.DataFrame", replicas: Sequence[Ended], settings: Settings) -> str:
    """Why an exploration will hardly be calm; empty: it may be.

    Args:
        traces: so far, as `exploration.explore` makes them.
        replicas: how each would end now.
        settings: limits; `exploration.time_ps` is the time so far.
    """
    parts = calm_parts(traces, replicas, settings, confidence=confidence_spent(settings))
    for part in parts:
        if why := hopeless(part, settings.saturation):
            return f"{part.structure} at {part.temperature_K:g} K: {why}"
    return ""
