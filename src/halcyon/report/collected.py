"""Reading what a system's campaign has written, all of it, once.

    from halcyon.report.collected import collect, find_verdicts

    verdicts = find_verdicts(campaign.folder / "ethanol", campaign.systems["ethanol"].settings)
    report = collect(campaign, "ethanol", verdicts)
    report.last.forces_mae  # meV/Å

Not for: what a report is made of (`contents`), saying it (`sentences`, `summary`, `page`), or
deciding anything (`verdict.saturation`).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from ase import Atoms

from halcyon import files, tables
from halcyon.campaign import paths
from halcyon.campaign.accounts import read_ledger, stage_times
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.imports import summary_of
from halcyon.config import Settings
from halcyon.domain.intervals import Domain
from halcyon.errors import InputError
from halcyon.final.certificate import Certificate
from halcyon.frames import read_frames
from halcyon.labels.reference.base import Status
from halcyon.labels.store import DAMAGED
from halcyon.models import parity
from halcyon.models.drift import Drift
from halcyon.models.metrics import Metrics, TrainingProgress
from halcyon.report.contents import BadFrame, Generation, LabelInfo, SystemReport
from halcyon.verdict.forms import Verdict
from halcyon.verdict.runs import Run, critical_clis, failures, read_run
from halcyon.verdict.saturation import goes_on


def find_verdicts(folder: Path, settings: Settings) -> list[Path]:
    """Files of a system's verdicts so far, in order, up to the one that ends its campaign.

    Args:
        folder: folder of the system's results.
        settings: the settings that hold now, see `saturation.goes_on`.

    Raises:
        InputError: a damaged verdict; the message names it.
    """
    paths: list[Path] = []
    while (path := folder / f"gen{len(paths):03d}" / "verdict.json").exists():
        paths.append(path)
        if not goes_on(Verdict.read(path), settings):
            break
    return paths


def collect(campaign: Campaign, system: str, verdicts: Sequence[Path]) -> SystemReport:
    """Read what a system's report is made of; the other files lie beside the verdicts.

    Args:
        campaign: the whole campaign.
        system: name of the system.
        verdicts: files of the verdicts to report, in order, from the first generation on.

    Raises:
        InputError: no verdict, or a missing or damaged file; the message names it.
    """
    if not verdicts:
        raise InputError(f"{system}: no generation is finished: there is nothing to report yet")
    plan = campaign.systems[system]
    folder = verdicts[0].parents[1]
    batches = ("seed", *(path.parent.name for path in verdicts))
    infos = {batch: _label_infos(folder / batch) for batch in batches}
    generations: list[Generation] = []
    runs: dict[int, Run] = {}
    for number, path in enumerate(verdicts):
        runs[number] = read_run(path.parent)
        so_far = {batch: infos[batch] for batch in batches[: number + 2]}
        generations.append(_generation(path, so_far, runs, plan.settings))
    counts = folder / "teacher/counts.json"  # to make it again would cost all that follows
    levels = sorted({info["level"] for batch in infos.values() for info in batch})
    certificate_file = folder / "certificate/certificate.json"
    certificate = _certificate(certificate_file, generations[-1])
    everything = {
        "campaign": campaign.settings.model_dump(mode="json"),
        "system": plan.system.model_dump(mode="json"),
    }
    return SystemReport(
        campaign=campaign.settings.campaign,
        system=system,
        plan=plan,
        generations=generations,
        teacher=files.read_object(counts) if counts.exists() else {},
        teacher_frames=_frames(folder / "teacher/frames.parquet"),
        pretraining=_pretraining(folder) if plan.settings.pretraining.enabled else None,
        imported=summary_of(plan, folder),
        label_infos=infos,
        quarantined=[frame for batch in batches for frame in _bad_frames(batch, infos[batch])],
        damaged_shards=[
            path
            for level in levels
            for path in sorted((campaign.settings.label_store / level).glob(f"*{DAMAGED}"))
        ],
        stages=stage_times(read_ledger(paths.ledger(folder.parent), system)),
        level=_level(campaign.settings.label_store, levels),
        model=verdicts[-1].parent / "model.model",
        model_hash=generations[-1].model_hash,
        seed=campaign.settings.seed,
        configuration=yaml.safe_dump(everything, sort_keys=False, allow_unicode=True),
        certificate=certificate,
        certificate_file=certificate_file,
        certificate_traces=[
            tables.read(certificate_file.with_name(f"{run.ensemble}.parquet")).to_pandas()
            for run in (certificate.runs if certificate else ())
        ],
    )


def _certificate(path: Path, last: Generation) -> Certificate | None:
    """The certificate, if it is that of the last generation's model."""
    if not path.exists():
        return None
    certificate = Certificate.read(path)
    return certificate if certificate.model.sha256 == last.model_hash else None


