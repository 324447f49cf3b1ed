"""Select the frames worth a label from the exploration's candidates."""

from pathlib import Path

import pandas as pd

from halcyon import files
from halcyon.campaign import stage
from halcyon.config import DatasetReference
from halcyon.frames import read_frames, write_frames
from halcyon.labels.labelling import NOT_COMPUTED, gather
from halcyon.labels.pool import frames_like, nearest
from halcyon.verdict import saturation
from halcyon.verdict.forms import ExplorationSummary, Finding


def choose(job: stage.Job, candidates: list, known: list) -> tuple[list, dict[str, int]]:
    """Frames to label, and every candidate's fate."""
    import torch

    from halcyon.domain.calibration import Sample
    from halcyon.domain.intervals import Domain
    from halcyon.exploration.selection import select
    from halcyon.models import mace

    args, settings = job.arguments, job.plan.settings
    torch.set_num_threads(args.threads)
    device = settings.resources.device
    model = mace.load(args.model, device=device, dtype=settings.model.dtype)

    chosen = select(
        Sample.of(candidates, mace.evaluate(model, candidates)),
        Sample.of(known, mace.evaluate(model, known)),
        Domain.read(args.domain),
        settings.selection,
        settings.exploration,
        kind=job.plan.system.kind,
        limit=settings.limits.label_budget
        - sum(frame.info["status"] != NOT_COMPUTED for frame in known),
    )
    return chosen.frames, chosen.fates


def main(job: stage.Job) -> None:
    args, settings = job.arguments, job.plan.settings
    summary = ExplorationSummary.read(args.summary)
    assessment = saturation.assess_run(pd.read_parquet(args.traces), summary.replicas, settings)
    known = [frame for split in gather(args.labels).values() for frame in split]
    candidates = read_frames(args.candidates)
    if assessment.finding is Finding.SATURATED:
        selected, fates = [], {"left: the index has saturated": len(candidates)}
    else:
        selected, fates = choose(job, candidates, known)
    reference = job.campaign.settings.reference
    if selected and isinstance(reference, DatasetReference):
        published = job.campaign.reference().pool or []
        pools = {name: frames_like(published, job.plan.start(name)) for name in job.plan.explored}
        taken = {frame.info["key"] for frame in known}
        found = nearest(selected, pools, taken, max_difference=reference.max_difference_A)
        if left := len(selected) - len(found):
            fates |= {"selected": len(found), "left: nothing like it in the data set": left}
        selected = found
    for frame in selected:
        frame.info["generation"] = args.generation
    write_frames(args.selected, selected)
    if passed_over := summary.candidates_passed_over:
        fates |= {"left: the replica had better ones": passed_over}
    files.write_json(args.fates, {"candidates": len(candidates) + passed_over, "fates": fates})
    told = ", ".join(f"{n} {fate}" for fate, n in fates.items()) or "no candidates"
    job.done(told, args.selected)


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
