"""Does a certificate hold? Every hash compared, every number computed again from the traces.

    from pathlib import Path
    from halcyon.final.checks import verify

    for check in verify(Path("results/quickstart/ethanol/final/certificate.json")):
        print(check.holds, check.text)

Each file is looked for beside the certificate first, because a `final/` folder that was handed on
has copies of all of them, then where the certificate says.

Not for: making certificates (`certificate`), or the health of the label store itself
(`halcyon labels verify`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from halcyon import tables
from halcyon.errors import InputError
from halcyon.final.certificate import (
    Certificate,
    FileHash,
    Runs,
    conclude,
    data_digest,
    sentence,
    sha256_of,
)
from halcyon.final.evidence import Findings, contradictions, examine
from halcyon.final.folder import LABELS, MANIFEST, Manifest
from halcyon.frames import canonical_order, read_frames, structure_key
from halcyon.labels.store import LabelStore, level_hash, levels
from halcyon.verdict.forms import Calm, Form, Order
from halcyon.verdict.words import rate_text
from halcyon.wording import count

NUMBERS_AGREE = 1e-6
"""Relative difference of numbers that count as the same: versions of NumPy and SciPy round
differently."""


@dataclass(frozen=True)
class Check:
    """One statement of a certificate that was checked.

    Attributes:
        text: the statement and the outcome.
        holds: None: it could not be checked, and nothing speaks against it.
    """

    text: str
    holds: bool | None


def verify(path: Path, *, store: Path | None = None) -> list[Check]:
    """Check everything in a certificate that can be checked.

    Args:
        path: the certificate.
        store: label store; by default where the certificate says.

    Raises:
        InputError: the file cannot be read as a certificate.
    """
    certificate = Certificate.read(path)
    folder = path.parent
    sealed = certificate.checksum == certificate.checksum_now()
    words = "unchanged since it was written" if sealed else "changed since it was written"
    return [
        Check(f"certificate: {words} (checksum)", holds=sealed),
        _file("model", certificate.model, folder),
        _file("domain", certificate.domain, folder),
        _level(certificate),
        *_labels(certificate, folder, store or Path(certificate.data.store)),
        *(check for run in certificate.runs for check in _runs(run, certificate, folder)),
        _conclusion(certificate),
        *_manifest(folder),
    ]


def present_path(file: FileHash, folder: Path) -> Path:
    """Where a file lies now: beside the certificate, else where the certificate says."""
    beside = folder / Path(file.path).name
    return beside if beside.exists() else folder / file.path


def _file(what: str, file: FileHash, folder: Path) -> Check:
    path = present_path(file, folder)
    try:
        same = sha256_of(path) == file.sha256
    except InputError as error:
        return Check(f"{what}: {error}", holds=False)
    if same:
        return Check(f"{what}: {path} is unchanged (sha256 {file.sha256[:12]}…)", holds=True)
    return Check(f"{what}: {path} is another file, or was changed: its sha256 differs", holds=False)


def _level(certificate: Certificate) -> Check:
    level = certificate.level_of_theory
    holds = level_hash(level.description) == level.hash
    words = "has" if holds else "does not have"
    return Check(f"level of theory: the description {words} the hash {level.hash}", holds=holds)


def _labels(certificate: Certificate, folder: Path, store: Path) -> Iterator[Check]:
    """Check the label files, that the labels are the certificate's, and that the store has them."""
    together = folder / LABELS
    paths = [together]
    if not together.exists():
        paths = [folder / file.path for file in certificate.data.files]
        for file in certificate.data.files:
            yield _file("labels", FileHash(path=file.path, sha256=file.sha256), folder)
    frames: list[Atoms] = []
    try:
        for path in paths:
            frames += read_frames(path)
    except (InputError, ValueError, KeyError, OSError) as error:
        yield Check(f"labels: they cannot be read: {error}", holds=False)
        return
    level = certificate.level_of_theory.hash
    same = data_digest(frames) == certificate.data.sha256
    place = str(paths[0]) if len(paths) == 1 else count(len(paths), "file")
    words = "those of the campaign" if same else "not those of the campaign: a hash differs"
    yield Check(f"labels: the {count(len(frames), 'frame')} in {place} are {words}", holds=same)
    wrong = [frame for frame in frames if structure_key(frame) != frame.info.get("key")]
    wrong += [frame for frame in frames if frame.info.get("level") != level]
    words = f"not so for {count(len(wrong), 'frame')}" if wrong else "so for all"
    yield Check(
        f"labels: each key is its structure's, each level the certificate's: {words}",
        holds=not wrong,
    )
    learned = {
        frame.info["key"]
        for frame in frames
        if frame.info.get("split") == "train" and "energy" in frame.info
    }
    starts = [end.start_key for run in certificate.runs for end in run.replicas]
    foreign = [key for key in starts if key not in learned]
    words = f"not so for {len(foreign)}" if foreign else "so for all"
    yield Check(f"replicas: they start from frames that were learned: {words}", holds=not foreign)
    yield _store(level, frames, store)


def _store(name: str, frames: Sequence[Atoms], root: Path) -> Check:
    """Compare labels with those of the label store, where there is one."""
    try:
        level = levels(root).get(name)
    except InputError:
        level = None
    if level is None:
        return Check(f"label store: not compared, there is no {root / name}", holds=None)
    stored = LabelStore(root, level).find([frame.info["key"] for frame in frames])
    # Only frames with an energy: a label that the campaign rejected may be good in the store.
    labelled = [frame for frame in frames if "energy" in frame.info]
    missing = [frame for frame in labelled if frame.info["key"] not in stored]
    present = [frame for frame in labelled if frame.info["key"] in stored]
    different = [f for f in present if not _same_label(f, stored[f.info["key"]])]
    if different or missing:
        return Check(
            f"label store: in {root / name}, {count(len(different), 'label')} of other content and "
            f"{len(missing)} missing",
            holds=False,
        )
    same = count(len(present), "label")
    return Check(f"label store: {root / name} has the same {same}", holds=True)


