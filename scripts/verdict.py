"""Decide whether the campaign goes on, and write the numbers behind the decision."""

from pathlib import Path

import pandas as pd

from halcyon import files
from halcyon.campaign import accounts, retention, stage
from halcyon.campaign.budget import Spent
from halcyon.labels.labelling import gather
from halcyon.verdict import runs, saturation


def main(job: stage.Job) -> None:
    args, settings = job.arguments, job.plan.settings
    # Earlier generations' traces are no inputs in the workflow: they were there before this
    # generation began, and as inputs they would make finished verdicts out of date.
    earlier = runs.read_runs(args.traces.parents[1], last=args.generation - 1)
    replicas = files.read_json(args.summary)["replicas"]
    mine = runs.Run(traces=pd.read_parquet(args.traces), replicas=replicas)
    confidence = settings.saturation.confidence
    assessment = saturation.assess_run(mine.traces, mine.replicas, settings)
    labels = gather(args.labels)
    not_computed = len(labels["not_computed"])
    spent = sum(len(frames) for frames in labels.values()) - not_computed
    hours = Spent(job.campaign, settings.limits).core_hours()
    decision, reason = saturation.decide(
        assessment,
        generation=args.generation,
        labels=spent,
        limits=settings.limits,
        core_hours=hours,
        not_computed=not_computed,
    )
    files.write_json(
        args.verdict,
        {
            "schema": 1,
            "system": args.system,
            "generation": args.generation,
            "decision": decision.value,
            "reason": reason,
            "labels": {split: len(frames) for split, frames in labels.items()} | {"spent": spent},
            "label_budget": settings.limits.label_budget,
            "core_hours": {
                "spent": hours,
                "limit": settings.limits.core_hours,
                "of": settings.limits.core_hours_of,
            },
            "explored": settings.exploration.model_dump(include={"time_ps", "temperatures_K"}),
            "saturation": assessment,
            "failures": runs.failures(mine.replicas, confidence=confidence),
            "critical_cli": runs.critical_cli(
                earlier | {args.generation: mine}, confidence=confidence
            ),
        },
    )
    if settings.retention.automatic:
        everything = not settings.retention.failed_frames
        retention.delete(
            job.campaign, retention.scraps(job.campaign, [args.system], all_frames=everything)
        )
    accounts.write(job.campaign, args.system)
    job.done(f"{decision}: {reason}", args.verdict)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--traces", required=True, type=Path, help="CLI traces")
    arguments.add_argument("--summary", required=True, type=Path, help="replicas' ends")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--verdict", required=True, type=Path, help="verdict, written")
    stage.run(arguments, main)
