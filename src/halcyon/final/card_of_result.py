"""What the model card says, computed from what a campaign has come to.

Not for: the form of the card (`card`), or its words (`model_card`).
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from halcyon import __version__
from halcyon.campaign.campaign import SystemPlan
from halcyon.config.system import BONDS_HOLD
from halcyon.domain.intervals import Domain
from halcyon.final import meaning
from halcyon.final.card import (
    Card,
    CertificateSummary,
    DomainSummary,
    LammpsExport,
    LevelOfTheory,
    Model,
    Structure,
)
from halcyon.final.monitor.watch import Thresholds
from halcyon.final.result import Result
from halcyon.labels.store_tools import level_words
from halcyon.models import mace
from halcyon.verdict.runs import deciding

SETS = ("test", "validation", "train")
"""Sets of labelled frames whose errors the card gives, in its order."""
UNTESTED = (
    "Long runs of any length: there is no certificate, only the campaign's verdict.",
    "Structures other than those above.",
)
"""What a model without a certificate is not good for."""
RATE_FACTOR = 2.0
"""Runs 5 to 10 times as long reached 1.0 to 2.6 times the greatest λ, 13 of 15 less than twice."""


def card_of_result(
    plan: SystemPlan,
    result: Result,
    *,
    campaign: str,
    system: str,
    structures: Sequence[Structure],
    lammps: LammpsExport,
) -> Card:
    """Compute a model card.

    Args:
        plan: the system and its settings.
        result: what the campaign has come to.
        campaign: its name.
        system: name of the system.
        structures: start structures as they lie in the folder.
        lammps: the LAMMPS export.
    """
    settings, runs, sources = plan.settings, result.runs, result.sources
    least = Thresholds(
        bond_stretch_A=runs.bond_stretch_A,
        min_distance_A=runs.min_distance_A,
        site_distance_A=runs.site_distance_A,
    )
    return Card(
        campaign=campaign,
        system=system,
        kind=plan.system.kind,
        halcyon=__version__,
        model=Model(
            file=sources.model.name,
            description=mace.described(result.model),
            elements=mace.symbols([int(z) for z in result.model.atomic_numbers]).split(", "),
        ),
        dtype=settings.model.dtype,
        timestep_fs=runs.timestep_fs,
        temperatures_K=runs.temperatures_K,
        structures=list(structures),
        level_of_theory=LevelOfTheory(
            **result.level.model_dump(), words=level_words(result.level.description)
        ),
        data={split: len(frames) for split, frames in result.labels.items()},
        start="pre-trained on a classical force field, then fine-tuned"
        if settings.pretraining.enabled
        else "from scratch",
        errors={name: getattr(result.metrics, name) for name in SETS},
        domain=_domain_summary(result.domain, sources.domain.name),
        verdict=result.verdict,
        certificate=_certificate_summary(result),
        no_certificate=f"certificate.when is '{settings.certificate.when}'",
        watch=recommended(result.traces, result.failed, least),
        lammps=lammps,
        limits=result.certificate.not_covered if result.certificate else list(UNTESTED),
        caveats=meaning.caveats(result.labels["train"], bonds_hold=plan.system.kind in BONDS_HOLD),
    )


def _domain_summary(domain: Domain, name: str) -> DomainSummary:
    margin, exceedance = domain.margin, domain.report.exceedance_with_margin
    return DomainSummary(
        file=name,
        words=f"{len(domain.label)} classes of atoms, margin {margin.value:.2g} widths "
        f"({margin.low:.2g}–{margin.high:.2g})",
        margin=margin,
        exceedance=asdict(exceedance) if exceedance else {},
    )


def _certificate_summary(result: Result) -> CertificateSummary | None:
    if result.certificate is None or result.sources.certificate is None:
        return None
    return CertificateSummary(
        file=result.sources.certificate.name,
        conclusion=result.certificate.conclusion,
        sentence=result.certificate.sentence,
    )


def recommended(traces: pd.DataFrame, failed: Sequence[int], least: Thresholds) -> Thresholds:
    """Thresholds for production that no replica which survived came near.

    λ over the window may be `RATE_FACTOR` times the greatest value of any replica that did not
    fail, because longer runs reach more (docs/production.md), and never less than `least`.

    Args:
        traces: of the certificate's runs or, without one, of the last exploration.
        failed: numbers of the replicas that failed.
        least: the smallest thresholds to recommend.
    """
    greatest, index = 0.0, f"cli_{deciding(traces.columns)}"
    for replica, points in traces.groupby("replica"):
        if replica in failed:
            continue
        time, cli = points["time"].to_numpy(), points[index].to_numpy()
        begin = np.searchsorted(time, time - least.window_ps + 1e-9, side="right")
        before = np.concatenate([[0.0], cli])[begin]
        greatest = max(greatest, float((cli - before).max()) / least.window_ps)
    rate = min(1.0, max(least.rate, RATE_FACTOR * greatest))
    return Thresholds(**(vars(least) | {"rate": rate}))
