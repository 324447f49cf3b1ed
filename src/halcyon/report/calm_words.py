"""Are the dynamics calm, and was enough explored? Sentences and tables about events.

    from halcyon.report import collect
    from halcyon.report.calm_words import calm_clause, calm_text

    report = collect(campaign, "ethanol", verdicts)
    calm_clause(report.last.saturation)  # at most 31.2 events per ns and molecule (limit 100)

Not for: counting events (`verdict.events`), or drawing them (`page.calm`).
"""

import math
from collections.abc import Sequence

from halcyon.config import Settings
from halcyon.report.contents import Generation, SystemReport
from halcyon.report.summary import number_text
from halcyon.verdict.forms import Assessment, Calm, Finding
from halcyon.wording import listed, per_cent, significant

FEW_REPLICAS = 4
"""With fewer replicas of a structure at a temperature the reader is told."""


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
    return f"{bound} events per ns and molecule ({level}, {limit})"


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
    heading = [
        "Generation",
        "Structure",
        "T, K",
        "Failed / replicas",
        "Time, ps",
        "In decorrelation times of",
        "Events, late window",
        "Events per ns and molecule",
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


def factor_needed(assessment: Assessment, settings: Settings) -> float | None:
    """By how much more must be simulated for a generation without any event to be called calm.

    Over all structures and temperatures the greatest of: decorrelation times asked for over those
    that were simulated; and the exposure (molecules × late window) at which no event at all gives
    the bound λ*, over the exposure there was. None: too little is known to say.
    """
    if assessment.events_limit_per_ns is None:
        needed = -math.log(1 - assessment.confidence)
        if not assessment.rate_limit_per_atom_ps or not assessment.atom_time_ps:
            return None
        return needed / assessment.rate_limit_per_atom_ps / assessment.atom_time_ps
    level = assessment.confidence_spent or assessment.confidence
    exposure_ps = -math.log(1 - level) / assessment.events_limit_per_ns * 1000
    factors = []
    for part in assessment.parts:
        if not part.window_ps or not part.molecules:
            return None
        factors.append(exposure_ps / (part.window_ps * part.molecules))
        if part.decorrelation_times:
            factors.append(settings.saturation.decorrelation_times / part.decorrelation_times)
    return max(factors, default=None)


def more_exploration(report: SystemReport) -> str:
    """What to raise so that enough is explored, with the numbers that it takes at least."""
    exploration = report.plan.settings.exploration
    factor = factor_needed(report.last.saturation, report.plan.settings)
    if factor is None or factor <= 1:
        return "raise exploration.time_ps or exploration.replicas"
    time_ps = _rounded_up(exploration.time_ps * factor)
    replicas = math.ceil(exploration.replicas * factor)
    return (
        f"raise exploration.time_ps from {exploration.time_ps:g} to at least {time_ps:g}, or "
        f"exploration.replicas from {exploration.replicas} to at least {replicas:,}"
    )


def _rounded_up(value: float) -> float:
    """Two significant digits, rounded up: less would not be enough."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / unit - 1e-9) * unit, 12)
