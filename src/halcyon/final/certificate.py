"""The stability certificate of a model: its form, its conclusion, and the hashes that hold it.

A certificate says what long runs with one model showed, and names by hash the model, its domain,
the labels it learned from, their level of theory, and the traces of the runs. Everything that
follows from the traces can be computed again from them; `verify` does.

Not for: the runs (`certify`), the numbers (`evidence`), or checking one (`verify`).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from pydantic import Field

from halcyon.errors import InputError
from halcyon.final.evidence import Criteria, Findings, ReplicaEnd
from halcyon.frames import canonical_order
from halcyon.verdict.forms import File, Finding, Form, Verdict
from halcyon.verdict.words import rate_text
from halcyon.wording import significant as plain

HANDED_ON = (
    "If you got the folder from somebody, ask for the file again. In the campaign's own folder,"
)
"""What a user does about a damaged file, first half."""
PRODUCTION_PS = 1000.0
"""Time of a replica that is asked of a model for production; less is said to be less."""


class Conclusion(StrEnum):
    """What a certificate comes to."""

    STABLE = "stable"
    NOT_CALM = "not calm"
    NOT_STABLE = "not stable"
    NOT_ENOUGH_DATA = "not enough data"


class FileHash(Form):
    """A file and what it held."""

    path: str = Field(description="Relative to the certificate's folder.")
    sha256: str = Field(description="Of its bytes.")


class CampaignEnd(Form):
    """How the campaign ended: its last verdict."""

    decision: str = Field(description="saturated, max_generations or budget_spent.")
    reason: str = Field(description="The decision in words.")
    generation: int = Field(description="Generation of the verdict and of the model.")

    @classmethod
    def of(cls, verdict: Verdict) -> "CampaignEnd":
        """The part of a verdict that goes into a certificate or a card."""
        return cls(decision=verdict.decision, reason=verdict.reason, generation=verdict.generation)


class Data(Form):
    """Labels of the campaign up to this model."""

    files: list[FileHash] = Field(description="The campaign's label files.")
    splits: dict[str, int] = Field(
        description="Frames that were learned from (train), chose the weights and calibrated the "
        "domain (validation), were kept apart (test), or have no label (bad)."
    )
    sha256: str = Field(
        description="Of all labels: keys of the structures, splits, energies and forces; see "
        "docs/certificate.md."
    )
    store: str = Field(description="Label store, as the campaign named it.")


class Level(Form):
    """Level of theory of the labels."""

    hash: str = Field(description="As in the label store: 16 digits of the sha256 of what follows.")
    description: dict[str, Any] = Field(description="All that decides it.")


class Runs(Form):
    """Runs of one ensemble, and what they show."""

    ensemble: Literal["nvt", "nve"] = Field(
        description="nvt: Langevin thermostat; nve: none, the total energy is conserved."
    )
    traces: FileHash
    temperatures_K: list[float]
    time_ps: float = Field(description="Simulated time asked of each replica.")
    timestep_fs: float
    friction_per_ps: float | None = Field(description="Of the thermostat; null: none.")
    seed: int = Field(description="Of momenta and thermostat.")
    replicas: list[ReplicaEnd]
    findings: list[Findings] = Field(description="Of all replicas, then by temperature.")

    @property
    def overall(self) -> Findings:
        """Findings of all replicas together."""
        return self.findings[0]

    def traces_beside(self, certificate: Path) -> Path:
        """File of the traces, in the folder of a certificate."""
        return certificate.with_name(f"{self.ensemble}.parquet")


class Software(Form):
    """With what it was made."""

    versions: dict[str, str] = Field(description="Of packages, and of Python.")
    machine: str = Field(description="Operating system and processor.")
    device: str = Field(description="Where the model ran.")
    threads: int
    dtype: str = Field(description="Precision of the model and of the dynamics.")


class Certificate(File):
    """Stability certificate of a machine-learned potential."""

    REMEDY: ClassVar[str] = f"{HANDED_ON} `snakemake` makes the certificate again if it is deleted."

    schema_version: Literal[1] = Field(alias="schema", description="Version of this form.")
    conclusion: Conclusion
    sentence: str = Field(description="The conclusion with its scope, for people.")
    reasons: list[str] = Field(description="What it rests on.")
    not_covered: list[str] = Field(description="What it says nothing about.")
    campaign: str
    system: str
    created: str = Field(description="Date and time, ISO 8601.")
    verdict: CampaignEnd
    model: FileHash
    domain: FileHash
    data: Data
    level_of_theory: Level
    criteria: Criteria
    signals: list[str] = Field(description="Signals that were watched.")
    runs: list[Runs] = Field(description="First with a thermostat, then without.")
    software: Software
    checksum: str = Field(
        "",
        description="sha256 of the certificate itself, with this key empty, as compact JSON "
        "with sorted keys. It guards against damage; it is no signature.",
    )

    def checksum_now(self) -> str:
        """What `checksum` must be."""
        text = json.dumps(self.content() | {"checksum": ""}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def sealed(self) -> "Certificate":
        """With its checksum."""
        return self.model_copy(update={"checksum": self.checksum_now()})


def sha256_of(path: Path) -> str:
    """Of a file's bytes.

    Raises:
        InputError: it is missing or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def hash_of(path: Path, folder: Path) -> FileHash:
    """A file as a certificate in `folder` names it."""
    relative = os.path.relpath(path, folder)
    return FileHash(path=Path(relative).as_posix(), sha256=sha256_of(path))


