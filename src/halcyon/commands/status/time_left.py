"""How long a campaign may still take, from what its own jobs took.

    from halcyon.campaign.paths import generation_jobs
    from halcyon.commands.status.time_left import seconds_left

    states = dict.fromkeys(generation_jobs(campaign, "ethanol", 1), "waiting")
    seconds_left(campaign, "ethanol", states, generation=1)  # at least, and at most

Not for: what a campaign costs before it has run (`halcyon plan`).
"""

from collections import Counter
from collections.abc import Mapping

from halcyon.campaign import paths, rates, work
from halcyon.campaign.accounts import read_ledger
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.lengths import plan_of_generation
from halcyon.campaign.paths import PlannedJob


def seconds_left(
    campaign: Campaign, system: str, states: Mapping[PlannedJob, str], generation: int | None
) -> list[float] | None:
    """Seconds to the next verdict at least, and to the last allowed at most; one job at a time.

    Args:
        campaign: the whole campaign.
        system: its name.
        states: of all jobs of generations that have begun, see `jobs.Activity.state`.
        generation: the newest that has begun; None: none has.

    Returns:
        Both, or None before this system has trained a model.
    """
    plan = campaign.systems[system]
    entries = read_ledger(paths.ledger(campaign.folder), system)
    known = rates.from_ledger(plan, entries, "")
    if "train" not in known:
        return None
    label_jobs = [entry["seconds"] for entry in entries if entry["stage"] == "label"]

    def seconds(stage: str, number: int | None, part: float) -> tuple[float, float]:
        """Least and most seconds of a part of a stage's jobs."""
        if stage == "label":
            shards = plan.settings.resources.label_shards
            batches = [job * shards for job in label_jobs] or [0.0]
            return min(batches) * part, max(batches) * rates.LEDGER_FACTORS[1] * part
        if stage not in known:
            return 0.0, 0.0
        of_generation = plan
        if stage == "explore":
            of_generation = plan_of_generation(campaign, system, number)
        took = known[stage].times(work.units(of_generation, stage, number) * part)
        return took.low, took.high

    jobs: Counter[tuple[str, int | None]] = Counter()
    unfinished: Counter[tuple[str, int | None]] = Counter()
    for job, state in states.items():
        jobs[job.stage, job.generation] += 1
        unfinished[job.stage, job.generation] += state != "done"
    parts = [
        seconds(stage, number, left / jobs[stage, number])
        for (stage, number), left in unfinished.items()
    ]
    least, most = sum(low for low, _ in parts), sum(high for _, high in parts)
    begun = 0 if generation is None else generation + 1
    for number in range(begun, plan.settings.limits.max_generations):
        most += sum(seconds(stage, number, 1)[1] for stage in paths.GENERATION)
    return [least, most]
