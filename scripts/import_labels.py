"""Take over labels that one has: sort them out, compute some again, and keep them if they agree.

Labels of another level of theory are not compared: the model is pre-trained on them.
"""

from pathlib import Path

from halcyon.campaign import stage
from halcyon.campaign.imports import take_over
from halcyon.frames import write_frames
from halcyon.labels.store import LabelStore


def main(job: stage.Job) -> None:
    args = job.arguments
    reference = job.campaign.reference()
    store = LabelStore(job.campaign.settings.label_store, reference.level)
    with job.alone():
        frames, imported = take_over(
            job.campaign,
            args.system,
            reference,
            store,
            cores=args.threads * args.ranks,
            seed=job.seed(),
            stop=job.stopping,
        )
    imported.write(args.summary)
    write_frames(args.labels, frames)
    job.done(imported.words, args.labels)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument(
        "--ranks", type=int, default=1, help="processes that the reference's launcher starts"
    )
    arguments.add_argument("--labels", required=True, type=Path, help="frames, written")
    arguments.add_argument("--summary", required=True, type=Path, help="counts, written")
    stage.run(arguments, main)
