"""The label jobs of a campaign: what a job needs from it, and the messages of a job.

    from halcyon.campaign.label_jobs import label_job

    job = label_job(campaign, "ethanol", "gen003", 0, seed=1)
    job.check_forces  # True

Not for: labelling (`labels.job`), or the files that the workflow declares (`paths`).
"""

import time
from collections import Counter
from collections.abc import Callable

from halcyon.campaign.budget import Spent
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.paths import batch_number, label_files, label_scratch
from halcyon.config import RampBias, Settings, XtbReference
from halcyon.labels import journal
from halcyon.labels.job import LabelJob, Labelled
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.labels.reference.base import Record, Status
from halcyon.wording import count

MESSAGE_EVERY_S = 10.0
"""Least time between two messages about good labels, s."""


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
        needs_stress=settings.needs_stress,
        compare_with_xtb=settings.sanity.xtb and not isinstance(reference, XtbReference),
        check_forces=shard == 0 and settings.sanity.finite_difference,
        seed=seed,
        provenance={"campaign": campaign.settings.campaign, "system": system},
        work=label_scratch(campaign, system, batch, shard),
        other_journals=[
            label_scratch(campaign, system, batch, number) / journal.NAME
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


class LabelMessages:
    """Messages of a running label job: every failure, and from time to time how many are done."""

    def __init__(
        self, say: Callable[[str, str], None], frames: int, every_s: float = MESSAGE_EVERY_S
    ) -> None:
        """Begin.

        Args:
            say: shows a message in a style of `rich`.
            frames: number of frames of the job; with several spins there are more labels.
            every_s: least time between two messages about good labels, s.
        """
        self._say = say
        self._frames = frames
        self._every_s = every_s
        self._last = time.monotonic()

    def __call__(self, done: int, record: Record) -> None:
        """Take a record; `report` of `Labeller.label`."""
        if record.status is not Status.OK:
            self._say(f"label {done}: {record.status}: {record.message}", "yellow")
        elif time.monotonic() - self._last > self._every_s:
            self._say(
                f"label {done} for {count(self._frames, 'frame')}; it took {record.seconds:.1f} s",
                "default",
            )
        else:
            return
        self._last = time.monotonic()


def judgements(labelled: Labelled, core_hours: float | None) -> list[tuple[str, str]]:
    """Messages about labels that were judged, each with a style of `rich`.

    Args:
        labelled: what the job hands on.
        core_hours: the budget, `limits.core_hours`.
    """
    messages = []
    for frame in labelled.frames:
        info = frame.info
        if info["status"] == Status.REJECTED:
            messages.append((f"label rejected: {info['message']}", "yellow"))
        elif "flag" in info:
            words = f"label worth a look: {info['structure']} {info['key']}: {info['flag']}"
            messages.append((words, "yellow"))
    verdict = {True: "agree", False: "DO NOT AGREE", None: "could not be compared"}
    for what, slopes in (("forces", labelled.slopes), ("stress", labelled.strains)):
        for slope in slopes:
            words = f"{what} and energies {verdict[slope.passed]}: {slope.message}"
            messages.append((words, "default" if slope.passed else "bold yellow"))
    not_computed = sum(frame.info["status"] == NOT_COMPUTED for frame in labelled.frames)
    if not_computed:
        words = (
            f"{count(not_computed, 'frame')} not computed: the budget of {core_hours:g} core-hours "
            "is spent. To compute them, raise limits.core_hours and run the same command again"
        )
        messages.append((words, "bold yellow"))
    return messages


def summary(labelled: Labelled, damaged_shards: int) -> str:
    """How many frames ended how, and how many shards of the store were found damaged."""
    statuses = Counter(frame.info["status"] for frame in labelled.frames)
    words = ", ".join(f"{n} {status}" for status, n in statuses.items()) or "nothing to label"
    if damaged_shards:
        words += f"; {count(damaged_shards, 'damaged label shard')} set aside"
    return words
