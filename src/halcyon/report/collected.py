"""Reading what a system's campaign has written, all of it, once.

    found = collect(campaign, "ethanol", verdicts)
    found.last.forces_mae  # meV/Å

Not for: telling it (`sentences`, `summary`, `halcyon.report.page`), or deciding anything
(`saturation`).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from ase import Atoms

from halcyon import files
from halcyon.campaign import paths
from halcyon.campaign.accounts import StageTime, read_ledger, stage_times
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.config import Settings
from halcyon.domain.intervals import Domain
from halcyon.errors import InputError
from halcyon.final.certificate import Certificate
from halcyon.frames import read_frames
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.labels.reference.base import Status
from halcyon.labels.store import DAMAGED
from halcyon.models import parity
from halcyon.models.drift import Drift
from halcyon.models.metrics import Metrics, TrainingProgress
from halcyon.verdict.forms import (
    Assessment,
    CoreHours,
    CriticalClis,
    Decision,
    FailureRate,
    ReplicaEnd,
    Verdict,
)
from halcyon.verdict.runs import Run, critical_clis, failures, read_run
from halcyon.verdict.saturation import goes_on


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One generation as its files tell it.

    Attributes:
        number: from 0.
        decision: of its verdict.
        reason: of its verdict.
        learned: frames in the sets train, validation and test that its model knew.
        spent: label calculations after it, failed ones included.
        budget: labels allowed.
        core_hours: spent by the campaign so far, and its limit; none in older campaigns.
        unlabelled: frames without a label after it, by status.
        forces_mae: on the test set, meV/Å.
        energy_mae: on the test set, meV/atom.
        curve: the learning curve of its model.
        best_epoch: the one whose weights were kept.
        replicas: how each replica ended, see `explore`.
        traces: see `traces.TRACE_COLUMNS`.
        saturation: the assessment in its verdict, see `saturation.assess`.
        failures: of its replicas, per simulated time, see `verdict.runs.failures`.
        explored_ps: simulated time asked of each replica, ps.
        late_begin_ps: where the late window begins, ps.
        critical_cli: of this and all earlier generations, see `verdict.runs.critical_clis`.
        candidates: number of candidate frames.
        fates: of the candidates, by reason.
        domain: what its model knows.
        parity: predictions against test labels, see `parity.read`; None in older campaigns.
        drift: of latent features, see `models.drift`; None in older campaigns.
        selected: frames that were selected after it, with what selected them.
        asked: what is written about the calculations of their labels, by the frame's key.
        model_hash: SHA-256 of its model; empty where the file is missing.
    """

    number: int
    decision: Decision
    reason: str
    learned: dict[str, int]
    spent: int
    budget: int
    core_hours: CoreHours
    unlabelled: dict[str, int]
    forces_mae: float
    energy_mae: float
    curve: list[TrainingProgress]
    best_epoch: int
    replicas: list[ReplicaEnd]
    traces: pd.DataFrame
    saturation: Assessment
    failures: FailureRate
    explored_ps: float
    late_begin_ps: float
    critical_cli: CriticalClis
    candidates: int
    fates: dict[str, int]
    domain: Domain
    parity: dict[str, dict[str, np.ndarray]] | None
    drift: Drift | None
    selected: list[Atoms]
    asked: dict[str, dict[str, Any]]
    model_hash: str

    @property
    def hours_ran_out(self) -> bool:
        """Whether core-hours, and not labels, are what was spent; as `saturation.decide` has it."""
        limit = self.core_hours.limit
        spent = limit is not None and self.core_hours.spent >= limit
        return spent or NOT_COMPUTED in self.unlabelled

    @property
    def simulated_ps(self) -> float:
        """Simulated time of all replicas together, ps."""
        return float(sum(end.time_ps for end in self.replicas))

    @property
    def run(self) -> Run:
        """Its exploration."""
        return Run(traces=self.traces, replicas=self.replicas)

    @property
    def replaced(self) -> int:
        """Replicas that took the place of a failed one."""
        return sum(end.replaces for end in self.replicas)

    def final(self, column: str) -> pd.Series:
        """Last value of a trace column of each replica."""
        return self.traces.groupby("replica")[column].last()

    def late_rates(self) -> dict[int, float]:
        """Mean λ = dΛ/dt in the late window of each replica that reached the end.

        As in the verdict, a failed replica has no late window.
        """
        return {r: gained / elapsed for r, gained, elapsed in self._late()}

    def late_rate(self) -> float | None:
        """Mean λ = dΛ/dt there, of all of them; None where every replica failed."""
        late = self._late()
        elapsed = sum(each[2] for each in late)
        return float(sum(each[1] for each in late) / elapsed) if elapsed > 0 else None

    def _late(self) -> list[tuple[int, float, float]]:
        """Replica, Λ gained in the late window, and its length, both in ps."""
        gains = []
        by_replica = dict(list(self.traces.groupby("replica")[["time", "cli_label"]]))
        for end in self.replicas:
            trace = by_replica.get(end.replica)
            if end.failure is not None or trace is None:
                continue
            early = trace[trace["time"] <= self.late_begin_ps]
            since, before = (0.0, 0.0) if early.empty else early.iloc[-1]
            until, after = trace.iloc[-1]
            if until > since:
                gains.append((end.replica, float(after - before), float(until - since)))
        return gains


