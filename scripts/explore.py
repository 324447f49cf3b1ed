"""Explore with the model: replicas of molecular dynamics, every step watched by the CLI."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from halcyon.campaign import stage
from halcyon.campaign.lengths import exploring_for, plan_of_generation
from halcyon.frames import write_frames
from halcyon.labels.labelling import gather
from halcyon.verdict.early import restless
from halcyon.verdict.forms import ReplicaEnd

if TYPE_CHECKING:
    import pandas as pd


def main(job: stage.Job) -> None:
    import torch

    from halcyon.campaign.dynamics_job import watched_model
    from halcyon.exploration import starts, trajectory
    from halcyon.exploration.explore import explore
    from halcyon.exploration.traces import write_traces

    args, usual = job.arguments, job.plan.settings
    job.plan = plan_of_generation(job.campaign, args.system, args.generation)
    settings = job.plan.settings
    exploration = settings.exploration
    torch.set_num_threads(args.threads)
    model, monitoring, control = watched_model(
        job, args.model, args.domain, compute_stress=exploration.ensemble == "npt"
    )
    train = gather(args.labels)["train"]
    replicas = starts.deal(train, job.plan.explored, exploration, seed=job.seed("starts"))
    job.say(
        f"{len(replicas)} replicas × {exploration.time_ps:g} ps at "
        f"{', '.join(f'{t:g}' for t in exploration.temperatures_K)} K"
    )
    if settings is not usual:
        job.say("longer than usual: the last generation was too short to tell how calm it was")
    for signal in monitoring.more_signals():
        job.say(f"also watched: {signal}")

    def decided(traces: "pd.DataFrame", ends: Sequence[ReplicaEnd]) -> str:
        so_far_ps = exploration.time_ps * (exploration.early_end or 1.0)
        why = restless(traces, ends, exploring_for(settings, so_far_ps))
        if why:
            job.say(f"ends at {so_far_ps:g} ps (exploration.early_end): {why}")
        return why

    with job.alone():
        result = explore(
            model,
            replicas,
            exploration,
            monitoring,
            control,
            seed=job.seed("dynamics"),
            successor=starts.successors(train, lambda number: job.seed(f"start of {number}")),
            audit=settings.audit,
            decided=decided,
        )
    write_traces(args.traces, result.traces)
    write_frames(args.candidates, result.candidates)
    write_frames(args.reservoir, result.reservoir)
    path = args.traces.with_name("trajectory.parquet")
    if frames := trajectory.join(result.trajectory, path):
        job.say(f"{frames} frames of the trajectory in {path}")
    result.summary().write(args.summary)
    job.done(result.describe(), args.traces)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model")
    arguments.add_argument("--domain", required=True, type=Path, help="its domain")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--traces", required=True, type=Path, help="CLI traces, written")
    arguments.add_argument("--candidates", required=True, type=Path, help="frames, written")
    arguments.add_argument("--reservoir", required=True, type=Path, help="frames, written")
    arguments.add_argument("--summary", required=True, type=Path, help="replicas' ends, written")
    stage.run(arguments, main)
