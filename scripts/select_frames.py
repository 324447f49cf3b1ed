"""Select the frames worth a label: random ones for the audit, and where the index saw trouble."""

from pathlib import Path

from halcyon import tables
from halcyon.campaign import stage, work
from halcyon.campaign.lengths import exploring_for
from halcyon.frames import read_frames, write_frames
from halcyon.labels.labelling import gather
from halcyon.verdict import audit, saturation
from halcyon.verdict.forms import ExplorationSummary, SelectionSummary


def main(job: stage.Job) -> None:
    import torch

    from halcyon.campaign.dynamics_job import published_set, watched
    from halcyon.exploration.generation import Visited, frames_to_label

    args, settings = job.arguments, job.plan.settings
    torch.set_num_threads(args.threads)
    summary = ExplorationSummary.read(args.summary)
    traces = tables.read(args.traces).to_pandas()
    labelled = [frame for split in gather(args.labels).values() for frame in split]
    last_audit = audit.audit_of(labelled, args.generation - 1)
    # The last generation was there before this one began: as an input it would make finished
    # selections out of date.
    last = args.fates.parents[1] / f"gen{args.generation - 1:03d}" / args.fates.name
    explored = exploring_for(settings, summary.time_ps)
    model = watched(job, args.model, args.domain)
    chosen = frames_to_label(
        Visited(candidates=read_frames(args.candidates), reservoir=read_frames(args.reservoir)),
        labelled,
        model,
        settings,
        audit_frames_each=work.audit_frames_each(job.plan),
        calm=saturation.is_calm(saturation.assess_run(traces, summary.replicas, explored)),
        missed=audit.missed(
            last_audit,
            settings,
            read_frames(args.opinions) if args.opinions else [],
            SelectionSummary.read(last).foretold if last.exists() else [],
        ),
        published=published_set(job),
    )
    for frame in chosen.frames:
        frame.info["generation"] = args.generation
    write_frames(args.selected, chosen.frames)
    passed_over, fates = summary.candidates_passed_over, chosen.fates
    if passed_over:
        fates |= {"left: the replica had better ones": passed_over}
    SelectionSummary(
        candidates=sum(fates.values()),
        fates=fates,
        random=chosen.random,
        deciding=model.domain.deciding,
        signal_limits=model.domain.limits,
        foretold=chosen.foretold,
    ).write(args.fates)
    job.done(chosen.describe() or "no candidates", args.selected)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model that explored")
    arguments.add_argument("--domain", required=True, type=Path, help="its domain")
    arguments.add_argument("--candidates", required=True, type=Path, help="candidate frames")
    arguments.add_argument("--reservoir", required=True, type=Path, help="random frames")
    arguments.add_argument("--traces", required=True, type=Path, help="CLI traces")
    arguments.add_argument("--summary", required=True, type=Path, help="replicas' ends")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--opinions", type=Path, help="second opinion on the last audit")
    arguments.add_argument("--selected", required=True, type=Path, help="frames, written")
    arguments.add_argument("--fates", required=True, type=Path, help="counts, written")
    stage.run(arguments, main)
