"""The model as a product: its files, a LAMMPS export, a model card, and hashes of all."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from halcyon import __version__, files
from halcyon.campaign import stage
from halcyon.domain.intervals import Domain
from halcyon.final import folder as product
from halcyon.final import lammps_export, long_runs, model_card
from halcyon.final.certificate import Certificate
from halcyon.final.monitor.watch import Thresholds
from halcyon.labels.labelling import gather
from halcyon.labels.store_tools import level_words
from halcyon.models import mace
from halcyon.verdict.forms import ExplorationSummary, Verdict

CHECKED_FRAMES = 5
"""Labelled frames that the LAMMPS export is compared on."""


def main(job: stage.Job) -> None:
    args, settings = job.arguments, job.plan.settings
    folder, verdict = args.manifest.parent, Verdict.read(args.verdict)
    product.clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    labels = gather(args.labels)
    frames = [frame for mine in labels.values() for frame in mine]
    tested = None
    traces = args.verdict.with_name("traces.parquet")
    replicas = ExplorationSummary.read(args.verdict.with_name("exploration.json")).replicas
    if args.certificate:
        tested = Certificate.read(args.certificate)
        replicas = tested.runs[0].replicas
        beside = [args.certificate.with_name(f"{run.ensemble}.parquet") for run in tested.runs]
        traces = beside[0]
        product.copy([args.certificate, *beside], folder)
    product.copy([args.model, args.domain], folder)
    product.write_labels(frames, folder)
    structures = product.write_structures(
        {name: job.plan.start(name) for name in job.plan.structures}, folder
    )
    model = mace.load(args.model, device="cpu")
    checked = (labels["test"] or labels["train"])[:CHECKED_FRAMES]
    lammps_export.export(model, folder / "model-lammps.pt")
    apart = lammps_export.check(folder / "model-lammps.pt", model, checked)
    metrics, domain = files.read_json(args.metrics), Domain.read(args.domain)
    level = long_runs.level_of(frames, job.campaign.settings.label_store)
    exploration = long_runs.run_settings(settings.exploration, settings.certificate, "nvt")
    watch = product.recommended(
        pd.read_parquet(traces),
        [end.replica for end in replicas if end.failure],
        Thresholds(
            bond_stretch_A=exploration.bond_stretch_A, min_distance_A=exploration.min_distance_A
        ),
    )
    card = {
        "schema": product.SCHEMA_VERSION,
        "campaign": job.campaign.settings.campaign,
        "system": args.system,
        "kind": job.plan.system.kind,
        "halcyon": __version__,
        "model": {
            "file": args.model.name,
            "description": mace.described(model),
            "elements": mace.symbols([int(z) for z in model.atomic_numbers]).split(", "),
        },
        "dtype": settings.model.dtype,
        "timestep_fs": exploration.timestep_fs,
        "temperatures_K": exploration.temperatures_K,
        "structures": structures,
        "level_of_theory": level.model_dump() | {"words": level_words(level.description)},
        "data": {split: len(mine) for split, mine in labels.items()},
        "start": "pre-trained on a classical force field, then fine-tuned"
        if settings.pretraining.enabled
        else "from scratch",
        "errors": {
            name: metrics[name] for name in ("test", "validation", "train") if metrics[name]
        },
        "domain": {
            "file": args.domain.name,
            "words": f"{len(domain.label)} classes of atoms, margin {domain.margin.value:.2g} "
            f"widths ({domain.margin.low:.2g}–{domain.margin.high:.2g})",
            "margin": asdict(domain.margin),
            "exceedance": domain.report.get("exceedance_with_margin", {}),
        },
        "verdict": verdict.model_dump(mode="json", include={"decision", "reason", "generation"}),
        "certificate": None
        if tested is None
        else {
            "file": args.certificate.name,
            "conclusion": tested.conclusion,
            "sentence": tested.sentence,
        },
        "no_certificate": f"certificate.when is '{settings.certificate.when}'",
        "watch": asdict(watch),
        "lammps": {
            "file": "model-lammps.pt",
            "frames": len(checked),
            "largest_difference": apart,
        },
        "limits": tested.not_covered
        if tested
        else [
            "Anything at all is untested: there is no certificate, only the campaign's verdict.",
            "Structures other than those above.",
        ],
    }
    files.write_json(folder / "card.json", card)
    files.write_text(folder / "README.md", model_card.markdown(card))
    listed = product.write_manifest(folder)
    job.done(f"{len(listed['files'])} files", folder)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--verdict", required=True, type=Path, help="the last verdict")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model")
    arguments.add_argument("--domain", required=True, type=Path, help="its domain")
    arguments.add_argument("--metrics", required=True, type=Path, help="its errors")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--certificate", type=Path, help="its certificate, if it has one")
    arguments.add_argument("--manifest", required=True, type=Path, help="written last")
    stage.run(arguments, main)
