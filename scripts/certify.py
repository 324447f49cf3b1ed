"""Put the final model to the test: long runs with and without a thermostat, and a certificate."""

import hashlib
from datetime import datetime
from pathlib import Path

import torch

from halcyon.campaign import stage
from halcyon.domain.intervals import Domain
from halcyon.exploration.explore import Progress
from halcyon.final import certificate, long_runs
from halcyon.final.certificate import Certificate, Runs
from halcyon.labels.labelling import gather
from halcyon.models import mace
from halcyon.verdict.forms import Verdict


def main(job: stage.Job) -> None:
    args, settings = job.arguments, job.plan.settings
    torch.set_num_threads(args.threads)
    verdict = Verdict.read(args.verdict)
    device, dtype = settings.resources.device, settings.model.dtype
    model = mace.BatchedMace(mace.load(args.model, device=device, dtype=dtype))
    committee = mace.load_committee(settings.domain, device=device, dtype=dtype)
    labels = gather(args.labels)
    frames = [frame for mine in labels.values() for frame in mine]
    criteria = long_runs.criteria_of(
        job.plan.system.kind, settings.exploration, settings.saturation, settings.certificate
    )
    inputs = [args.model, args.domain, *(settings.domain.committee if committee else [])]
    identity = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()

    def report(progress: Progress) -> None:
        job.say(
            f"{progress.done:.0%}, {progress.ns_per_day:.1f} ns/day over all replicas, "
            f"{progress.failed} failed, about {stage.duration(progress.seconds_left)} left"
        )

    def tested(ensemble: str) -> Runs:
        asked = long_runs.run_settings(settings.exploration, settings.certificate, ensemble)
        kelvin = ", ".join(f"{t:g}" for t in asked.temperatures_K)
        job.say(
            f"{ensemble}: {asked.replicas} replicas × {asked.time_ps:g} ps of "
            f"{', '.join(job.plan.explored)} at {kelvin} K each"
        )
        with job.alone():
            return long_runs.put_to_test(
                model,
                Domain.read(args.domain),
                labels["train"],
                job.plan.explored,
                settings=asked,
                criteria=criteria,
                indicator=settings.domain,
                traces=args.certificate.with_name(f"{ensemble}.parquet"),
                relative_to=args.certificate.parent,
                work=job.folder,
                identity=identity,
                seed=job.seed(ensemble, verdict.generation),
                committee=committee,
                stop=job.stopping,
                report=report,
            )

    runs = [tested("nvt"), tested("nve")]
    conclusion, reasons = certificate.conclude(runs, criteria)
    made = Certificate(
        schema=1,
        conclusion=conclusion,
        sentence=certificate.sentence(conclusion, reasons, runs),
        reasons=reasons,
        not_covered=certificate.not_covered(
            runs, structures=job.plan.explored, verdict=verdict.decision
        ),
        campaign=job.campaign.settings.campaign,
        system=args.system,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        verdict=certificate.CampaignEnd.of(verdict),
        model=certificate.hash_of(args.model, args.certificate.parent),
        domain=certificate.hash_of(args.domain, args.certificate.parent),
        data=certificate.Data(
            files=[certificate.hash_of(path, args.certificate.parent) for path in args.labels],
            splits={split: len(mine) for split, mine in labels.items()},
            sha256=certificate.data_digest(frames),
            store=str(job.campaign.settings.label_store),
        ),
        level_of_theory=long_runs.level_of(frames, job.campaign.settings.label_store),
        criteria=criteria,
        signals=["node_energy", "guard"]
        + [name for name in settings.domain.signals if name not in ("node_energy", "guard")],
        runs=runs,
        software=long_runs.software(model, args.threads),
    )
    made.sealed().write(args.certificate)
    job.done(made.sentence, args.certificate)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--verdict", required=True, type=Path, help="the last verdict")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model")
    arguments.add_argument("--domain", required=True, type=Path, help="its domain")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument(
        "--certificate", required=True, type=Path, help="certificate, written; traces beside it"
    )
    stage.run(arguments, main)
