"""The stability certificate of a model: its form, its conclusion, and the hashes in it.

    from pathlib import Path
    from halcyon.final.certificate import Certificate

    certificate = Certificate.read(Path("results/quickstart/ethanol/final/certificate.json"))
    print(certificate.sentence, certificate.runs[0].overall.failures.bound_per_ps)

A certificate says what long runs with one model showed. It names by hash the model, its domain,
the labels it learned from, their level of theory, and the traces of the runs. All its numbers can
be computed again from the traces, and `checks.verify` does so.

Not for: the runs (`long_runs`), the numbers (`evidence`), or checking a certificate (`checks`).
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
from halcyon.verdict.forms import Audit, Calm, File, Finding, Form, Verdict
from halcyon.verdict.melting import melted_text
from halcyon.verdict.words import rate_text
from halcyon.wording import count, per_cent, significant

HANDED_ON = (
    "If you got the folder from somebody, ask for the file again. In the campaign's own folder,"
)
"""How the advice about a damaged file of a final folder begins."""
PRODUCTION_PS = 1000.0
"""Time of each replica that shows a model fit for production. Shorter runs are called short."""


class Conclusion(StrEnum):
    """The result that a certificate states."""

    STABLE = "stable"
    NOT_CALM = "not calm"
    NOT_STABLE = "not stable"
    NOT_ENOUGH_DATA = "not enough data"


class FileHash(Form):
    """A file and the hash of its content."""

    path: str = Field(description="Relative to the certificate's folder.")
    sha256: str = Field(description="sha256 of the file's bytes.")


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

    hash: str = Field(
        description="Name in the label store: 16 digits of the sha256 of the description."
    )
    description: dict[str, Any] = Field(description="All that determines the level.")


class Runs(Form):
    """Runs of one ensemble, and what they showed."""

    ensemble: Literal["nvt", "nve"] = Field(
        description="nvt: Langevin thermostat; nve: none, the total energy is conserved."
    )
    traces: FileHash
    temperatures_K: list[float]
    time_ps: float = Field(description="Simulated time asked of each replica.")
    equilibration_ps: float = Field(
        0.0,
        exclude_if=lambda value: value == 0.0,  # the checksum of an early release lacks it
        description="Without a thermostat: time with one before, not part of `time_ps`. 0 in "
        "certificates of early releases, whose replicas began from the strain of a frame.",
    )
    timestep_fs: float
    friction_per_ps: float | None = Field(
        description="Friction of the thermostat; null: there is none."
    )
    seed: int = Field(description="Random seed of momenta and thermostat.")
    replicas: list[ReplicaEnd]
    findings: list[Findings] = Field(
        description="First of all replicas together, then at each temperature, ascending."
    )

    @property
    def overall(self) -> Findings:
        """Findings of all replicas together."""
        return self.findings[0]

    def traces_beside(self, certificate: Path) -> Path:
        """File of the traces, in the folder of a certificate."""
        return certificate.with_name(f"{self.ensemble}.parquet")


class Software(Form):
    """Software and machine that made the runs."""

    versions: dict[str, str] = Field(description="Versions of packages and of Python.")
    machine: str = Field(description="Operating system and processor.")
    device: str = Field(description="Where the model ran.")
    threads: int
    dtype: str = Field(description="Precision of the model and of the dynamics.")


class Certificate(File):
    """Stability certificate of a machine-learned potential."""

    SCHEMA: ClassVar[int] = 3
    REMEDY: ClassVar[str] = f"{HANDED_ON} `snakemake` makes the certificate again if it is deleted."

    schema_version: Literal[1, 2, 3] = Field(
        alias="schema",
        description="Version of this form; 1: of early releases, which counted excursions; 2: "
        "before the Lindemann ratios of crystals.",
    )
    conclusion: Conclusion
    sentence: str = Field(description="The conclusion with its scope, for people.")
    reasons: list[str] = Field(description="What the conclusion rests on.")
    not_covered: list[str] = Field(description="What the certificate says nothing about.")
    campaign: str
    system: str
    created: str = Field(description="Date and time, ISO 8601.")
    verdict: CampaignEnd
    audit: Audit | None = Field(
        None,
        description="Of the campaign's last generation: errors on random frames of its dynamics. "
        "Null in certificates of early releases.",
    )
    model: FileHash
    domain: FileHash
    data: Data
    level_of_theory: Level
    criteria: Criteria
    signals: list[str] = Field(description="Signals that were watched.")
    runs: list[Runs] = Field(description="First the runs with a thermostat, then those without.")
    software: Software
    checksum: str = Field(
        "",
        description="sha256 of the certificate itself, with this key empty, as compact JSON "
        "with sorted keys. It guards against damage; it is no signature.",
    )

    def content(self) -> dict[str, Any]:
        """The certificate as plain JSON; an early release's keys, and no more, if it is of one."""
        early = self.schema_version < self.SCHEMA
        return self.model_dump(mode="json", by_alias=True, exclude_unset=early)

    def checksum_now(self) -> str:
        """The checksum of the certificate as it is now."""
        text = json.dumps(self.content() | {"checksum": ""}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def sealed(self) -> "Certificate":
        """A copy that carries its checksum."""
        return self.model_copy(update={"checksum": self.checksum_now()})


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, as hexadecimal digits.

    Raises:
        InputError: the file is missing or cannot be read.
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
    """Path and hash of a file, as a certificate in `folder` names it."""
    relative = os.path.relpath(path, folder)
    return FileHash(path=Path(relative).as_posix(), sha256=sha256_of(path))


def data_digest(frames: Iterable[Atoms]) -> str:
    """Hash of labels that does not depend on their order and changes with any of them.

    It is the sha256 of one line for each frame, lines sorted: key, split, level, energy as Python
    writes it, and the sha256 of the forces (little-endian float64, atoms in canonical order). A
    frame without a label has its status in place of energy and forces.
    """
    lines = []
    for frame in frames:
        words = [str(frame.info.get(name)) for name in ("key", "split", "level")]
        if "energy" in frame.info:
            forces = np.ascontiguousarray(frame.arrays["forces"][canonical_order(frame)], "<f8")
            words += [
                repr(float(frame.info["energy"])),
                hashlib.sha256(forces.tobytes()).hexdigest(),
            ]
        else:
            words.append(str(frame.info.get("status")))
        lines.append(" ".join(words))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def conclude(
    runs: Sequence[Runs], criteria: Criteria, audit: Audit | None = None
) -> tuple[Conclusion, list[str]]:
    """The conclusion that runs allow, and what it rests on.

    Not stable: a replica failed, or the energy drifts in one. Not calm: some structure at some
    temperature certainly has events too often. Not enough data: the runs cannot tell whether it
    has. What has melted, and what the campaign's last audit found, stands at the end, and decides
    nothing here. `checks.verify` compares the words with those in the file: whoever changes them
    here makes certificates of earlier releases fail.

    Args:
        runs: with a thermostat, then without.
        criteria: what the model was tested against.
        audit: of the campaign's last generation.
    """
    against: list[str] = []
    restless: list[str] = []
    undecided: list[str] = []
    in_favour: list[str] = []
    for run in runs:
        failures = run.overall.failures
        reason = f"{run.ensemble}: {failures.failures} of {run.overall.replicas} replicas failed"
        reason += f" {rate_text(failures)}"
        (against if failures.failures else in_favour).append(reason)
    for findings in runs[0].findings[1:]:
        _add_excursions(findings, criteria, restless, undecided, in_favour)
    _add_events(runs[0].overall, criteria, restless, undecided, in_favour)
    _add_drift(runs[1].overall, criteria, against, undecided, in_favour)
    for run in runs:
        in_favour += [f"{run.ensemble}: {text}" for text in melted_text(run.overall.order)]
    in_favour += audit_words(audit)
    if against:
        return Conclusion.NOT_STABLE, against + restless + undecided + in_favour
    if restless:
        return Conclusion.NOT_CALM, restless + undecided + in_favour
    if undecided:
        return Conclusion.NOT_ENOUGH_DATA, undecided + in_favour
    return Conclusion.STABLE, in_favour


def _add_events(
    findings: Findings,
    criteria: Criteria,
    restless: list[str],
    undecided: list[str],
    in_favour: list[str],
) -> None:
    """Add what the events of each structure and temperature say to the list where it belongs."""
    for part in findings.calm:
        place = f"nvt, {part.structure} at {part.temperature_K:g} K"
        if part.finding is Finding.SATURATED:
            in_favour.append(f"{place}: {part.reason}")
        elif words := _restless(part, criteria):
            restless.append(f"{place}: {words}")
        elif not part.failed:
            undecided.append(f"{place}: {part.reason}")


def _restless(part: Calm, criteria: Criteria) -> str | None:
    """Why a structure is certainly not calm at a temperature; None: that is not certain."""
    limit, most = criteria.events_per_ns or 0.0, criteria.unreliable_fraction or 0.0
    level = per_cent(criteria.confidence)
    if part.events_low_per_ns is not None and part.events_low_per_ns > limit:
        low = significant(part.events_low_per_ns)
        return f"at least {low} events per ns and {part.per} ({level}), over {limit:g}"
    if part.unreliable_low is not None and part.unreliable_low > most:
        return (
            f"at least {part.unreliable_low:.2%} of the atomic predictions are unreliable "
            f"({level}), over {most:.3g}"
        )
    if part.window_ps > 0 and not part.calm_ps > 0:
        return part.reason
    return None


def _add_excursions(
    findings: Findings,
    criteria: Criteria,
    restless: list[str],
    undecided: list[str],
    in_favour: list[str],
) -> None:
    """Add what an early release's certificate says of excursions to the list where it belongs."""
    excursions, limit = findings.excursions, criteria.max_rate_per_atom_ps or 0.0
    if excursions is None:
        return
    lower = excursions.rate_lower_bound_per_atom_ps
    place = f"nvt, {findings.temperature_K:g} K"
    if excursions.finding == Finding.SATURATED:
        in_favour.append(f"{place}: {excursions.reason}")
    elif lower is not None and lower > limit:
        restless.append(
            f"{place}: excursions out of the label domain at {lower:.3g}/ps per atom at least, "
            f"over {limit:g}/ps"
        )
    elif not findings.failures.failures:
        undecided.append(f"{place}: {excursions.reason}")


def audit_words(audit: Audit | None) -> list[str]:
    """What the campaign's last audit claims, a sentence for each structure and temperature."""
    if audit is None:
        return []
    level = per_cent(round(audit.confidence, 3))
    sentences = []
    for part in audit.parts:
        place = f"audit, {part.structure} at {part.temperature_K:g} K"
        if (error := part.judged_forces_mae) is None:
            sentences.append(f"{place}: {part.reason}")
            continue
        foretold = ""
        if error is not part.forces_mae_meV_per_A and part.second_opinion is not None:
            foretold = f" and errors foretold of {part.second_opinion.frames}"
        sentences.append(
            f"{place}: forces are wrong by {significant(error.value)} meV/Å on average, by less "
            f"than {significant(error.high)} ({level}), on {count(part.frames, 'random frame')}"
            f"{foretold} of the campaign's last dynamics"
        )
    return sentences


def _add_drift(
    findings: Findings,
    criteria: Criteria,
    against: list[str],
    undecided: list[str],
    in_favour: list[str],
) -> None:
    """Add what the drift of the energy says to the list where it belongs."""
    drift, limit = findings.drift, criteria.max_drift_meV_per_atom_ps
    if drift is None or drift.worst is None or drift.median is None:
        if not findings.failures.failures:
            undecided.append("nve: too few points for a drift of the energy")
        return
    reason = (
        f"nve: the energy drifts by {drift.median.value:.2g} meV/atom/ps (median; "
        f"{drift.median.low:.2g}–{drift.median.high:.2g}), {drift.worst:.2g} at worst; "
        f"allowed {limit:g}"
    )
    (in_favour if drift.worst <= limit else against).append(reason)


def sentence(conclusion: Conclusion, reasons: Sequence[str], runs: Sequence[Runs]) -> str:
    """The conclusion with its scope and, unless it is `stable`, the first reason.

    `checks.verify` compares the words, as it does those of `conclude`.
    """
    nvt, nve = runs
    kelvin = ", ".join(f"{t:g}" for t in nvt.temperatures_K)
    scope = f"{nvt.overall.replicas} replicas of {significant(nvt.time_ps)} ps each at {kelvin} K"
    failures = nvt.overall.failures
    why = "" if conclusion == Conclusion.STABLE else f" ({reasons[0]})"
    text = (
        f"{conclusion}{why}: {scope}, {failures.failures} failed {rate_text(failures)}; "
        f"{nve.overall.failures.failures} of {nve.overall.replicas} failed without a thermostat."
    )
    if nvt.time_ps < PRODUCTION_PS:
        text += (
            f" These are short runs: {significant(nvt.time_ps)} ps, where "
            f"{significant(PRODUCTION_PS)} ps are the setting for production; of longer runs they "
            "say nothing."
        )
    return text[0].upper() + text[1:]


def not_covered(
    runs: Sequence[Runs], *, structures: Sequence[str], verdict: str, audit: Audit | None
) -> list[str]:
    """What a certificate says nothing about, a sentence each.

    Args:
        runs: with a thermostat, then without.
        structures: names of the structures that were run.
        verdict: decision of the campaign's last verdict.
        audit: of its last generation.
    """
    nvt, nve = runs
    kelvin = ", ".join(f"{t:g}" for t in nvt.temperatures_K)
    limits = [
        f"Temperatures other than {kelvin} K.",
        f"Structures other than {', '.join(structures)}.",
        f"Runs longer than {significant(nvt.time_ps)} ps (without a thermostat "
        f"{significant(nve.time_ps)} ps).",
        "Rare events: nothing pushed the replicas over barriers that they did not cross by "
        "themselves.",
        f"Other conditions: constant pressure, or another time step than {nvt.timestep_fs:g} fs.",
        "Accuracy: stable dynamics can still be wrong. "
        + (
            "The errors that are quoted are of random frames of the campaign's last generation."
            if audit and audit.parts
            else "The model card gives the errors on the test set."
        ),
        "Wrong forces that the index does not see: it expects errors from its signals, as labelled "
        "frames showed them.",
    ]
    if bound := nvt.overall.failures.bound_per_ps:
        limits.append(
            f"Failures rarer than 1 per {significant(1 / bound)} ps of one replica: these runs "
            "were too short to see them with certainty."
        )
    if nvt.time_ps < PRODUCTION_PS:
        limits.append(
            f"Production: the runs are shorter than {significant(PRODUCTION_PS)} ps "
            "(certificate.time_ps)."
        )
    if verdict != "saturated":
        limits.append(f"A saturated campaign: this one ended with {verdict}.")
    return limits
