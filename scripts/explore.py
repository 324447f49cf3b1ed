"""Explore with the model: replicas of molecular dynamics, every step watched by the CLI."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from halcyon.campaign import stage
from halcyon.domain.intervals import Domain
from halcyon.frames import structure_only, write_frames
from halcyon.labels.labelling import gather
from halcyon.verdict.forms import ExplorationSummary


def start_replicas(job: stage.Job) -> tuple[list, Callable]:
    """Deal replicas over structures and temperatures; each starts from a training frame.

    Returns:
        The replicas, and what gives a failed one's successor.
    """
    from halcyon.exploration.explore import Replica

    settings = job.plan.settings.exploration
    labelled = gather(job.arguments.labels)["train"]
    names = job.plan.explored

    def dealt(number: int, name: str, temperature: float, random: np.random.Generator) -> Replica:
        mine = [frame for frame in labelled if frame.info["structure"] == name]
        return Replica(number, temperature, structure_only(mine[random.integers(len(mine))]))

    def successor(number: int, gone: Replica) -> Replica:
        random = np.random.default_rng(job.seed(f"start of {number}"))
        return dealt(number, gone.start.info["structure"], gone.temperature_K, random)

    random = np.random.default_rng(job.seed("starts"))
    replicas = []
    for number in range(settings.replicas):
        temperature = settings.temperatures_K[number // len(names) % len(settings.temperatures_K)]
        replicas.append(dealt(number, names[number % len(names)], temperature, random))
    return replicas, successor


def main(job: stage.Job) -> None:
    import torch

    from halcyon.domain.signals import ALWAYS, make_signals
    from halcyon.exploration import trajectory
    from halcyon.exploration.explore import Progress, explore
    from halcyon.exploration.traces import write_traces
    from halcyon.models import mace

    args, settings = job.arguments, job.plan.settings
    torch.set_num_threads(args.threads)
    model = mace.BatchedMace(
        mace.load(args.model, device=settings.resources.device, dtype=settings.model.dtype),
        compute_stress=settings.exploration.ensemble == "npt",
    )
    committee = mace.load_committee(
        settings.domain, device=settings.resources.device, dtype=settings.model.dtype
    )
    domain = Domain.read(args.domain)
    replicas, successor = start_replicas(job)

    def report(progress: Progress) -> None:
        job.say(
            f"{progress.done:.0%}, {progress.ns_per_day:.1f} ns/day over all replicas, "
            f"{progress.failed} failed, about {stage.duration(progress.seconds_left)} left"
        )

    job.say(
        f"{len(replicas)} replicas × {settings.exploration.time_ps:g} ps at "
        f"{', '.join(f'{t:g}' for t in settings.exploration.temperatures_K)} K"
    )
    for signal in make_signals(domain, settings.domain.signals, committee).values():
        if signal.name not in ALWAYS:
            job.say(f"watched as well: {signal.describe()}")
    inputs = [args.model, args.domain, *(settings.domain.committee if committee else [])]
    identity = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    with job.alone():
        result = explore(
            model,
            domain,
            replicas,
            settings.exploration,
            settings.domain,
            kind=job.plan.system.kind,
            work=job.folder,
            identity=identity,
            seed=job.seed("dynamics"),
            successor=successor,
            committee=committee,
            stop=job.stopping,
            report=report,
        )
    write_traces(args.traces, result.traces)
    write_frames(args.candidates, result.candidates)
    # Parts are deleted once they are joined: what is gone was joined before.
    if result.trajectory and all(part.exists() for part in result.trajectory):
        path = args.traces.with_name("trajectory.parquet")
        frames = trajectory.join(result.trajectory, path)
        job.say(f"{frames} frames of the trajectory in {path}")
    summary = {"replicas": result.replicas, "replica_steps": result.steps}
    summary |= {"candidates_passed_over": result.passed_over}
    ExplorationSummary.model_validate(summary).write(args.summary)
    failed = [entry for entry in result.replicas if entry["failure"]]
    last = result.traces.groupby("replica").last()
    job.done(
        f"{sum(r['time_ps'] for r in result.replicas):.3g} ps, {len(failed)} of "
        f"{len(result.replicas)} replicas failed, Λ {last['cli_label'].mean():.3g} ps, "
        f"{len(result.candidates)} candidates",
        args.traces,
    )


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model")
    arguments.add_argument("--domain", required=True, type=Path, help="its domain")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--traces", required=True, type=Path, help="CLI traces, written")
    arguments.add_argument("--candidates", required=True, type=Path, help="frames, written")
    arguments.add_argument("--summary", required=True, type=Path, help="replicas' ends, written")
    stage.run(arguments, main)
