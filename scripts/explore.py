"""Explore with the model: replicas of molecular dynamics, every step watched by the CLI."""

import hashlib
from pathlib import Path

import numpy as np

from halcyon import files, stage
from halcyon.domain import Domain
from halcyon.frames import structure_only, write_frames
from halcyon.labels import gather


def start_replicas(job: stage.Job) -> list:
    """Deal replicas over structures and temperatures; each starts from a training frame."""
    from halcyon.explore import Replica

    settings = job.plan.settings.exploration
    labelled = gather(job.arguments.labels)["train"]
    names = job.plan.explored
    random = np.random.default_rng(job.seed("starts"))
    replicas = []
    for number in range(settings.replicas):
        name = names[number % len(names)]
        temperature = settings.temperatures_K[number // len(names) % len(settings.temperatures_K)]
        mine = [frame for frame in labelled if frame.info["structure"] == name]
        start = structure_only(mine[random.integers(len(mine))])
        replicas.append(Replica(number, temperature, start))
    return replicas


def main(job: stage.Job) -> None:
    import torch

    from halcyon import mace_model
    from halcyon.explore import Progress, explore, write_traces
    from halcyon.signals import ALWAYS, make_signals

    args, settings = job.arguments, job.plan.settings
    torch.set_num_threads(args.threads)
    model = mace_model.BatchedMace(
        mace_model.load(args.model, device=settings.resources.device, dtype=settings.model.dtype)
    )
    committee = mace_model.load_committee(
        settings.domain, device=settings.resources.device, dtype=settings.model.dtype
    )
    domain = Domain.read(args.domain)
    replicas = start_replicas(job)

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
    with files.only_one(job.folder, wait_s=60):
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
            committee=committee,
            stop=job.stopping,
            report=report,
        )
    write_traces(args.traces, result.traces)
    write_frames(args.candidates, result.candidates)
    files.write_json(args.summary, {"replicas": result.replicas, "replica_steps": result.steps})
    failed = [entry for entry in result.replicas if entry["failure"]]
    last = result.traces.groupby("replica").last()
    job.done(
        f"{sum(r['time_ps'] for r in result.replicas):.3g} ps, {len(failed)} of "
        f"{len(replicas)} replicas failed, Λ {last['cli_label'].mean():.3g} ps, "
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