def _pretraining(folder: Path) -> list[TrainingProgress]:
    """Learning curve of the pre-training; empty where somebody has deleted the file."""
    path = folder / "teacher/pretrained.json"
    return Metrics.read(path).curve if path.exists() else []


def _label_infos(folder: Path) -> list[LabelInfo]:
    """What all label files of a batch say about its frames."""
    paths = sorted((folder / "labels").glob("*.parquet"))
    return [frame.info for path in paths for frame in read_frames(path)]


def _audit_frames(folder: Path) -> list[Atoms]:
    """Labelled random frames of a generation, with what its model predicted for them."""
    paths = sorted((folder / "labels").glob("*.parquet"))
    return [
        frame
        for path in paths
        for frame in read_frames(path)
        if frame.info.get("role") == "audit"
        and frame.info["status"] == Status.OK
        and {"forces", "model_forces"} <= frame.arrays.keys()
    ]


def _bad_frames(batch: str, infos: Sequence[LabelInfo]) -> list[BadFrame]:
    """Frames of a batch that have no label."""
    return [
        BadFrame(
            batch=batch,
            structure=info["structure"],
            status=info["status"],
            message=info.get("message", ""),
        )
        for info in infos
        if info["status"] != Status.OK
    ]


def _frames(path: Path) -> list[Atoms]:
    """Frames of a file that need not be there."""
    return read_frames(path) if path.exists() else []


def _generation(
    path: Path, infos: dict[str, list[LabelInfo]], runs: dict[int, Run], settings: Settings
) -> Generation:
    """A generation from the files beside its verdict.

    Args:
        path: file of the verdict.
        infos: what the label files say, by batch, this generation's the last.
        runs: explorations by generation, this generation's the last.
        settings: settings of the system.
    """
    folder, verdict = path.parent, Verdict.read(path)
    explored_ps = (verdict.explored or settings.exploration).time_ps
    number, confidence = verdict.generation, verdict.saturation.confidence
    replicas, traces = runs[number].replicas, runs[number].traces
    statuses = [info["status"] for batch in infos.values() for info in batch]
    metrics = Metrics.read(folder / "metrics.json")
    selection = files.read_object(folder / "selection.json", ("candidates", "fates"))
    return Generation(
        number=number,
        decision=verdict.decision,
        reason=verdict.reason,
        learned={
            "train": metrics.train.frames,
            "validation": metrics.validation.frames,
            "test": metrics.test.frames,
        },
        spent=verdict.labels.spent,
        budget=verdict.label_budget,
        core_hours=verdict.core_hours,
        unlabelled=dict(Counter(status for status in statuses if status != Status.OK)),
        forces_mae=metrics.test.forces_mae_meV_per_A,
        energy_mae=metrics.test.energy_mae_meV_per_atom,
        curve=metrics.curve,
        best_epoch=metrics.best_epoch,
        learning=metrics.learning,
        forgetting=metrics.forgetting,
        replicas=replicas,
        traces=traces,
        saturation=verdict.saturation,
        audit=verdict.audit,
        audit_frames=[] if verdict.audit is None else _audit_frames(folder),
        signals=verdict.signals,
        explored_ps=explored_ps,
        ended_early=runs[number].ended_early,
        late_begin_ps=explored_ps * (1 - settings.saturation.window),
        failures=verdict.failures or failures(replicas, confidence=confidence),
        before_failures=verdict.before_failures,
        critical_cli=verdict.critical_cli or critical_clis(runs, confidence=confidence),
        candidates=selection["candidates"],
        fates=selection["fates"],
        domain=Domain.read(folder / "domain.json"),
        parity=parity.read(compared) if (compared := folder / "parity.parquet").exists() else None,
        drift=Drift.read(drifted) if (drifted := folder / "drift.json").exists() else None,
        selected=_frames(folder / "selected.parquet"),
        label_infos={info["key"]: info for info in infos[folder.name] if "key" in info},
        model_hash=hashlib.sha256(model.read_bytes()).hexdigest()
        if (model := folder / "model.model").exists()
        else "",
    )


def _level(store: Path, hashes: Sequence[str]) -> dict[str, Any]:
    """Hash of the level of theory, and its description where the label store has it."""
    level: dict[str, Any] = {"hash": ", ".join(hashes)}
    description = store / level["hash"] / "level.json"
    if level["hash"] and description.exists():
        level |= files.read_object(description)
    return level
