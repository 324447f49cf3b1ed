"""The model as a product: its files, a LAMMPS export, a model card, and hashes of all."""

from pathlib import Path

from halcyon.campaign import stage
from halcyon.final import folder
from halcyon.final.card_of_result import card_of_result
from halcyon.final.lammps_export import export_checked
from halcyon.final.result import Sources, read_result
from halcyon.wording import count


def main(job: stage.Job) -> None:
    args, final = job.arguments, job.arguments.manifest.parent
    sources = Sources(
        model=args.model,
        domain=args.domain,
        metrics=args.metrics,
        verdict=args.verdict,
        labels=args.labels,
        certificate=args.certificate,
    )
    result = read_result(sources, job.plan.settings, store=job.campaign.settings.label_store)
    starts = {name: job.plan.start(name) for name, s in job.plan.structures.items() if s.label}
    folder.clear(final)
    folder.copy(result.unchanged, final)
    folder.write_labels(result.frames, final)
    card = card_of_result(
        job.plan,
        result,
        campaign=job.campaign.settings.campaign,
        system=args.system,
        structures=folder.write_structures(starts, final),
        lammps=export_checked(result.model, final, result.labels["test"] or result.labels["train"]),
    )
    folder.write_card(card, final)
    manifest = folder.write_manifest(final)
    job.done(count(len(manifest.files), "file"), final)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--verdict", required=True, type=Path, help="the last verdict")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model")
    arguments.add_argument("--domain", required=True, type=Path, help="domain of the model")
    arguments.add_argument("--metrics", required=True, type=Path, help="errors of the model")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--certificate", type=Path, help="certificate, if the model has one")
    arguments.add_argument("--manifest", required=True, type=Path, help="written last")
    stage.run(arguments, main)
