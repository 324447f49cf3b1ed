"""Does a certificate hold? Every hash compared, every number computed again from the traces.

    for check in verify(Path("results/quickstart/ethanol/final/certificate.json")):
        print(check.holds, check.text)

A file is looked for beside the certificate first (a `final/` folder that was handed on has copies
of all of them), then where the certificate says.

Not for: making certificates (`certify`), or the label store's own health (`halcyon labels verify`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from halcyon.errors import InputError
from halcyon.final import certificate
from halcyon.final.certificate import Certificate, FileHash, Runs, sha256_of
from halcyon.final.evidence import Findings, contradictions, examine
from halcyon.final.folder import LABELS, MANIFEST, Manifest
from halcyon.frames import canonical_order, read_frames, structure_key
from halcyon.labels.store import LabelStore, level_hash, levels
from halcyon.verdict.words import rate_text

NUMBERS_AGREE = 1e-6
"""Relative; other versions of NumPy and SciPy may round differently."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        text: what, and what was found.
        holds: None: it could not be looked at, and nothing speaks against it.
    """

    text: str
    holds: bool | None


def verify(path: Path, *, store: Path | None = None) -> list[Check]:
    """Look at everything a certificate says that can be looked at.

    Args:
        path: of the certificate.
        store: label store; by default where the certificate says.

    Raises:
        InputError: it is no readable certificate.
    """
    told = Certificate.read(path)
    folder = path.parent
    whole = told.checksum == told.checksum_now()
    said = "unchanged since it was written" if whole else "changed since it was written"
    return [
        Check(f"certificate: {said} (checksum)", holds=whole),
        _file("model", told.model, folder),
        _file("domain", told.domain, folder),
        *_level(told),
        *_labels(told, folder, store or Path(told.data.store)),
        *(check for run in told.runs for check in _runs(run, told, folder)),
        *_conclusion(told),
        *_manifest(folder),
    ]


def found(file: FileHash, folder: Path) -> Path:
    """Where a file lies now: beside the certificate, or where it says."""
    beside = folder / Path(file.path).name
    return beside if beside.exists() else folder / file.path


def _file(what: str, file: FileHash, folder: Path) -> Check:
    path = found(file, folder)
    try:
        same = sha256_of(path) == file.sha256
    except InputError as error:
        return Check(f"{what}: {error}", holds=False)
    if same:
        return Check(f"{what}: {path} is the file (sha256 {file.sha256[:12]}…)", holds=True)
    return Check(f"{what}: {path} is another file, or was changed: its sha256 differs", holds=False)


def _level(told: Certificate) -> Iterator[Check]:
    level = told.level_of_theory
    holds = level_hash(level.description) == level.hash
    words = "belongs to" if holds else "does not belong to"
    yield Check(f"level of theory: its description {words} the hash {level.hash}", holds=holds)


def _labels(told: Certificate, folder: Path, store: Path) -> Iterator[Check]:
    """The labels: their files, that they are those of the certificate, and the store's."""
    together = folder / LABELS
    paths = [together]
    if not together.exists():
        paths = [folder / file.path for file in told.data.files]
        for file in told.data.files:
            yield _file("labels", FileHash(path=file.path, sha256=file.sha256), folder)
    frames: list[Atoms] = []
    try:
        for path in paths:
            frames += read_frames(path)
    except (InputError, ValueError, KeyError, OSError) as error:
        yield Check(f"labels: cannot be read: {error}", holds=False)
        return
    good = certificate.data_digest(frames) == told.data.sha256
    words = "as they were learned" if good else "not those that were learned: a hash differs"
    yield Check(f"labels: {len(frames)} frames in {_names(paths)}: {words}", holds=good)
    wrong = [f for f in frames if structure_key(f) != f.info.get("key")]
    wrong += [f for f in frames if f.info.get("level") != told.level_of_theory.hash]
    words = f"{len(wrong)} do not" if wrong else "all do"
    yield Check(
        f"labels: keys belong to their structures, levels to the certificate's: {words}",
        holds=not wrong,
    )
    learned = {
        f.info["key"] for f in frames if f.info.get("split") == "train" and "energy" in f.info
    }
    foreign = [e.replica for run in told.runs for e in run.replicas if e.start_key not in learned]
    words = f"{len(foreign)} do not" if foreign else "all do"
    yield Check(f"replicas: start from frames that were learned: {words}", holds=not foreign)
    yield _store(told, frames, store)


def _names(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} files"


