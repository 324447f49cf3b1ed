"""What a campaign has come to for one system: its last generation, read from its files.

Not for: what the model card says about it (`card`), or the files for others (`folder`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from ase import Atoms

from halcyon import tables
from halcyon.config import ExplorationSettings, Settings
from halcyon.domain.intervals import Domain
from halcyon.final import long_runs
from halcyon.final.certificate import CampaignEnd, Certificate, Level
from halcyon.labels.labelling import gather
from halcyon.models import mace
from halcyon.models.metrics import Metrics
from halcyon.verdict.forms import ExplorationSummary, Verdict


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Files of the last generation.

    Attributes:
        model: MACE model.
        domain: domain of the model.
        metrics: errors of the model.
        verdict: verdict.json; traces.parquet and exploration.json lie beside it.
        labels: all label files of the campaign up to this model.
        certificate: the model's certificate, its traces beside it; None: it has none.
    """

    model: Path
    domain: Path
    metrics: Path
    verdict: Path
    labels: Sequence[Path]
    certificate: Path | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The content of the files that `sources` names.

    Attributes:
        sources: where it was read from.
        model: MACE model, as `mace.load` returns it, on the CPU.
        domain: of the model.
        metrics: errors of the model.
        verdict: of the last generation.
        labels: frames by split, see `labelling.gather`.
        level: level of theory of all labels.
        runs: settings of the certificate's runs with a thermostat, whether or not they were made.
        certificate: None if there is none.
        traces: of the certificate's runs with a thermostat; without a certificate, of the last
            exploration.
        failed: numbers of the replicas in `traces` that failed.
    """

    sources: Sources
    model: Any
    domain: Domain
    metrics: Metrics
    verdict: CampaignEnd
    labels: Mapping[str, Sequence[Atoms]]
    level: Level
    runs: ExplorationSettings
    certificate: Certificate | None
    traces: pd.DataFrame
    failed: Sequence[int]

    @property
    def frames(self) -> list[Atoms]:
        """All frames, whatever their split, in the order of `labels`."""
        return [frame for frames in self.labels.values() for frame in frames]

    @property
    def unchanged(self) -> list[Path]:
        """Files that go into the final folder as they are."""
        copied = [self.sources.model, self.sources.domain]
        if self.certificate and self.sources.certificate:
            copied += [self.sources.certificate]
            copied += [run.traces_beside(self.sources.certificate) for run in self.certificate.runs]
        return copied


def read_result(sources: Sources, settings: Settings, *, store: Path) -> Result:
    """Read what a campaign has come to.

    Args:
        sources: files of the last generation.
        settings: of the system.
        store: the label store, which describes the level of theory.

    Raises:
        InputError: a file is missing or damaged, or the labels are not all of one level of theory.
    """
    labels = gather(sources.labels)
    if sources.certificate:
        certificate = Certificate.read(sources.certificate)
        traces = certificate.runs[0].traces_beside(sources.certificate)
        failed = [end.replica for end in certificate.runs[0].replicas if end.failure]
    else:
        certificate, traces = None, sources.verdict.with_name("traces.parquet")
        exploration = ExplorationSummary.read(sources.verdict.with_name("exploration.json"))
        failed = [end.replica for end in exploration.replicas if end.failure]
    return Result(
        sources=sources,
        model=mace.load(sources.model, device="cpu"),
        domain=Domain.read(sources.domain),
        metrics=Metrics.read(sources.metrics),
        verdict=CampaignEnd.of(Verdict.read(sources.verdict)),
        labels=labels,
        level=long_runs.level_of([f for frames in labels.values() for f in frames], store),
        runs=long_runs.run_settings(settings.exploration, settings.certificate, "nvt"),
        certificate=certificate,
        traces=tables.read(traces).to_pandas(),
        failed=failed,
    )
