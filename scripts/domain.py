"""Find the domain of a model: intervals of atomic energies, and thresholds of other signals."""

from pathlib import Path

import numpy as np

from halcyon.campaign import stage
from halcyon.errors import InputError
from halcyon.frames import read_frames
from halcyon.labels.labelling import gather


def percent(exceedance: dict) -> str:
    low, high = exceedance["low"], exceedance["high"]
    return f"{exceedance['fraction']:.2%} of atoms outside (95 %: {low:.2%}–{high:.2%})"


def main(job: stage.Job) -> None:
    import torch

    from halcyon.domain import calibration
    from halcyon.models import mace

    args, settings = job.arguments, job.plan.settings
    torch.set_num_threads(args.threads)
    device = settings.resources.device
    model = mace.load(args.model, device=device, dtype=settings.model.dtype)
    labels = gather(args.labels)
    classes = {name: job.plan.classes(name) for name in job.plan.structures}
    bonds = {}
    for name in job.plan.sampled:
        distances = [
            frame.get_all_distances(mic=bool(frame.pbc.any()))
            for frame in labels["train"]
            if frame.info["structure"] == name
        ]
        if not distances:
            raise InputError(
                f"structure {name}: none of its training frames has a label; what the program "
                "said of them stands in the label files and in the summary"
            )
        mean = np.mean(distances, axis=0)
        bonds[name] = [(i, j, float(mean[i, j])) for i, j in job.plan.bonds(name)]

    def sample(frames: list) -> calibration.Sample:
        said = mace.evaluate(model, frames, device=device)
        return calibration.Sample(frames, said.node_energy, said.descriptors, said.forces)

    teacher = read_frames(args.teacher) if settings.pretraining.enabled else []
    teacher = [f for f in teacher if job.plan.structures[f.info["structure"]].pretrain]
    found = calibration.fit_domain(
        train=sample(labels["train"]),
        teacher=sample(teacher),
        held_out=sample(labels["validation"]),
        check=sample(labels["test"]),
        classes=classes,
        bonds=bonds,
        settings=settings.domain,
        seed=job.seed(),
        committee=mace.load_committee(settings.domain, device=device, dtype=settings.model.dtype),
    )
    found.write(args.domain)
    for name, one in found.signals.items():
        job.say(
            f"{name}: threshold {one.threshold.value:.3g} ({one.threshold.low:.3g}–"
            f"{one.threshold.high:.3g}, {one.threshold.method}), on test frames "
            f"{percent(one.exceedance)}"
        )
    margin, achieved = found.margin, found.report["exceedance_with_margin"]
    job.done(
        f"{len(found.label)} classes, margin {margin.value:.2f} widths "
        f"({margin.low:.2f}–{margin.high:.2f}, {margin.method}), on test frames "
        f"{percent(achieved)}",
        args.domain,
    )


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--teacher", required=True, type=Path, help="the teacher's frames")
    arguments.add_argument("--domain", required=True, type=Path, help="domain, written")
    stage.run(arguments, main)
