"""Find the domain of a model: intervals of atomic energies, and thresholds of other signals."""

from pathlib import Path

from halcyon.campaign import stage
from halcyon.frames import read_frames
from halcyon.labels.labelling import gather


def main(job: stage.Job) -> None:
    import torch

    from halcyon.models import mace
    from halcyon.models.domains import find_domain
    from halcyon.models.fit import pretraining_frames

    args, settings, structures = job.arguments, job.plan.settings, job.plan.structures
    torch.set_num_threads(args.threads)
    device, dtype = settings.resources.device, settings.model.dtype
    teacher = read_frames(args.teacher) if settings.pretraining.enabled else []
    classes = job.plan.classes_of_domain()
    taught = pretraining_frames(teacher, structures, read_frames(args.seed))
    domain = find_domain(
        mace.load(args.model, device=device, dtype=dtype),
        gather(args.labels),
        [atoms for atoms in taught if atoms.info["structure"] in classes],
        classes=classes,
        bonded={name: job.plan.bonds(name) for name in job.plan.labelled},
        settings=settings.domain,
        seed=job.seed(),
        committee=mace.load_committee(
            settings.domain, job.plan.elements, device=device, dtype=dtype
        ),
        accuracy=settings.accuracy,
    )
    domain.write(args.domain)
    *signals, tiers = domain.lines()
    for line in signals:
        job.say(line)
    job.done(tiers, args.domain)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--teacher", required=True, type=Path, help="the teacher's frames")
    arguments.add_argument("--seed", required=True, type=Path, help="the seed's frames")
    arguments.add_argument("--domain", required=True, type=Path, help="domain, written")
    stage.run(arguments, main)
