"""Decide whether the campaign goes on, and write the numbers behind the decision."""

from pathlib import Path

import pandas as pd

from halcyon import files, saturation, stage
from halcyon.labels import gather


def main(job: stage.Job) -> None:
    args, settings = job.arguments, job.plan.settings
    assessment = saturation.assess_run(
        pd.read_parquet(args.traces), files.read_json(args.summary)["replicas"], settings
    )
    labels = gather(args.labels)
    spent = sum(len(frames) for frames in labels.values())
    decision, reason = saturation.decide(
        assessment, generation=args.generation, labels=spent, limits=settings.limits
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
            "saturation": assessment,
        },
    )
    job.done(f"{decision}: {reason}", args.verdict)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--traces", required=True, type=Path, help="CLI traces")
    arguments.add_argument("--summary", required=True, type=Path, help="replicas' ends")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--verdict", required=True, type=Path, help="verdict, written")
    stage.run(arguments, main)
