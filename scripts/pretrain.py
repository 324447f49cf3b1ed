"""Pre-train a model on the teacher's frames, or take the one that the user names."""

from pathlib import Path

import numpy as np

from halcyon import files
from halcyon.campaign import stage
from halcyon.frames import read_frames


def main(job: stage.Job) -> None:
    from halcyon.models.fit import adopt, fit

    taught = {name for name, s in job.plan.structures.items() if s.pretrain}
    frames = [f for f in read_frames(job.arguments.frames) if f.info["structure"] in taught]
    order = np.random.default_rng(job.seed()).permutation(len(frames))
    held_out = max(1, round(len(frames) * job.plan.settings.pretraining.validation_fraction))
    validation = [frames[i] for i in sorted(order[:held_out])]
    train = [frames[i] for i in sorted(order[held_out:])]
    settings = job.plan.settings.pretraining
    if settings.start is not None:
        metrics = adopt(job, validation)
        what = f"{settings.start} taken as it is"
    else:
        with job.alone():
            metrics = fit(job, train, validation, test=validation, settings=settings, start=None)
        what = f"{len(train)} frames"
    files.write_json(job.arguments.metrics, metrics)
    job.done(
        f"{what}, force MAE {metrics['test']['forces_mae_meV_per_A']:.0f} meV/Å "
        "against the force field",
        job.arguments.model,
    )


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--frames", required=True, type=Path, help="the teacher's frames")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model, written")
    arguments.add_argument("--metrics", required=True, type=Path, help="errors, written")
    stage.run(arguments, main)
