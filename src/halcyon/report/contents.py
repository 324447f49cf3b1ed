"""What a report is made of: all that a system's campaign has written, as objects.

    from halcyon.report import collect

    report = collect(campaign, "ethanol", verdicts)
    report.last.forces_mae  # meV/Å
    report.last.late_rate()  # mean λ in the late window

Not for: reading the files (`collected`), or saying what is in them (`sentences`, `summary`,
`page`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from halcyon.campaign.accounts import StageTime
from halcyon.campaign.campaign import SystemPlan
from halcyon.domain.intervals import Domain
from halcyon.final.certificate import Certificate
from halcyon.labels.imported import ImportedLabels
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.models.drift import Drift
from halcyon.models.forgetting import Forgetting
from halcyon.models.metrics import Learning, TrainingProgress
from halcyon.verdict.forms import (
    Assessment,
    Audit,
    BeforeFailures,
    CoreHours,
    CriticalClis,
    Decision,
    FailureRate,
    ReplicaEnd,
    SignalReport,
)
from halcyon.verdict.runs import Run

LabelInfo = dict[str, Any]
"""What a label file says about one frame: `status`, `level`, `structure`, and whatever else the
label's backend wrote."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One generation as its files describe it.

    Attributes:
        number: number of the generation, from 0.
        decision: decision of its verdict.
        reason: the decision in words.
        learned: number of frames in the sets train, validation and test that its model knew.
        spent: label calculations of the campaign after it, those without a label included.
        budget: labels allowed.
        core_hours: core-hours of the campaign so far, and their limit.
        unlabelled: number of frames without a label after it, by status.
        forces_mae: mean absolute error of forces on the test set, meV/Å.
        energy_mae: mean absolute error of energies on the test set, meV/atom.
        curve: learning curve of its model.
        best_epoch: epoch whose weights were kept.
        learning: what was replayed and what did not learn; None in older campaigns.
        forgetting: walls of the start model and of its model; None where there is no start model,
            and in older campaigns.
        replicas: how each replica ended.
        traces: traces of the replicas, see `exploration.traces.TRACE_COLUMNS`.
        saturation: what the late window says: is it calm, and was enough explored?
        audit: errors on random frames of its dynamics; None in older campaigns.
        audit_frames: those of them that have a label, with what its model predicted in
            `arrays["model_forces"]`; none in older campaigns.
        signals: how well each signal told bad forces from good ones; none in older campaigns.
        failures: failures of its replicas per simulated time.
        before_failures: errors on frames shortly before them; None where there are none.
        explored_ps: simulated time asked of each replica, ps.
        ended_early: why that is less than was to be explored; empty: it is not.
        late_begin_ps: time at which the late window begins, ps.
        critical_cli: critical CLI over the replicas of this and all earlier generations.
        candidates: number of candidate frames.
        fates: number of candidates by what became of them.
        domain: domain of its model.
        parity: predictions against test labels, see `parity.read`; None in older campaigns.
        drift: drift of latent features; None in older campaigns.
        selected: frames that were selected after it, with what selected them.
        label_infos: what the label files say about the selected frames, by the frame's key.
        model_hash: SHA-256 of its model's file; empty where the file is missing.
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
    learning: Learning | None
    forgetting: Forgetting | None
    replicas: list[ReplicaEnd]
    traces: pd.DataFrame
    saturation: Assessment
    audit: Audit | None
    audit_frames: list[Atoms]
    signals: list[SignalReport]
    failures: FailureRate
    before_failures: BeforeFailures | None
    explored_ps: float
    ended_early: str
    late_begin_ps: float
    critical_cli: CriticalClis
    candidates: int
    fates: dict[str, int]
    domain: Domain
    parity: dict[str, dict[str, np.ndarray]] | None
    drift: Drift | None
    selected: list[Atoms]
    label_infos: dict[str, LabelInfo]
    model_hash: str

    @property
    def hours_ran_out(self) -> bool:
        """Whether core-hours, and not labels, ran out; the rule is that of `saturation.decide`."""
        limit = self.core_hours.limit
        spent = limit is not None and self.core_hours.spent >= limit
        return spent or NOT_COMPUTED in self.unlabelled

    @property
    def simulated_ps(self) -> float:
        """Simulated time of all replicas together, ps."""
        return float(sum(end.time_ps for end in self.replicas))

    @property
    def run(self) -> Run:
        """Exploration of this generation."""
        return Run(traces=self.traces, replicas=self.replicas, ended_early=self.ended_early)

    @property
    def replaced(self) -> int:
        """Number of replicas that took the place of a failed one."""
        return sum(end.replaces for end in self.replicas)

    @property
    def deciding(self) -> str:
        """By which index it was judged: ending of its trace columns, see `verdict.runs`."""
        return self.run.deciding

    def final(self, column: str) -> pd.Series:
        """Last value of a trace column of each replica."""
        return self.traces.groupby("replica")[column].last()

    def late_rates(self) -> dict[int, float]:
        """Mean λ = dΛ/dt of the deciding index in the late window, by replica.

        A failed replica has none: in the verdict its late window does not count either.
        """
        return {replica: gained / elapsed for replica, gained, elapsed in self._late()}

    def late_rate(self) -> float | None:
        """Mean λ = dΛ/dt in the late windows of all replicas; None where every replica failed."""
        late = self._late()
        elapsed = sum(each[2] for each in late)
        return float(sum(each[1] for each in late) / elapsed) if elapsed > 0 else None

    def _late(self) -> list[tuple[int, float, float]]:
        """Replica, Λ gained in the late window, and its length, both in ps."""
        gains = []
        columns = ["time", f"cli_{self.deciding}"]
        by_replica = dict(list(self.traces.groupby("replica")[columns]))
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
    """A frame that the reference could not label.

    Attributes:
        batch: `seed`, or the generation's folder.
        structure: start structure of the frame.
        status: why there is no label, see `labels.reference.base.Status`.
        message: what the reference's program wrote.
    """

    batch: str
    structure: str
    status: str
    message: str