def data_digest(frames: Iterable[Atoms]) -> str:
    """Hash of labels: whatever order they come in, a changed one is seen.

    A line for each frame, lines sorted: key, split, level, energy as Python writes it, and the
    sha256 of the forces (little-endian float64, atoms in canonical order). A frame without a label
    has its status in place of energy and forces.
    """
    lines = []
    for frame in frames:
        known = [str(frame.info.get(name)) for name in ("key", "split", "level")]
        if "energy" in frame.info:
            forces = np.ascontiguousarray(frame.arrays["forces"][canonical_order(frame)], "<f8")
            known += [
                repr(float(frame.info["energy"])),
                hashlib.sha256(forces.tobytes()).hexdigest(),
            ]
        else:
            known.append(str(frame.info.get("status")))
        lines.append(" ".join(known))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def conclude(runs: Sequence[Runs], criteria: Criteria) -> tuple[Conclusion, list[str]]:
    """What the runs come to, and why.

    Not stable: a replica failed, or an energy drifts. Not calm: the model is shown to leave its
    domain too often at a temperature. Not enough data: the runs cannot tell whether it does.
    """
    against: list[str] = []
    restless: list[str] = []
    open_questions: list[str] = []
    for_it: list[str] = []
    for run in runs:
        failed = run.overall.failures
        words = f"{run.ensemble}: {failed.failures} of {run.overall.replicas} replicas failed"
        words += f" {rate_text(failed)}"
        (against if failed.failures else for_it).append(words)
    for found in runs[0].findings[1:]:
        excursions = found.excursions
        words = f"nvt, {found.temperature_K:g} K: {excursions.reason}"
        lower = excursions.rate_lower_bound_per_atom_ps
        if excursions.finding == Finding.SATURATED:
            for_it.append(words)
        elif lower is not None and lower > criteria.max_rate_per_atom_ps:
            restless.append(
                f"nvt, {found.temperature_K:g} K: excursions out of the label domain at "
                f"{lower:.3g}/ps per atom at least, over {criteria.max_rate_per_atom_ps:g}/ps"
            )
        elif not found.failures.failures:
            open_questions.append(words)
    _judge_drift(runs[1].overall, criteria, against, open_questions, for_it)
    if against:
        return Conclusion.NOT_STABLE, against + restless + open_questions + for_it
    if restless:
        return Conclusion.NOT_CALM, restless + open_questions + for_it
    if open_questions:
        return Conclusion.NOT_ENOUGH_DATA, open_questions + for_it
    return Conclusion.STABLE, for_it


def _judge_drift(
    found: Findings,
    criteria: Criteria,
    against: list[str],
    open_questions: list[str],
    for_it: list[str],
) -> None:
    """Add what the energy's drift says to the list where it belongs."""
    drift, limit = found.drift, criteria.max_drift_meV_per_atom_ps
    if drift is None or drift.worst is None or drift.median is None:
        if not found.failures.failures:
            open_questions.append("nve: too few points for a drift of the energy")
        return
    words = (
        f"nve: the energy drifts by {drift.median.value:.2g} meV/atom/ps (median; "
        f"{drift.median.low:.2g}–{drift.median.high:.2g}), {drift.worst:.2g} at worst; "
        f"allowed {limit:g}"
    )
    (for_it if drift.worst <= limit else against).append(words)


def sentence(conclusion: Conclusion, reasons: Sequence[str], runs: Sequence[Runs]) -> str:
    """The conclusion with its scope and, where it is not the good one, the first reason."""
    nvt, nve = runs
    kelvin = ", ".join(f"{t:g}" for t in nvt.temperatures_K)
    asked = f"{nvt.overall.replicas} replicas of {plain(nvt.time_ps)} ps each at {kelvin} K"
    failed = nvt.overall.failures
    why = "" if conclusion == Conclusion.STABLE else f" ({reasons[0]})"
    said = (
        f"{conclusion}{why}: {asked}, {failed.failures} failed {rate_text(failed)}; "
        f"{nve.overall.failures.failures} of {nve.overall.replicas} failed without a thermostat."
    )
    if nvt.time_ps < PRODUCTION_PS:
        said += (
            f" These are short runs: {plain(nvt.time_ps)} ps, where {plain(PRODUCTION_PS)} ps are "
            "the setting for production; of longer runs they say nothing."
        )
    return said[0].upper() + said[1:]


def not_covered(runs: Sequence[Runs], *, structures: Sequence[str], verdict: str) -> list[str]:
    """What a certificate says nothing about."""
    nvt, nve = runs
    kelvin = ", ".join(f"{t:g}" for t in nvt.temperatures_K)
    failed = nvt.overall.failures
    told = [
        f"Temperatures other than {kelvin} K.",
        f"Structures other than {', '.join(structures)}.",
        f"Runs longer than {plain(nvt.time_ps)} ps (without a thermostat {plain(nve.time_ps)} ps).",
        "Rare events: nothing pushed the replicas over barriers that they did not cross by "
        "themselves.",
        f"Other conditions: constant pressure, or another time step than {nvt.timestep_fs:g} fs.",
        "Accuracy: that dynamics are stable does not make them right. The errors on the test set "
        "stand in the model card.",
        "Holes of the potential inside the interval of atomic energies: these are a decomposition "
        "that training does not fix.",
    ]
    if failed.bound_per_ps is not None:
        told.append(
            f"Failures rarer than 1 per {plain(1 / failed.bound_per_ps)} ps of one replica: these "
            "runs could not have seen them for sure."
        )
    if nvt.time_ps < PRODUCTION_PS:
        told.append(
            f"Production: the runs are shorter than {plain(PRODUCTION_PS)} ps "
            "(certificate.time_ps)."
        )
    if verdict != "saturated":
        told.append(f"A saturated campaign: this one ended with {verdict}.")
    return told
