"""Find the domain of a model: intervals of atomic energies, with calibrated margins."""

from pathlib import Path

import numpy as np

from halcyon import domain, stage
from halcyon.frames import read_frames
from halcyon.labels import gather


def main(job: stage.Job) -> None:
    import torch

    from halcyon import mace_model

    args, settings = job.arguments, job.plan.settings
    torch.set_num_threads(args.threads)
    device = settings.resources.device
    model = mace_model.load(args.model, device=device, dtype=settings.model.dtype)
    labels = gather(args.labels)
    classes = {name: job.plan.classes(name) for name in job.plan.structures}
    bonds = {}
    for name in job.plan.structures:
        distances = [
            frame.get_all_distances(mic=bool(frame.pbc.any()))
            for frame in labels["train"]
            if frame.info["structure"] == name
        ]
        mean = np.mean(distances, axis=0)
        bonds[name] = [(i, j, float(mean[i, j])) for i, j in job.plan.bonds(name)]

    def energies(frames: list) -> tuple[list, list]:
        predicted = mace_model.evaluate(model, frames, device=device).node_energy
        return predicted, [classes[frame.info["structure"]] for frame in frames]

    def frame_by_frame(frames: list) -> list:
        return [domain.by_class([e], [c]) for e, c in zip(*energies(frames), strict=True)]

    teacher = read_frames(args.teacher) if settings.pretraining.enabled else []
    teacher = [f for f in teacher if job.plan.structures[f.info["structure"]].pretrain]
    found = domain.build(
        train=domain.by_class(*energies(labels["train"])),
        teacher=domain.by_class(*energies(teacher)) if teacher else {},
        held_out=frame_by_frame(labels["validation"]),
        check=frame_by_frame(labels["test"]),
        classes=classes,
        bonds=bonds,
        alpha=settings.domain.alpha,
        seed=job.seed(),
    )
    found.write(args.domain)
    margin, achieved = found.margin, found.report["exceedance_with_margin"]
    job.done(
        f"{len(found.label)} classes, margin {margin.value:.2f} widths "
        f"({margin.low:.2f}–{margin.high:.2f}, {margin.method}), on test frames "
        f"{achieved['fraction']:.2%} of atoms outside (95 %: {achieved['low']:.2%}–"
        f"{achieved['high']:.2%})",
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
