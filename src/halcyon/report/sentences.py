"""What a campaign came to, in sentences: the verdict, what it rests on, what to do next.

Not for: finding the numbers (`collected`), or deciding anything (`saturation`).
"""

import math

from halcyon import stability
from halcyon.report.collected import SystemReport
from halcyon.saturation import Decision, Finding

MANY_WITHOUT_LABEL = 0.2
"""Share of label calculations without a label above which the reader is told to look."""


def verdict_sentence(report: SystemReport) -> str:
    """The verdict and the numbers it rests on, in a sentence or two."""
    last, number = report.last, len(report.generations)
    found = last.saturation
    under = conditions(report)
    count = f"{number} generation" + ("s" if number > 1 else "")
    failed = f"{found['failed']} of {found['replicas']} replicas failed"
    confidence = f"{found['confidence'] * 100:g} % bound"
    if last.decision is Decision.SATURATED:
        return (
            f"Saturated{under} after {count}: fewer than {found['rate_bound_per_atom_ps']:.3g} "
            f"excursions per atom and ps ({confidence}, limit "
            f"{found['rate_limit_per_atom_ps']:g}), {failed}."
        )
    match last.decision:
        case Decision.MAX_GENERATIONS:
            said = f"NOT saturated{under}: the campaign ended after {count}, the most allowed."
        case Decision.BUDGET_SPENT:
            said = (
                f"NOT saturated{under}: the label budget is spent ({last.spent} of {last.budget}) "
                f"after {count}."
            )
        case _:
            said = f"Not finished: not saturated{under} after {count} so far."
    if found["failed"]:
        return f"{said} {failed}."
    if found["finding"] == Finding.NOT_ENOUGH_DATA:
        return f"{said} {failed}, but {found['reason']}."
    return (
        f"{said} {failed}, but there may be up to {found['rate_bound_per_atom_ps']:.3g} excursions "
        f"per atom and ps ({confidence}, limit {found['rate_limit_per_atom_ps']:g})."
    )


def conditions(report: SystemReport) -> str:
    """What set the exploration apart from plain dynamics at constant volume and temperature."""
    settings, said = report.plan.settings.exploration, ""
    match settings.bias.kind:
        case "ramp":
            said = f" on a temperature ramp to {settings.bias.to_K:g} K"
        case "metadynamics":
            said = " under metadynamics"
    match settings.ensemble:
        case "nve":
            said += " without a thermostat (NVE)"
        case "npt":
            said += f" at constant pressure (NPT, {settings.pressure_bar:g} bar)"
    return said


def coverage_sentence(report: SystemReport) -> str:
    """What the verdict rests on, and that it says nothing beyond."""
    last, settings = report.last, report.plan.settings.exploration
    kelvin = ", ".join(
        f"{t:g}" for t in sorted({entry["temperature_K"] for entry in last.replicas})
    )
    first = len(last.replicas) - last.replaced
    fresh = ""
    if last.replaced:
        took = "places of failed ones" if last.replaced > 1 else "place of a failed one"
        fresh = f" and {last.replaced} that took the {took},"
    beyond = "Longer times and other temperatures are not covered."
    if settings.bias.kind != "none":
        beyond = (
            "Λ and its rates are those of the biased dynamics, not of plain dynamics. Longer times "
            "are not covered."
        )
    return (
        f"It rests on {first} replica{'s' if first > 1 else ''} of up to {settings.time_ps:g} ps "
        f"at {kelvin} K{conditions(report)}{fresh} with the model of generation {last.number}, "
        f"{stability.plain(last.simulated_ps)} ps in all. {beyond}"
    )


def next_step(report: SystemReport) -> str:
    """What to do now, in a sentence or two."""
    last, settings = report.last, report.plan.settings
    found = last.saturation
    failed = sum(last.unlabelled.values())
    warning = ""
    if last.spent and failed > MANY_WITHOUT_LABEL * last.spent:
        warning = (
            f" But {failed} of {last.spent} label calculations gave no label: read their messages "
            "below first."
        )
    match last.decision:
        case Decision.SATURATED:
            return (
                f"Next: use {report.model} for up to {settings.exploration.time_ps:g} ps at these "
                "temperatures; for longer or hotter dynamics, raise exploration.time_ps or "
                f"temperatures_K and run the same command.{warning}"
            )
        case Decision.CONTINUE:
            return (
                "Next: run the same command again, it goes on with generation "
                f"{last.number + 1}.{warning}"
            )
        case Decision.BUDGET_SPENT:
            limit = f"limits.label_budget over {last.budget}"
        case _:
            limit = f"limits.max_generations over {settings.limits.max_generations}"
    if not found["failed"] and found["finding"] == Finding.NOT_ENOUGH_DATA:
        return f"Next: {_more_time(report)}, {limit}, and run the same command.{warning}"
    return (
        f"Next: raise {limit} and run the same command: what was labelled is not labelled again."
        f"{warning}"
    )


def _more_time(report: SystemReport) -> str:
    """How much more simulated time a bound under the limit needs even without an excursion."""
    found = report.last.saturation
    needed = -math.log(1 - found["confidence"]) / found["rate_limit_per_atom_ps"]
    return (
        "raise exploration.time_ps or replicas (the late window has "
        f"{stability.plain(found['atom_time_ps'])} atom-ps; without any excursion it takes at "
        f"least {stability.plain(needed)})"
    )
