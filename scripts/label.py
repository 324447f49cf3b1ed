"""Label one shard of selected frames with the reference method.

Frames that were labelled before come from the label store; a frame that cannot be labelled is a
record, not a failure. Good labels are judged before they are handed on.
"""

import time
from collections import Counter
from pathlib import Path

from halcyon import files
from halcyon.campaign import paths, stage
from halcyon.frames import read_frames, write_frames
from halcyon.labels.job import Labelled, Shard
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.labels.reference.base import Record, Status
from halcyon.labels.store import LabelStore


def tell_of(job: stage.Job, labelled: Labelled) -> None:
    """Say what the checks found."""
    for frame in labelled.frames:
        info = frame.info
        if info["status"] == Status.REJECTED:
            job.say(f"rejected: {info['message']}", "yellow")
        elif "flag" in info:
            job.say(f"worth a look: {info['structure']} {info['key']}: {info['flag']}", "yellow")
    for slope in labelled.slopes:
        said = {True: "sound", False: "WRONG", None: "not checked"}[slope.passed]
        job.say(f"forces {said}: {slope.message}", "default" if slope.passed else "bold yellow")
    if left := sum(frame.info["status"] == NOT_COMPUTED for frame in labelled.frames):
        limit = job.plan.settings.limits.core_hours
        job.say(
            f"{left} frames not computed: {limit:g} core-hours are spent. Raise limits.core_hours "
            "and run the same command: they are computed then",
            "bold yellow",
        )


def main(job: stage.Job) -> None:
    args = job.arguments
    frames = read_frames(args.selected)[args.shard :: args.of]
    reference = job.campaign.reference()
    damaged: list[str] = []

    def tell(line: str) -> None:
        damaged.append(line)
        job.say(line, "bold red")

    store = LabelStore(job.campaign.settings.label_store, reference.level, tell)
    told = time.monotonic()

    def report(done: int, record: Record) -> None:
        nonlocal told
        if record.status is not Status.OK:
            job.say(f"label {done}: {record.status}: {record.message}", "yellow")
        elif time.monotonic() - told > stage.TELL_EVERY_S:
            job.say(f"label {done} for {len(frames)} frames, {record.seconds:.1f} s each")
        else:
            return
        told = time.monotonic()

    shard = Shard(
        campaign=job.campaign,
        system=args.system,
        batch=args.batch,
        number=args.shard,
        seed=job.seed(args.batch),
    )
    with job.alone(shard.work):
        labelled = shard.label(
            frames,
            reference,
            store,
            cores=args.threads * args.ranks,
            stop=job.stopping,
            report=report,
        )
        tell_of(job, labelled)
        files.write_json(
            paths.check_file(args.out),
            {"schema": 1, "slopes": [s.as_json for s in labelled.slopes]},
        )
        write_frames(args.out, labelled.frames)
    counts = Counter(frame.info["status"] for frame in labelled.frames)
    job.done(
        f"shard {args.shard + 1} of {args.of}: "
        + (", ".join(f"{n} {status}" for status, n in counts.items()) or "nothing to label")
        + (f"; {len(damaged)} damaged label shards set aside" if damaged else ""),
        args.out,
    )


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--batch", required=True, help="seed, or the generation's folder")
    arguments.add_argument("--selected", required=True, type=Path, help="frames to label")
    arguments.add_argument("--shard", required=True, type=int, help="number of this shard, from 0")
    arguments.add_argument("--of", required=True, type=int, help="number of shards")
    arguments.add_argument(
        "--ranks", type=int, default=1, help="processes that the reference's launcher starts"
    )
    arguments.add_argument("--out", required=True, type=Path, help="frames and records, written")
    stage.run(arguments, main)
