"""How long the next exploration is: longer where nothing but a longer look is missing.

    from pathlib import Path
    from halcyon.config import Settings
    from halcyon.verdict.forms import Verdict
    from halcyon.verdict.longer import next_time_ps

    last = Verdict.read(Path("results/quickstart/ethanol/gen001/verdict.json"))
    next_time_ps(last.saturation, 30.0, Settings())  # ps of each replica; they had 30

A bound on rare events is bought with simulated time, which a model gives at next to no cost; labels
do not lower it once events are rare. Where a generation saw fewer events than the limit, but for
too short a time to bound them by it, the next one is so much longer that the same rate would be
bounded nearly so, at most `exploration.extended_at_most` times `exploration.time_ps`.

Not for: what a verdict says (`saturation`), or what to advise a person (`report.calm_words`).
"""

import math

from halcyon.config import Settings
from halcyon.verdict.forms import Assessment, Calm

DOUBLED = 2.0
"""Factor where the expected error did not decorrelate: how long that takes is not known."""


def next_time_ps(before: Assessment, explored_ps: float, settings: Settings) -> float:
    """Simulated time of each replica in the next generation, ps, in whole tenths where longer.

    It follows from what the last verdict measured, and is the same whenever it is asked.

    Args:
        before: the calm of the generation before.
        explored_ps: simulated time that was asked of each of its replicas.
        settings: that hold for the next generation.
    """
    usual = settings.exploration.time_ps
    longest = max((_factor(part, settings) for part in before.parts), default=math.inf)
    if not math.isfinite(longest):
        return usual
    needed = math.ceil(round(10 * explored_ps * longest, 6)) / 10
    return min(max(usual, needed), usual * settings.exploration.extended_at_most)


def _factor(part: Calm, settings: Settings) -> float:
    """How many times as long a structure must be simulated; infinite: time alone does not help.

    That is where replicas failed, or where not only the bounds but also what was seen is over the
    limits: the model has to learn.
    """
    limits = settings.saturation
    shown = (
        (part.events_per_ns, part.events_bound_per_ns, limits.events_per_ns),
        (part.unreliable_fraction, part.unreliable_bound, limits.unreliable_fraction),
    )
    if part.failed:
        return math.inf
    factors = []
    for value, bound, limit in shown:
        if value is None or bound is None or value >= limit:
            return math.inf
        factors.append(bound / limit)
    if part.decorrelation_times:
        factors.append(limits.decorrelation_times / part.decorrelation_times)
    else:
        factors.append(DOUBLED)
    return max(factors)
