"""Label one shard of selected frames with the reference method.

Frames that were labelled before come from the label store; a frame that cannot be labelled is a
record, not a failure.
"""

import time
from collections import Counter
from pathlib import Path

from halcyon import stage
from halcyon.frames import read_frames, write_frames
from halcyon.label_store import LabelStore
from halcyon.labels import label_frames
from halcyon.reference.base import Record, Status


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
            job.say(f"frame {done} of {len(frames)}: {record.status}: {record.message}", "yellow")
        elif time.monotonic() - told > stage.TELL_EVERY_S:
            job.say(f"label {done} of {len(frames)}, {record.seconds:.1f} s each")
        else:
            return
        told = time.monotonic()

    work = job.folder / f"{args.batch}-{args.shard:03d}"
    with job.alone(work):
        labelled = label_frames(
            frames,
            reference,
            store,
            work=work,
            cores=args.threads * args.ranks,
            provenance={"campaign": job.campaign.settings.campaign, "system": args.system},
            stop=job.stopping,
            report=report,
        )
    write_frames(args.out, labelled)
    counts = Counter(frame.info["status"] for frame in labelled)
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