@dataclass(frozen=True, kw_only=True)
class BadFrame:
    """A frame that the reference could not label, and the program's own words."""

    batch: str
    structure: str
    status: str
    message: str


@dataclass(frozen=True, kw_only=True)
class SystemReport:
    """All that is reported about one system.

    Attributes:
        campaign: name.
        system: name.
        plan: the system and its settings.
        generations: in order; at least one.
        teacher: per structure, frames kept and dropped, see `teachers.sample`.
        taught: the teacher's frames; none where their file is gone.
        pretraining: as `Generation.curve`; None without pre-training.
        label_infos: what is written about each label calculation, by batch.
        quarantined: frames without a label.
        damaged_shards: files of the label store that were found damaged, and set aside.
        stages: in the order in which they first finished.
        level: hash and, where the label store has it, description of the level of theory.
        model: file of the last model.
        model_hash: its SHA-256.
        seed: of the campaign.
        configuration: everything that was set, as YAML.
        certificate: of the last model; None where it has none, or not yet.
        certificate_file: where it is.
        certified: traces of its runs, in their order.
    """

    campaign: str
    system: str
    plan: SystemPlan
    generations: list[Generation]
    teacher: dict[str, dict[str, int]]
    taught: list[Atoms]
    pretraining: list[TrainingProgress] | None
    label_infos: dict[str, list[dict[str, Any]]]
    quarantined: list[BadFrame]
    damaged_shards: list[Path]
    stages: list[StageTime]
    level: dict[str, Any]
    model: Path
    model_hash: str
    seed: int
    configuration: str
    certificate: Certificate | None
    certificate_file: Path
    certified: list[pd.DataFrame]

    @property
    def last(self) -> Generation:
        """The last generation."""
        return self.generations[-1]

    @property
    def longest_ps(self) -> float:
        """Greatest time asked of a replica in any generation, ps."""
        return max(generation.explored_ps for generation in self.generations)


def find_verdicts(folder: Path, settings: Settings) -> list[Path]:
    """Verdicts of a system so far, in order, up to the one that ends its campaign.

    Args:
        folder: of the system's results.
        settings: that hold now: see `saturation.goes_on`.
    """
    found: list[Path] = []
    while (path := folder / f"gen{len(found):03d}" / "verdict.json").exists():
        found.append(path)
        if not goes_on(Verdict.read(path), settings):
            break
    return found


