"""Pre-train a model on the teacher's frames, or take the one that the user names."""

from pathlib import Path

from halcyon.campaign import stage
from halcyon.frames import read_frames


def main(job: stage.Job) -> None:
    from halcyon.models.atomic import refuse_missing
    from halcyon.models.fit import adopt, fit, pretraining_frames, split
    from halcyon.models.training import Recipe

    args, settings = job.arguments, job.plan.settings
    taught = read_frames(args.imported or args.frames)
    frames = split(
        pretraining_frames(taught, job.plan.structures, read_frames(args.seed)),
        settings.pretraining.validation_fraction,
        seed=job.seed(),
    )
    if settings.pretraining.start is not None:
        metrics = adopt(
            settings.pretraining.start,
            frames["test"],
            elements=job.plan.elements,
            settings=settings.model,
            head=settings.pretraining.start_head,
            out=args.model,
            device=settings.resources.device,
            say=job.say,
        )
        what = f"{settings.pretraining.start} taken as it is"
    else:
        if atomic := settings.pretraining.atomic:
            refuse_missing(frames["train"], atomic, settings.pretraining.atomic_method)
        recipe = Recipe(
            elements=job.plan.elements,
            model=settings.model,
            fit=settings.pretraining,
            seed=job.seed("fit"),
            device=settings.resources.device,
            atomic=atomic,
            atomic_weight=settings.pretraining.atomic_weight,
        )
        with job.alone():
            metrics = fit(
                frames,
                recipe,
                out=args.model,
                work=job.folder,
                say=job.say,
                warn=lambda text: job.say(text, style="yellow"),
                stopping=job.stopping,
                threads=args.threads,
            )
        what = f"{len(frames['train'])} frames"
    teacher = "the labels of seed_labels.from" if args.imported else "the force field"
    metrics.write(args.metrics)
    job.done(
        f"{what}, force MAE {metrics.test.forces_mae_meV_per_A:.0f} meV/Å against {teacher}",
        args.model,
    )


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--frames", required=True, type=Path, help="the teacher's frames")
    arguments.add_argument(
        "--imported", type=Path, help="labels of another level, instead of these frames"
    )
    arguments.add_argument("--seed", required=True, type=Path, help="the seed's frames")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model, written")
    arguments.add_argument("--metrics", required=True, type=Path, help="errors, written")
    stage.run(arguments, main)
