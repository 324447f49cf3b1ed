"""Fine-tune the model on all reference labels so far."""

from pathlib import Path

from halcyon.campaign import stage
from halcyon.errors import InputError
from halcyon.frames import read_frames
from halcyon.labels import free_atoms
from halcyon.labels.labelling import gather


def main(job: stage.Job) -> None:
    from halcyon.models import mace
    from halcyon.models import replay as replaying
    from halcyon.models.fit import diagnose, fit, forgotten, pretraining_frames
    from halcyon.models.training import Recipe, Replay

    args, settings = job.arguments, job.plan.settings
    labels = gather(args.labels)
    for split in ("train", "validation", "test"):
        if not labels[split]:
            raise InputError(
                f"no frame of the {split} set has a label ({len(labels['bad'])} calculations "
                "failed): the program's messages stand in the label files and in the summary"
            )
    recipe = Recipe(
        elements=job.plan.elements,
        model=settings.model,
        fit=settings.training,
        seed=job.seed("fit"),
        start=args.start,
        device=settings.resources.device,
        freeze=settings.training.freeze,
        lora_rank=settings.training.lora_rank,
        known_e0s=free_atoms.energies(labels[free_atoms.SPLIT]),
    )
    if missing := mace.symbols([z for z in job.plan.free_atoms if z not in recipe.known_e0s]):
        job.say(
            f"no free atom of {missing} has a label: the energies of these elements are fitted",
            style="yellow",
        )
    teacher = job.campaign.folder / args.system / "teacher"
    pretrained = teacher / "pretrained.model"
    with job.alone():
        replay = None
        if args.replay:
            frames = pretraining_frames(
                read_frames(args.replay), job.plan.structures, read_frames(args.seed)
            )
            weight = settings.training.weight_of_replay(settings.pretraining)
            replay = Replay(frames, weight)
            if settings.pretraining.start is not None:
                frames = replaying.prepared(
                    teacher / "replay.parquet",
                    pretrained,
                    frames,
                    settings.training,
                    cap_eV_per_A=settings.teacher.force_cap_eV_per_A,
                    seed=job.campaign.settings.seed,
                    device=settings.resources.device,
                    say=job.say,
                )
                replay = Replay(frames, weight, labelled_by="start model")
        metrics = fit(
            labels,
            recipe,
            out=args.model,
            work=job.folder,
            say=job.say,
            warn=lambda text: job.say(text, style="yellow"),
            stopping=job.stopping,
            replay=replay,
            threads=args.threads,
        )
    diagnose(
        args.model,
        labels,
        recipe,
        classes={name: job.plan.classes(name) for name in job.plan.structures},
        parity_file=args.parity,
        drift_file=args.drift,
    )
    forgetting = None
    if settings.pretraining.enabled and pretrained.exists():
        forgetting = forgotten(
            pretrained, args.model, job.plan.wall_scans(), device=settings.resources.device
        )
    metrics.model_copy(
        update={"frames_without_label": len(labels["bad"]), "forgetting": forgetting}
    ).write(args.metrics)
    job.done(
        f"{len(labels['train'])} labels, test force MAE "
        f"{metrics.test.forces_mae_meV_per_A:.0f} meV/Å, energy MAE "
        f"{metrics.test.energy_mae_meV_per_atom:.1f} meV/atom",
        args.model,
    )


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--start", type=Path, help="model to start from (default: none)")
    arguments.add_argument("--replay", type=Path, help="the teacher's frames, if replayed")
    arguments.add_argument("--seed", required=True, type=Path, help="the seed's frames")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model, written")
    arguments.add_argument("--metrics", required=True, type=Path, help="errors, written")
    arguments.add_argument("--parity", required=True, type=Path, help="parity table, written")
    arguments.add_argument("--drift", required=True, type=Path, help="drift of features, written")
    stage.run(arguments, main)
