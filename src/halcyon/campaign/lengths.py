"""A system as one of its generations explores it: some explore longer than the settings say.

    from halcyon.campaign.lengths import plan_of_generation

    plan_of_generation(campaign, "ethanol", 3).settings.exploration.time_ps

The job, its size on a cluster, and `halcyon status` ask here.

Not for: by how much (`verdict.longer`).
"""

from dataclasses import replace
from pathlib import Path

from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.campaign.paths import batch_name
from halcyon.config import Settings
from halcyon.verdict.forms import Verdict
from halcyon.verdict.longer import next_time_ps


def plan_of_generation(campaign: Campaign, system: str, generation: int | None) -> SystemPlan:
    """The plan, with the time that the exploration of a generation takes.

    Args:
        campaign: the whole campaign.
        system: name of the system.
        generation: counted from 0; None before the first and after the last.

    Raises:
        InputError: the verdict before cannot be read.
    """
    plan = campaign.systems[system]
    if not generation:
        return plan
    path: Path = campaign.folder / system / batch_name(generation - 1) / "verdict.json"
    if not path.exists():
        return plan
    before = Verdict.read(path)
    if before.explored is None:  # an early release, which did not say
        return plan
    time_ps = next_time_ps(before.saturation, before.explored.time_ps, plan.settings)
    return replace(plan, settings=exploring_for(plan.settings, time_ps))


def exploring_for(settings: Settings, time_ps: float | None) -> Settings:
    """The settings with another time of each replica.

    Args:
        settings: of the system.
        time_ps: ps; None: it stays as it is.
    """
    if time_ps is None or time_ps == settings.exploration.time_ps:
        return settings
    exploration = settings.exploration.model_copy(update={"time_ps": time_ps})
    return settings.model_copy(update={"exploration": exploration})