def collect(campaign: Campaign, system: str, verdicts: Sequence[Path]) -> SystemReport:
    """Read what a system's report tells; the other files are found beside the verdicts.

    Args:
        campaign: the whole campaign.
        system: name of the system.
        verdicts: of the generations to report, in order, from the first on.

    Raises:
        InputError: no verdict, or a missing or damaged file; it is named.
    """
    if not verdicts:
        raise InputError(f"{system}: no generation is finished: there is nothing to report yet")
    plan = campaign.systems[system]
    folder = verdicts[0].parents[1]
    labels = {name: _labels(folder / name) for name in ("seed", *(v.parent.name for v in verdicts))}
    generations: list[Generation] = []
    runs: dict[int, Run] = {}
    for number, verdict in enumerate(verdicts):
        known = [frame for batch in list(labels.values())[: number + 2] for frame in batch]
        runs[number] = read_run(verdict.parent)
        batch = labels[verdict.parent.name]
        generations.append(_generation(verdict, known, batch, runs, plan.settings))
    pretrained = plan.settings.pretraining.enabled
    levels = sorted({info["level"] for batch in labels.values() for info in batch})
    model = verdicts[-1].parent / "model.model"
    proof = folder / "certificate/certificate.json"
    certificate = _certificate(proof, generations[-1])
    everything = {
        "campaign": campaign.settings.model_dump(mode="json"),
        "system": plan.system.model_dump(mode="json"),
    }
    return SystemReport(
        campaign=campaign.settings.campaign,
        system=system,
        plan=plan,
        generations=generations,
        teacher=files.read_json(folder / "teacher/counts.json"),
        taught=_frames(folder / "teacher/frames.parquet"),
        pretraining=Metrics.read(folder / "teacher/pretrained.json").curve if pretrained else None,
        label_infos=labels,
        quarantined=[
            BadFrame(
                batch=batch,
                structure=info["structure"],
                status=info["status"],
                message=info.get("message", ""),
            )
            for batch, infos in labels.items()
            for info in infos
            if info["status"] != Status.OK
        ],
        damaged_shards=[
            path
            for level in levels
            for path in sorted((campaign.settings.label_store / level).glob(f"*{DAMAGED}"))
        ],
        stages=stage_times(read_ledger(paths.ledger(folder.parent), system)),
        level=_level(campaign.settings.label_store, levels),
        model=model,
        model_hash=generations[-1].model_hash,
        seed=campaign.settings.seed,
        configuration=yaml.safe_dump(everything, sort_keys=False, allow_unicode=True),
        certificate=certificate,
        certificate_file=proof,
        certified=[
            pd.read_parquet(proof.with_name(f"{run.ensemble}.parquet"))
            for run in (certificate.runs if certificate else ())
        ],
    )


def _certificate(path: Path, last: Generation) -> Certificate | None:
    """The certificate of the last generation's model; one of an earlier model is none."""
    if not path.exists():
        return None
    found = Certificate.read(path)
    return found if found.model.sha256 == last.model_hash else None


def _labels(folder: Path) -> list[dict[str, Any]]:
    """What is written about the frames of a batch, all its shards together."""
    return [
        f.info for path in sorted((folder / "labels").glob("*.parquet")) for f in read_frames(path)
    ]


def _frames(path: Path) -> list[Atoms]:
    """Frames of a file that need not be there."""
    return read_frames(path) if path.exists() else []


def _generation(
    path: Path,
    known: list[dict[str, Any]],
    asked: list[dict[str, Any]],
    runs: dict[int, Run],
    settings: Settings,
) -> Generation:
    folder, verdict = path.parent, Verdict.read(path)
    explored_ps = (verdict.explored or settings.exploration).time_ps
    number, confidence = verdict.generation, verdict.saturation.confidence
    replicas, traces = runs[number].replicas, runs[number].traces
    metrics = Metrics.read(folder / "metrics.json")
    selection = files.read_json(folder / "selection.json")
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
        unlabelled=dict(Counter(i["status"] for i in known if i["status"] != Status.OK)),
        forces_mae=metrics.test.forces_mae_meV_per_A,
        energy_mae=metrics.test.energy_mae_meV_per_atom,
        curve=metrics.curve,
        best_epoch=metrics.best_epoch,
        replicas=replicas,
        traces=traces,
        saturation=verdict.saturation,
        explored_ps=explored_ps,
        late_begin_ps=explored_ps * (1 - settings.saturation.window),
        failures=verdict.failures or failures(replicas, confidence=confidence),
        critical_cli=verdict.critical_cli or critical_clis(runs, confidence=confidence),
        candidates=selection["candidates"],
        fates=selection["fates"],
        domain=Domain.read(folder / "domain.json"),
        parity=parity.read(compared) if (compared := folder / "parity.parquet").exists() else None,
        drift=Drift.read(drifted) if (drifted := folder / "drift.json").exists() else None,
        selected=_frames(folder / "selected.parquet"),
        asked={info["key"]: info for info in asked if "key" in info},
        model_hash=hashlib.sha256(model.read_bytes()).hexdigest()
        if (model := folder / "model.model").exists()
        else "",
    )


def _level(store: Path, hashes: Sequence[str]) -> dict[str, Any]:
    """Level of theory: its hash, and its description where the store is at hand."""
    level: dict[str, Any] = {"hash": ", ".join(hashes)}
    description = store / level["hash"] / "level.json"
    if level["hash"] and description.exists():
        level |= files.read_json(description)
    return level
