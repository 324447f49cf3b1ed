"""Whether an exploration can ever show what saturation asks for.

    from halcyon.campaign.check_exploration import check_exploration
    from halcyon.errors import InputError

    for name, plan in campaign.systems.items():
        try:
            check_exploration(plan, "config.yaml")
        except InputError:  # says what to raise, and how far
            print(name, "could never saturate")

Not for: other settings of a campaign (see `checks`).
"""

import math
from typing import TYPE_CHECKING

from halcyon import config
from halcyon.errors import InputError
from halcyon.wording import count, listed, per_cent, significant

if TYPE_CHECKING:
    from halcyon.campaign.campaign import SystemPlan

HOPELESS = 20.0
"""A limit of events is not proposed where it would be so many times the one that was asked."""


def check_exploration(plan: "SystemPlan", source: str) -> None:
    """Refuse an exploration that is too short, or has too few replicas, to ever saturate.

    Args:
        plan: a system.
        source: name of the campaign's file, for messages.

    Raises:
        InputError: it has fewer replicas than places, or its late windows are too short.
    """
    from halcyon.systems.molecules import number_of_molecules

    name, settings = plan.system.name, plan.settings
    exploration, explored = settings.exploration, plan.explored
    places = len(explored) * len(exploration.temperatures_K)
    if exploration.replicas < places:
        raise InputError(
            f"{source}: exploration.replicas = {exploration.replicas}: expected at least {places} "
            f"for system {name}: one per structure ({len(explored)}) and temperature "
            f"({len(exploration.temperatures_K)})"
        )
    # Replicas are dealt in turn: the structure and temperature that get the fewest.
    fewest = exploration.replicas // places
    for structure in explored:
        start = plan.start(structure)
        molecules = number_of_molecules(start, kind=plan.system.kind)
        place = f"{name}: {structure}"
        _check_window(settings, fewest, molecules, place, source, kind=plan.system.kind)


def _check_window(
    settings: config.Settings,
    replicas: int,
    molecules: int,
    structure: str,
    source: str,
    *,
    kind: str,
) -> None:
    """Refuse a late window that cannot show so low a rate of events even if it has none."""
    from halcyon.systems.molecules import counted
    from halcyon.verdict.events import least_bound_per_ns
    from halcyon.verdict.saturation import confidence_spent

    exploration, saturation = settings.exploration, settings.saturation
    window_ps, confidence = exploration.time_ps * saturation.window, confidence_spent(settings)

    def best(number: int) -> float:
        return least_bound_per_ns(
            number, window_ps=window_ps, molecules=molecules, confidence=confidence
        )

    limit = saturation.events_per_ns
    if (least := best(replicas)) < limit:
        return
    longer = math.ceil(10 * exploration.time_ps * least / limit + 1e-9) / 10
    more = next((n for n in range(replicas + 1, 1000) if best(n) < limit), None)
    places = exploration.replicas // replicas
    choices = [f"exploration.time_ps to {longer:g}"] if longer < 1e4 else []
    choices += [f"exploration.replicas to {more * places}"] if more else []
    if least < HOPELESS * limit:
        choices.append(f"saturation.events_per_ns over {significant(least)}")
    raise InputError(
        f"{source}: exploration: system {structure}: without a single event, the late windows of "
        f"{count(replicas, 'replica')} with {count(molecules, 'molecule')} each, "
        f"{significant(window_ps)} ps long, show fewer than {significant(least)} events per ns and "
        f"{counted(kind)} ({per_cent(round(confidence, 3))}), and saturation.events_per_ns is "
        f"{limit:g}: explorations of this length can never show it. Raise {listed(choices, 'or')}"
    )