@dataclass(frozen=True, kw_only=True)
class SystemReport:
    """All that is reported about one system.

    Attributes:
        campaign: name of the campaign.
        system: name of the system.
        plan: the system and its settings.
        generations: in order; at least one.
        teacher: number of the teacher's frames by structure and by what became of them, see
            `teacher.sampling`.
        teacher_frames: the teacher's frames; none where their file was deleted.
        pretraining: learning curve of the pre-training; None without pre-training.
        imported: what became of the labels of files; None where it started from none.
        label_infos: what the label files say about each frame, by batch.
        quarantined: frames without a label.
        damaged_shards: files of the label store that were found damaged, and set aside.
        stages: times of the stages, in the order in which they first finished.
        level: hash and, where the label store has it, description of the level of theory.
        model: file of the last model.
        model_hash: SHA-256 of that file.
        seed: seed of the campaign.
        configuration: everything that was set, as YAML.
        certificate: certificate of the last model; None where it has none, or not yet.
        certificate_file: file of the certificate, whether or not it is there.
        certificate_traces: traces of the certificate's runs, in their order.
    """

    campaign: str
    system: str
    plan: SystemPlan
    generations: list[Generation]
    teacher: dict[str, dict[str, int]]
    teacher_frames: list[Atoms]
    pretraining: list[TrainingProgress] | None
    imported: ImportedLabels | None
    label_infos: dict[str, list[LabelInfo]]
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
    certificate_traces: list[pd.DataFrame]

    @property
    def last(self) -> Generation:
        """The last generation."""
        return self.generations[-1]

    @property
    def deciding(self) -> str:
        """By which index the last generation was judged, see `verdict.runs.deciding`."""
        return self.last.deciding

    @property
    def tolerance_eV_per_A(self) -> float:  # noqa: N802
        """Force error over which an atom is unreliable, eV/Å."""
        return self.plan.settings.accuracy.atom_force_eV_per_A

    @property
    def longest_ps(self) -> float:
        """Greatest time asked of a replica in any generation, ps."""
        return max(generation.explored_ps for generation in self.generations)

    @property
    def explored_text(self) -> str:
        """Time asked of a replica: `30 ps`, or `30 to 78 ps` where generations differ."""
        shortest = min(generation.explored_ps for generation in self.generations)
        least = f"{shortest:g} to " if shortest < self.longest_ps else ""
        return f"{least}{self.longest_ps:g} ps"