def _same_label(frame: Atoms, stored: Atoms) -> bool:
    if frame.info.get("energy") != stored.info.get("energy") or "forces" not in stored.arrays:
        return False
    forces = (atoms.arrays["forces"][canonical_order(atoms)] for atoms in (frame, stored))
    return bool(np.array_equal(*forces))


def _runs(run: Runs, certificate: Certificate, folder: Path) -> Iterator[Check]:
    """Check the traces and replicas of one ensemble, and compute every number again."""
    name = run.ensemble
    check = _file(f"{name} traces", run.traces, folder)
    yield check
    try:
        traces = tables.read(present_path(run.traces, folder)).to_pandas()
        against = contradictions(
            traces, run.replicas, time_ps=run.time_ps, timestep_fs=run.timestep_fs
        )
        again = examine(
            traces,
            run.replicas,
            certificate.criteria,
            time_ps=run.time_ps,
            conserved=name == "nve",
        )
    except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way
        yield Check(f"{name}: the traces cannot be read: {error}", holds=False)
        return
    words = "; ".join(against) or "ends and failures are those of the traces"
    yield Check(f"{name}: {words}", holds=not against)
    for statement in STATEMENTS:
        if name == "nvt" and statement is _drift:
            continue
        if statement is _order and not run.overall.order:
            continue
        if statement is _calm and certificate.criteria.of_calm() is None:
            yield Check(
                f"{name}: excursions were counted by an earlier release's rule: not computed again",
                holds=None,
            )
            continue
        yield _compared(name, statement, run.findings, again)


def _compared(
    name: str,
    statement: Callable[[Findings], tuple[str, Form | None]],
    certified: Sequence[Findings],
    again: Sequence[Findings],
) -> Check:
    """Compare the numbers of one statement, of all replicas and at each temperature."""
    words, _ = statement(again[0])
    holds = len(certified) == len(again) and all(
        old.temperature_K == new.temperature_K
        and old.replicas == new.replicas
        and agree(_plain(statement(old)[1]), _plain(statement(new)[1]))
        for old, new in zip(certified, again, strict=True)
    )
    if holds:
        return Check(f"{name}: {words}: computed again, the same", holds=True)
    return Check(
        f"{name}: computed again: {words}; the certificate says: {statement(certified[0])[0]}",
        holds=False,
    )


def _plain(part: Form | None) -> Any:
    return None if part is None else part.model_dump()


def _failures(findings: Findings) -> tuple[str, Form]:
    rate = findings.failures
    return f"{rate.failures} of {findings.replicas} replicas failed {rate_text(rate)}", rate


def _calm(findings: Findings) -> tuple[str, Form]:
    parts = [
        f"{part.structure} at {part.temperature_K:g} K: {part.finding} ({part.reason})"
        for part in findings.calm
    ]
    return f"events: {'; '.join(parts) or 'none were counted'}", _Calms(parts=findings.calm)


class _Calms(Form):
    """The parts of what is said of events, to be compared as one."""

    parts: list[Calm]


def _plateau(findings: Findings) -> tuple[str, Form]:
    plateau = findings.plateau
    words = "none: no replica reached its end"
    if plateau.cli_ps and plateau.late_gain_ps:
        cli, gain = plateau.cli_ps, plateau.late_gain_ps
        words = (
            f"{cli.value:.3g} ps ({cli.low:.3g}–{cli.high:.3g}), of which {gain.value:.3g} ps in "
            "the late window"
        )
    return f"plateau of Λ: {words}", plateau


def _drift(findings: Findings) -> tuple[str, Form | None]:
    drift, words = findings.drift, "none"
    if drift and drift.median:
        words = f"{drift.median.value:.3g} meV/atom/ps (median), {drift.worst:.3g} at worst"
    return f"drift of the energy: {words}", drift


def _order(findings: Findings) -> tuple[str, Form]:
    parts = [
        f"{part.structure} at {part.temperature_K:g} K: {part.lindemann:.2g}"
        for part in findings.order
    ]
    return f"Lindemann ratios: {'; '.join(parts)}", _Orders(parts=findings.order)


class _Orders(Form):
    """What is said of the order of crystals, to be compared as one."""

    parts: list[Order]


STATEMENTS = (_failures, _calm, _order, _plateau, _drift)
"""Each puts one part of the findings into words, and gives the part."""


def agree(old: Any, new: Any) -> bool:
    """Whether two pieces of JSON say the same, up to rounding of numbers."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(agree(old[key], new[key]) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(agree, old, new))
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=NUMBERS_AGREE, abs_tol=1e-12)
    return bool(old == new)


def _conclusion(certificate: Certificate) -> Check:
    conclusion, reasons = conclude(certificate.runs, certificate.criteria, certificate.audit)
    same = conclusion == certificate.conclusion and reasons == certificate.reasons
    if same and certificate.sentence == sentence(conclusion, reasons, certificate.runs):
        return Check(f"conclusion: {conclusion}: it follows from these numbers", holds=True)
    return Check(
        f"conclusion: {conclusion} follows from the numbers; the certificate says: "
        f"{certificate.sentence}",
        holds=False,
    )


def _manifest(folder: Path) -> Iterator[Check]:
    """Check every file of a folder that was handed on."""
    if not (folder / MANIFEST).exists():
        return
    listed = Manifest.read(folder / MANIFEST).files
    for entry in listed:
        check = _file(entry.path, entry, folder)
        if not check.holds:
            yield check
    yield Check(f"manifest: {count(len(listed), 'file')} compared", holds=True)
