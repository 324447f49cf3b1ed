"""Fine-tune the model on all reference labels so far."""

from pathlib import Path

from halcyon import files
from halcyon.campaign import stage
from halcyon.errors import InputError
from halcyon.frames import read_frames
from halcyon.labels.labelling import gather


def main(job: stage.Job) -> None:
    from halcyon.models.fit import diagnose, fit

    args = job.arguments
    labels = gather(args.labels)
    for split in ("train", "validation", "test"):
        if not labels[split]:
            raise InputError(
                f"no good label in the {split} set; {len(labels['bad'])} frames have none: what "
                "the program said stands in the label files and in the summary"
            )
    settings = job.plan.settings.training
    with job.alone():
        metrics = fit(
            job,
            labels["train"],
            labels["validation"],
            test=labels["test"],
            settings=settings,
            start=args.start,
            replay=read_frames(args.replay) if args.replay else (),
            replay_weight=settings.replay_weight,
        )
    diagnose(
        job,
        labels["train"],
        labels["validation"] + labels["test"],
        labels["test"],
        start=args.start,
        parity_file=args.parity,
        drift_file=args.drift,
    )
    files.write_json(args.metrics, metrics | {"frames_without_label": len(labels["bad"])})
    test = metrics["test"]
    job.done(
        f"{len(labels['train'])} labels, test force MAE {test['forces_mae_meV_per_A']:.0f} meV/Å, "
        f"energy MAE {test['energy_mae_meV_per_atom']:.1f} meV/atom",
        args.model,
    )


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--start", type=Path, help="model to start from (default: none)")
    arguments.add_argument("--replay", type=Path, help="the teacher's frames, not to be forgotten")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model, written")
    arguments.add_argument("--metrics", required=True, type=Path, help="errors, written")
    arguments.add_argument("--parity", required=True, type=Path, help="parity table, written")
    arguments.add_argument("--drift", required=True, type=Path, help="drift of features, written")
    stage.run(arguments, main)