def _store(told: Certificate, frames: Sequence[Atoms], root: Path) -> Check:
    """The same labels in the label store, where there is one."""
    name = told.level_of_theory.hash
    try:
        level = levels(root).get(name)
    except InputError:
        level = None
    if level is None:
        return Check(f"label store: no {root / name} here: not compared", holds=None)
    known = LabelStore(root, level).find([frame.info["key"] for frame in frames])
    missing = [f for f in frames if "energy" in f.info and f.info["key"] not in known]
    # A label that the campaign rejected may well be good in the store.
    good = [f for f in frames if "energy" in f.info and f.info["key"] in known]
    other = [f for f in good if not _same(f, known[f.info["key"]])]
    if other or missing:
        said = f"{len(other)} labels differ and {len(missing)} are missing in {root / name}"
        return Check(f"label store: {said}", holds=False)
    return Check(f"label store: {root / name} has the same {len(good)} labels", holds=True)


def _same(one: Atoms, other: Atoms) -> bool:
    if one.info.get("energy") != other.info.get("energy"):
        return False
    if "forces" not in other.arrays:
        return False
    forces = (f.arrays["forces"][canonical_order(f)] for f in (one, other))
    return bool(np.array_equal(*forces))


def _runs(run: Runs, told: Certificate, folder: Path) -> Iterator[Check]:
    """One ensemble: traces, replicas, and every number again."""
    name = run.ensemble
    check = _file(f"{name} traces", run.traces, folder)
    yield check
    try:
        traces = pd.read_parquet(found(run.traces, folder))
        against = contradictions(
            traces, run.replicas, time_ps=run.time_ps, timestep_fs=run.timestep_fs
        )
        again = examine(
            traces,
            run.replicas,
            told.criteria,
            time_ps=run.time_ps,
            conserved=name == "nve",
        )
    except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way
        yield Check(f"{name}: the traces cannot be read: {error}", holds=False)
        return
    words = "; ".join(against) or "ends and failures are those of the traces"
    yield Check(f"{name}: {words}", holds=not against)
    for say in (_failures, _excursions, _plateau, _drift):
        if name == "nvt" and say is _drift:
            continue
        yield _compared(name, say, run.findings, again)


def _compared(
    name: str,
    say: Callable[[Findings], tuple[str, Any]],
    told: Sequence[Findings],
    again: Sequence[Findings],
) -> Check:
    """One kind of number, of all replicas and at each temperature."""
    words, _ = say(again[0])
    holds = len(told) == len(again) and all(
        one.temperature_K == other.temperature_K
        and one.replicas == other.replicas
        and agree(say(one)[1], say(other)[1])
        for one, other in zip(told, again, strict=True)
    )
    if holds:
        return Check(f"{name}: {words}: computed again, the same", holds=True)
    return Check(
        f"{name}: computed again: {words}; the certificate says: {say(told[0])[0]}", holds=False
    )


def _failures(found: Findings) -> tuple[str, Any]:
    words = (
        f"{found.failures.failures} of {found.replicas} replicas failed {rate_text(found.failures)}"
    )
    return words, found.failures.model_dump()


def _excursions(found: Findings) -> tuple[str, Any]:
    told = found.excursions
    return f"excursions out of the label domain: {told.finding} ({told.reason})", told.model_dump()


def _plateau(found: Findings) -> tuple[str, Any]:
    told = found.plateau
    words = "none: no replica lived to the end"
    if told.cli_ps and told.late_gain_ps:
        words = (
            f"{told.cli_ps.value:.3g} ps ({told.cli_ps.low:.3g}–{told.cli_ps.high:.3g}), of which "
            f"{told.late_gain_ps.value:.3g} ps in the late window"
        )
    return f"plateau of Λ: {words}", told.model_dump()


def _drift(found: Findings) -> tuple[str, Any]:
    told = found.drift
    words = "none"
    if told and told.median:
        words = f"{told.median.value:.3g} meV/atom/ps (median), {told.worst:.3g} at worst"
    return f"drift of the energy: {words}", told and told.model_dump()


def agree(one: Any, other: Any) -> bool:
    """Whether two pieces of JSON say the same, up to rounding of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(agree(one[k], other[k]) for k in one)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=NUMBERS_AGREE, abs_tol=1e-12)
    return bool(one == other)


def _conclusion(told: Certificate) -> Iterator[Check]:
    conclusion, reasons = certificate.conclude(told.runs, told.criteria)
    same = conclusion == told.conclusion and reasons == told.reasons
    same = same and told.sentence == certificate.sentence(conclusion, reasons, told.runs)
    if same:
        yield Check(f"conclusion: {told.conclusion}: follows from these numbers", holds=True)
    else:
        yield Check(
            f"conclusion: the numbers come to: {conclusion}; the certificate says: {told.sentence}",
            holds=False,
        )


def _manifest(folder: Path) -> Iterator[Check]:
    """Every other file of a folder that was handed on."""
    if not (folder / MANIFEST).exists():
        return
    listed = Manifest.read(folder / MANIFEST).files
    for entry in listed:
        check = _file(entry.path, entry, folder)
        if not check.holds:
            yield check
    yield Check(f"manifest: {len(listed)} files looked at", holds=True)
