"""Decide whether the campaign goes on, and write the numbers behind the decision."""

import itertools
from pathlib import Path

from halcyon import tables
from halcyon.campaign import accounts, retention, stage
from halcyon.campaign.budget import Spent
from halcyon.campaign.lengths import exploring_for
from halcyon.frames import read_frames
from halcyon.labels.imported import is_imported
from halcyon.labels.labelling import gather
from halcyon.verdict import audit, saturation
from halcyon.verdict.before_failures import before_failures
from halcyon.verdict.forms import ExplorationSummary, LabelCounts, SelectionSummary
from halcyon.verdict.judging import judge
from halcyon.verdict.runs import Run, read_runs
from halcyon.verdict.signal_reports import signal_reports


def main(job: stage.Job) -> None:
    args = job.arguments
    # Earlier generations' traces are no inputs in the workflow: they were there before this
    # generation began, and as inputs they would make finished verdicts out of date.
    runs = read_runs(args.traces.parents[1], last=args.generation - 1)
    summary = ExplorationSummary.read(args.summary)
    settings = exploring_for(job.plan.settings, summary.time_ps)
    traces = tables.read(args.traces).to_pandas()
    runs[args.generation] = Run(
        traces=traces, replicas=summary.replicas, ended_early=summary.ended_early
    )
    labelled = gather(args.labels)
    counts = {split: len(frames) for split, frames in labelled.items()}
    imported = sum(map(is_imported, itertools.chain(*labelled.values())))
    spent = sum(counts.values()) - counts["not_computed"] - imported
    audited = audit.audit_of(itertools.chain(*labelled.values()), args.generation)
    opinions = read_frames(args.opinions) if args.opinions else []
    selection = SelectionSummary.read(args.selection)
    verdict = judge(
        runs,
        settings,
        system=args.system,
        generation=args.generation,
        labels=LabelCounts(**counts, spent=spent),
        core_hours=Spent(job.campaign, settings.limits).core_hours(),
        audit=audit.assess_audit(
            audited,
            settings.accuracy,
            confidence=saturation.confidence_spent(settings),
            opinions=opinions,
            foretold=selection.foretold,
        ),
        signals=signal_reports(
            audited,
            selection.signal_limits,
            tolerance_eV_per_A=settings.accuracy.atom_force_eV_per_A,
            deciding=selection.deciding,
            opinions=opinions,
        ),
        before_failures=before_failures(itertools.chain(*labelled.values()), args.generation),
    )
    verdict.write(args.verdict)
    retention.clean_up(job.campaign, args.system)
    accounts.write(job.campaign, args.system)
    job.done(f"{verdict.decision}: {verdict.reason}", args.verdict)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--selection", required=True, type=Path, help="counts of selection")
    arguments.add_argument("--traces", required=True, type=Path, help="CLI traces")
    arguments.add_argument("--summary", required=True, type=Path, help="replicas' ends")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--opinions", type=Path, help="a second opinion on random frames")
    arguments.add_argument("--verdict", required=True, type=Path, help="verdict, written")
    stage.run(arguments, main)
