"""Select the frames worth a label from the exploration's candidates."""

from pathlib import Path

import pandas as pd

from halcyon import files, saturation, stage
from halcyon.frames import read_frames, write_frames
from halcyon.labels import gather
from halcyon.select import select


def main(job: stage.Job) -> None:
    args, settings = job.arguments, job.plan.settings
    assessment = saturation.assess_run(
        pd.read_parquet(args.traces), files.read_json(args.summary)["replicas"], settings
    )
    known = [frame for split in gather(args.labels).values() for frame in split]
    candidates = read_frames(args.candidates)
    if assessment["finding"] == saturation.Finding.SATURATED:
        selected, fates = [], {"left: the index has saturated": len(candidates)}
    else:
        limit = max(0, settings.limits.label_budget - len(known))
        chosen = select(candidates, known, settings.selection, limit=limit)
        selected, fates = chosen.frames, chosen.fates
    for frame in selected:
        frame.info["generation"] = args.generation
    write_frames(args.selected, selected)
    files.write_json(args.fates, {"candidates": len(candidates), "fates": fates})
    told = ", ".join(f"{n} {fate}" for fate, n in fates.items()) or "no candidates"
    job.done(told, args.selected)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--candidates", required=True, type=Path, help="candidate frames")
    arguments.add_argument("--traces", required=True, type=Path, help="CLI traces")
    arguments.add_argument("--summary", required=True, type=Path, help="replicas' ends")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--selected", required=True, type=Path, help="frames, written")
    arguments.add_argument("--fates", required=True, type=Path, help="counts, written")
    stage.run(arguments, main)
