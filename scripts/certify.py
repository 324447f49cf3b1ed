"""Put the final model to the test: long runs with and without a thermostat, and a certificate."""

from pathlib import Path

import torch

from halcyon.campaign import retention, stage
from halcyon.campaign.dynamics_job import watched_model
from halcyon.final import long_runs
from halcyon.final.certificate import CampaignEnd, Runs
from halcyon.final.issuing import Subject, issue
from halcyon.labels.labelling import gather
from halcyon.verdict.forms import Verdict


def main(job: stage.Job) -> None:
    args, settings = job.arguments, job.plan.settings
    folder = args.certificate.parent
    torch.set_num_threads(args.threads)
    verdict = Verdict.read(args.verdict)
    model, monitoring, control = watched_model(job, args.model, args.domain)
    labels = gather(args.labels)
    criteria = long_runs.criteria_of(
        job.plan.system.kind, settings.exploration, settings.saturation, settings.certificate
    )

    def put_to_test(ensemble: str) -> Runs:
        of_runs = long_runs.run_settings(settings.exploration, settings.certificate, ensemble)
        temperatures = ", ".join(f"{t:g}" for t in of_runs.temperatures_K)
        job.say(
            f"{ensemble}: {of_runs.replicas} replicas × {of_runs.time_ps:g} ps of "
            f"{', '.join(job.plan.explored)} at {temperatures} K each"
        )
        with job.alone():
            return long_runs.put_to_test(
                model,
                labels["train"],
                job.plan.explored,
                settings=of_runs,
                monitoring=monitoring,
                criteria=criteria,
                control=control,
                seed=job.seed(ensemble, verdict.generation),
                traces=folder / f"{ensemble}.parquet",
                relative_to=folder,
            )

    certificate = issue(
        Subject(
            campaign=job.campaign.settings.campaign,
            system=args.system,
            structures=job.plan.explored,
            signals=settings.domain.signals,
            model=args.model,
            domain=args.domain,
            labels=args.labels,
            store=job.campaign.settings.label_store,
        ),
        [put_to_test("nvt"), put_to_test("nve")],
        criteria,
        labels,
        end=CampaignEnd.of(verdict),
        audit=verdict.audit,
        software=long_runs.software(model, args.threads),
        folder=folder,
    )
    certificate.write(args.certificate)
    retention.clean_up(job.campaign, args.system)
    job.done(certificate.sentence, args.certificate)


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
