"""Are the dynamics calm, and was enough explored? Sentences and tables about events.

    from halcyon.report import collect
    from halcyon.report.calm_words import calm_clause, calm_text

    report = collect(campaign, "ethanol", verdicts)
    calm_clause(report.last.saturation)  # at most 31.2 events per ns and molecule (limit 100)

Not for: counting events (`verdict.events`), or drawing them (`page.calm`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from halcyon.config import Settings
from halcyon.report.contents import Generation, SystemReport
from halcyon.verdict.calm import LEAST_TIMES_OF_A_REPLICA
from halcyon.verdict.events import least_bound_per_ns
from halcyon.verdict.forms import Assessment, Calm, Finding
from halcyon.wording import listed, number_text, per_cent, significant

FEW_REPLICAS = 4
"""With fewer replicas of a structure at a temperature the reader is told."""
MOST_REPLICAS = 100
"""More than so many times as many replicas are not proposed."""


def calm_clause(assessment: Assessment) -> str:
    """The bound of what makes the dynamics restless, and its limit.

    "up to 31.2 events per ns and molecule (95 % bound, limit 100)". Verdicts of early releases
    counted excursions per atom.
    """
    level = f"{per_cent(assessment.confidence)} bound"
    if assessment.events_limit_per_ns is None:
        return (
            f"{number_text(assessment.rate_bound_per_atom_ps)} excursions per atom and ps "
            f"({level}, limit {number_text(assessment.rate_limit_per_atom_ps)})"
        )
    bound = number_text(assessment.greatest("events_bound_per_ns"))
    limit = f"limit {assessment.events_limit_per_ns:g}"
    return f"{bound} events per ns and {assessment.per} ({level}, {limit})"


def calm_text(report: SystemReport) -> str:
    """What the last generation's dynamics show, in a sentence or two."""
    assessment = report.last.saturation
    if not assessment.parts:
        return (
            "The version of Halcyon that judged this generation counted excursions of atoms, not "
            "events."
        )
    words = {
        Finding.SATURATED: "Calm, and long enough to tell",
        Finding.NOT_SATURATED: "Not calm",
        Finding.NOT_ENOUGH_DATA: "Not explored enough to tell",
    }
    text = f"{words[assessment.finding]}: {assessment.reason}."
    if report.last.ended_early:
        text += (
            f" The exploration ended early, at {report.last.explored_ps:g} ps "
            f"(exploration.early_end): {report.last.ended_early}."
        )
    if few := [part for part in assessment.parts if part.replicas < FEW_REPLICAS]:
        text += (
            " Few replicas: "
            + listed(
                f"{part.replicas} of {part.structure} at {part.temperature_K:g} K" for part in few
            )
            + "; how much replicas differ is hardly known."
        )
    return text


def calm_rows(generations: Sequence[Generation]) -> list[list[str]]:
    """Events by generation, structure and temperature; heading first."""
    per = generations[-1].saturation.per if generations else "molecule"
    heading = [
        "Generation",
        "Structure",
        "T, K",
        "Failed / replicas",
        "Time, ps",
        "In decorrelation times of",
        "Events, late window",
        f"Events per ns and {per}",
        "Bound of events",
        "Limit λ*",
        "Unreliable, %",
        "Bound, %",
        "Finding",
    ]
    return [heading] + [
        [
            str(g.number),
            part.structure,
            f"{part.temperature_K:g}",
            f"{part.failed} / {part.replicas}",
            significant(part.time_ps),
            _decorrelation(part),
            _events(part),
            number_text(part.events_per_ns),
            number_text(part.events_bound_per_ns),
            number_text(g.saturation.events_limit_per_ns),
            _hundredths(part.unreliable_fraction),
            _hundredths(part.unreliable_bound),
            str(part.finding),
        ]
        for g in generations
        for part in g.saturation.parts
    ]


def _decorrelation(part: Calm) -> str:
    if part.decorrelation_ps is None:
        return "could not be measured"
    return f"{number_text(part.decorrelation_times)} of {significant(part.decorrelation_ps)} ps"


def _events(part: Calm) -> str:
    text = f"{part.events} in {significant(part.window_ps)} ps"
    if part.active_at_begin:
        text += f", {part.active_at_begin} active at its begin"
    return text


def _hundredths(fraction: float | None) -> str:
    return number_text(None if fraction is None else 100 * fraction)


@dataclass(frozen=True)
class Needed:
    """By how much more must be simulated so that enough is explored, at least.

    Attributes:
        time: factor of the time of each replica.
        replicas: factor of their number, if the time stays; None: more replicas do not help.
    """

    time: float
    replicas: float | None


def needed(assessment: Assessment, settings: Settings) -> Needed | None:
    """What it takes, at the worst structure and temperature; None: too little is known to say.

    That is as much that a late window without any event would show λ*, that the simulated time is
    as many decorrelation times as asked for, and that no replica is too short for itself.
    """
    limit = assessment.events_limit_per_ns
    if limit is None:  # an early release, which counted excursions
        level = -math.log(1 - assessment.confidence)
        if not assessment.rate_limit_per_atom_ps or not assessment.atom_time_ps:
            return None
        factor = level / assessment.rate_limit_per_atom_ps / assessment.atom_time_ps
        return Needed(factor, factor)
    confidence = assessment.confidence_spent or assessment.confidence
    time, replicas, longer = [], [], []
    for part in assessment.parts:
        if not part.window_ps:
            return None
        window_ps = part.window_ps / part.replicas

        def shown(number: int, part: Calm = part, window_ps: float = window_ps) -> float:
            """Bound of the rate without any event of so many replicas."""
            return least_bound_per_ns(
                number, window_ps=window_ps, molecules=part.molecules, confidence=confidence
            )

        time.append(shown(part.replicas) / limit)
        numbers = range(part.replicas, MOST_REPLICAS * part.replicas)
        enough = next((number for number in numbers if shown(number) < limit), None)
        replicas.append(np.inf if enough is None else enough / part.replicas)
        if part.decorrelation_times:
            times = settings.saturation.decorrelation_times / part.decorrelation_times
            time.append(times)
            replicas.append(times)
        if part.decorrelation_ps and part.shortest_ps:
            least_ps = LEAST_TIMES_OF_A_REPLICA / 2 * part.decorrelation_ps
            longer.append(least_ps / part.shortest_ps)
    if not time:
        return None
    helps = max(replicas) < np.inf and max(longer, default=0.0) <= 1
    return Needed(max([*time, *longer]), max(replicas) if helps else None)


def more_exploration(report: SystemReport) -> str:
    """What to raise so that enough is explored, with the numbers that it takes at least."""
    exploration, assessment = report.plan.settings.exploration, report.last.saturation
    calm = all(part.finding is Finding.SATURATED for part in assessment.parts)
    if calm and assessment.bonds_changed == 0:
        return (
            "nothing reacted: raise exploration.time_ps or temperatures_K, or drive reactions by "
            "exploration.bias; if none are needed, set saturation.reactions_needed to false"
        )
    least = needed(assessment, report.plan.settings)
    if least is None or least.time <= 1:
        return "raise exploration.time_ps or exploration.replicas"
    time_ps = _rounded_up(report.last.explored_ps * least.time)
    text = f"raise exploration.time_ps from {exploration.time_ps:g} to at least {time_ps:g}"
    if least.replicas is None:
        return text
    replicas = math.ceil(exploration.replicas * least.replicas)
    return f"{text}, or exploration.replicas from {exploration.replicas} to at least {replicas:,}"


def _rounded_up(value: float) -> float:
    """Two significant digits, rounded up: less would not be enough."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / unit - 1e-9) * unit, 12)
