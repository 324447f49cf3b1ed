"""Select the frames worth a label from the exploration's candidates."""

from pathlib import Path

from halcyon import files, tables
from halcyon.campaign import stage
from halcyon.config import DatasetReference
from halcyon.frames import read_frames, write_frames
from halcyon.labels.labelling import NOT_COMPUTED, gather
from halcyon.verdict import saturation
from halcyon.verdict.forms import ExplorationSummary, Finding


def main(job: stage.Job) -> None:
    import torch

    from halcyon.domain.calibration import Sample
    from halcyon.domain.intervals import Domain
    from halcyon.exploration.selection import Selection, select
    from halcyon.models import mace

    args, settings = job.arguments, job.plan.settings
    torch.set_num_threads(args.threads)
    summary = ExplorationSummary.read(args.summary)
    assessment = saturation.assess_run(
        tables.read(args.traces).to_pandas(), summary.replicas, settings
    )
    labelled = [frame for split in gather(args.labels).values() for frame in split]
    candidates = read_frames(args.candidates)
    if assessment.finding is Finding.SATURATED:
        selection = Selection.of_none(len(candidates), "the index has saturated")
    else:
        device, dtype = settings.resources.device, settings.model.dtype
        model = mace.load(args.model, device=device, dtype=dtype)
        selection = select(
            Sample.of(candidates, mace.evaluate(model, candidates)),
            Sample.of(labelled, mace.evaluate(model, labelled)),
            Domain.read(args.domain),
            settings.selection,
            settings.exploration,
            system_kind=job.plan.system.kind,
            limit=settings.limits.label_budget
            - sum(frame.info["status"] != NOT_COMPUTED for frame in labelled),
        )
    reference = job.campaign.settings.reference
    if selection.frames and isinstance(reference, DatasetReference):
        selection = selection.replaced(
            job.campaign.reference().pool or [],
            {name: job.plan.start(name) for name in job.plan.explored},
            labelled,
            bonds={name: job.plan.lasting_bonds(name) for name in job.plan.explored},
            max_difference_A=reference.max_difference_A,
        )
    for frame in selection.frames:
        frame.info["generation"] = args.generation
    write_frames(args.selected, selection.frames)
    passed_over, fates = summary.candidates_passed_over, selection.fates
    if passed_over:
        fates |= {"left: the replica had better ones": passed_over}
    files.write_json(args.fates, {"candidates": len(candidates) + passed_over, "fates": fates})
    described = ", ".join(f"{number} {fate}" for fate, number in fates.items())
    job.done(described or "no candidates", args.selected)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model that explored")
    arguments.add_argument("--domain", required=True, type=Path, help="its domain")
    arguments.add_argument("--candidates", required=True, type=Path, help="candidate frames")
    arguments.add_argument("--traces", required=True, type=Path, help="CLI traces")
    arguments.add_argument("--summary", required=True, type=Path, help="replicas' ends")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--selected", required=True, type=Path, help="frames, written")
    arguments.add_argument("--fates", required=True, type=Path, help="counts, written")
    stage.run(arguments, main)
