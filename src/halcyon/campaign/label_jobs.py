"""The label jobs of a campaign: its settings, its folders and its budget, as `labels` needs them.

    job = label_job(campaign, "ethanol", "gen003", shard=0, seed=1)
    labelled = job.label(frames, campaign.reference(), store, cores=4)

Not for: labelling (`labels.job`), or the files that the workflow declares (`paths`).
"""

from halcyon.campaign.budget import Spent, label_files, label_work
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.sizes import batch_number
from halcyon.config import RampBias, Settings, XtbReference
from halcyon.labels import journal
from halcyon.labels.job import LabelJob


def label_job(campaign: Campaign, system: str, batch: str, shard: int, *, seed: int) -> LabelJob:
    """Compose a label job.

    Args:
        campaign: the whole campaign.
        system: name of the system.
        batch: `seed`, or the generation's folder.
        shard: number of the label shard, from 0; the first one checks the forces of one frame.
        seed: draws that frame.
    """
    plan = campaign.systems[system]
    settings, reference = plan.settings, campaign.settings.reference
    return LabelJob(
        structures=plan.structures,
        sanity=settings.sanity,
        temperature_K=hottest(settings),
        reactive=plan.system.kind == "reactive",
        compare_with_xtb=settings.sanity.xtb and not isinstance(reference, XtbReference),
        check_forces=shard == 0 and settings.sanity.finite_difference,
        seed=seed,
        provenance={"campaign": campaign.settings.campaign, "system": system},
        work=label_work(campaign, system, batch, shard),
        other_journals=[
            label_work(campaign, system, batch, number) / journal.NAME
            for number in range(settings.resources.label_shards)
            if number != shard
        ],
        earlier_labels=[
            path
            for path in label_files(campaign, system)
            if batch_number(path.parents[1].name) < batch_number(batch)
        ],
        may_start=Spent(campaign, settings.limits).may_start,
    )


def hottest(settings: Settings) -> float:
    """Highest temperature that frames are sampled at, K."""
    bias = settings.exploration.bias
    ramp = [bias.to_K] if isinstance(bias, RampBias) else []
    return max(*settings.exploration.temperatures_K, settings.seed_labels.max_temperature_K, *ramp)
