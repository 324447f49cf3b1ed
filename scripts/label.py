"""Label one shard of selected frames with the reference method.

Frames that were labelled before come from the label store. A frame that cannot be labelled is a
record, and the job succeeds all the same. Good labels are judged before they are handed on.
"""

from functools import partial
from pathlib import Path

from halcyon.campaign import paths, stage
from halcyon.campaign.label_jobs import LabelMessages, judgements, label_job, summary
from halcyon.frames import read_frames, write_frames
from halcyon.labels.finite_difference import CheckedForces
from halcyon.labels.store import LabelStore


def main(job: stage.Job) -> None:
    args = job.arguments
    frames = read_frames(args.selected)[args.shard :: args.of]
    reference = job.campaign.reference()
    store = LabelStore(
        job.campaign.settings.label_store, reference.level, partial(job.say, style="bold red")
    )
    labels = label_job(job.campaign, args.system, args.batch, args.shard, seed=job.seed(args.batch))
    with job.alone(labels.work):
        labelled = labels.label(
            frames,
            reference,
            store,
            cores=args.threads * args.ranks,
            stop=job.stopping,
            report=LabelMessages(job.say, len(frames)),
        )
        for message, style in judgements(labelled, job.plan.settings.limits.core_hours):
            job.say(message, style)
        CheckedForces(slopes=tuple(labelled.slopes), strains=tuple(labelled.strains)).write(
            paths.check_file(args.out)
        )
        write_frames(args.out, labelled.frames)
    job.done(
        f"shard {args.shard + 1} of {args.of}: {summary(labelled, store.damaged_here)}", args.out
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
