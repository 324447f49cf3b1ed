"""Labelling frames so that none is paid for twice.

What the label store knows is not computed again. Frames that could not be labelled are kept
beside the labels, with what the program said: they are not paid for a second time, and they are
counted. A journal keeps every record from the moment it is known.

Not for: how labels are kept (`label_store`), or computing them (`reference`).
"""

import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from halcyon import files
from halcyon.errors import Interrupted
from halcyon.frames import canonical_order, read_frames, structure_key, structure_only
from halcyon.label_store import LabelStore
from halcyon.reference.base import Record, Reference, Status

SYSTEMIC_FRACTION = 0.5
SYSTEMIC_AT_LEAST = 4
"""The same abort in more than half of at least this many calculations of a shard is systemic."""


class SystemicFailure(Exception):  # noqa: N818 - the name says what it is
    """Most calculations of a shard died of the same cause: going on would burn the budget."""


def label_frames(
    frames: Sequence[Atoms],
    reference: Reference,
    store: LabelStore,
    *,
    work: Path,
    cores: int,
    provenance: dict[str, str],
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, Record], None] = lambda _n, _record: None,
) -> list[Atoms]:
    """Label frames; whatever is known already is not computed again.

    Every record goes to a journal in `work`, synced, as soon as it is known: a kill costs the
    frame in progress and no other.

    Args:
        frames: with charge and multiplicity.
        reference: computes what is not known.
        store: where labels are kept.
        work: this shard's own folder; survives kills.
        cores: for the reference.
        provenance: campaign and system, put on every record.
        stop: asked after every frame; true: stop in good order, all is in the journal.
        report: called with the number of frames done and the last record.

    Returns:
        The frames in their own order and with their `info`, plus record and, where ok, energy and
        forces.

    Raises:
        SystemicFailure: most calculations failed with one message.
        Interrupted: `stop` said so.
    """
    keys = [structure_key(frame) for frame in frames]
    journal = _Journal(work / "journal.jsonl")
    known = store.find(keys)
    known |= {key: frame for key, frame in journal.read().items() if key not in known}
    missing: dict[str, Atoms] = {}
    for key, frame in zip(keys, frames, strict=True):
        if key not in known:
            missing.setdefault(key, frame)
    extra = provenance | {"level": store.level, "host": socket.gethostname()}
    done = len(frames) - len(missing)
    records = reference.label(list(missing.values()), work, cores)
    for (key, frame), record in zip(missing.items(), records, strict=True):
        if record.status is not Status.OK and stop():
            # What asks a job to stop asks the program that it started, too: that one's end says
            # nothing about the frame.
            raise Interrupted(f"stopped after {done} of {len(frames)} frames; all are kept")
        labelled = _labelled(frame, record, extra | {"key": key})
        journal.append(labelled)
        known[key] = labelled
        done += 1
        report(done, record)
        if stop():
            raise Interrupted(f"stopped after {done} of {len(frames)} frames; all are kept")
    asked = set(keys)
    fresh = [frame for key, frame in journal.read().items() if key in asked]
    if cause := _systemic(fresh):
        journal.keep([frame for frame in fresh if frame.info["status"] == Status.OK])
        raise SystemicFailure(cause)
    # Where another campaign was faster, its record holds: a structure has one label.
    known |= store.find(sorted(store.add(fresh)))
    return [_with_record(frame, known[key]) for key, frame in zip(keys, frames, strict=True)]


def gather(paths: Sequence[Path]) -> dict[str, list[Atoms]]:
    """Good labels of some shards by split, in the order of the shards.

    Args:
        paths: label files that the label stage wrote.

    Returns:
        `train`, `validation`, `test` and, of any split, `bad`: frames without a label.
    """
    frames: dict[str, list[Atoms]] = {"train": [], "validation": [], "test": [], "bad": []}
    for path in paths:
        for frame in read_frames(path):
            good = frame.info["status"] == Status.OK
            frames[frame.info["split"] if good else "bad"].append(frame)
    return frames


class _Journal:
    """One JSON line per record, appended and synced; a torn last line is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # A kill in mid-write leaves a line without its end; the next one must not join it.
        written = path.read_bytes() if path.exists() else b""
        self.torn = bool(written) and not written.endswith(b"\n")

    def keep(self, frames: Sequence[Atoms]) -> None:
        with files.replacing(self.path) as temporary:
            temporary.write_bytes(b"".join(_line(frame) for frame in frames))

    def append(self, frame: Atoms) -> None:
        with self.path.open("ab") as journal:
            if self.torn:
                journal.write(b"\n")
                self.torn = False
            journal.write(_line(frame))
            journal.flush()
            os.fsync(journal.fileno())

    def read(self) -> dict[str, Atoms]:
        if not self.path.exists():
            return {}
        found = {}
        for line in self.path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # torn by a kill in mid-write: that frame is computed again
            frame = Atoms(
                entry["numbers"], entry["positions"], cell=entry["cell"], pbc=entry["pbc"]
            )
            if entry["forces"] is not None:
                frame.arrays["forces"] = np.array(entry["forces"])
            frame.info = entry["info"]
            found[frame.info["key"]] = frame
        return found


def _line(frame: Atoms) -> bytes:
    forces = frame.arrays.get("forces")
    entry = {
        "numbers": frame.numbers.tolist(),
        "positions": frame.positions.tolist(),
        "cell": frame.cell.array.tolist(),
        "pbc": frame.pbc.tolist(),
        "forces": None if forces is None else forces.tolist(),
        "info": frame.info,
    }
    return json.dumps(entry, allow_nan=False).encode() + b"\n"


def _labelled(frame: Atoms, record: Record, extra: dict[str, str]) -> Atoms:
    """A new frame that carries its record and where it came from."""
    labelled = structure_only(frame)
    labelled.info = {k: v for k, v in frame.info.items() if k not in ("energy", "split")} | extra
    labelled.info |= {
        "status": record.status.value,
        "message": record.message,
        "rung": record.rung,
        "seconds": record.seconds,
        "core_seconds": record.core_seconds,
    }
    if record.scf_steps is not None:
        labelled.info["scf_steps"] = record.scf_steps
    if record.status is Status.OK and record.forces is not None:
        labelled.info["energy"] = record.energy
        labelled.arrays["forces"] = record.forces
    return labelled


RECORD_KEYS = (
    "key",
    "level",
    "status",
    "message",
    "rung",
    "seconds",
    "core_seconds",
    "scf_steps",
    "host",
    "campaign",
    "system",
    "energy",
)


def _with_record(frame: Atoms, known: Atoms) -> Atoms:
    """The frame, in its own order of atoms, with what is known of its structure."""
    labelled = structure_only(frame)
    labelled.info = {k: v for k, v in frame.info.items() if k not in RECORD_KEYS}
    labelled.info |= {k: known.info[k] for k in RECORD_KEYS if k in known.info}
    if "forces" in known.arrays:
        forces = np.empty((len(frame), 3))
        forces[canonical_order(frame)] = known.arrays["forces"][canonical_order(known)]
        labelled.arrays["forces"] = forces
    return labelled


def _systemic(fresh: Sequence[Atoms]) -> str | None:
    """The message that most calculations died of, if there is one."""
    crashes = Counter(f.info["message"] for f in fresh if f.info["status"] == Status.CRASHED)
    if not crashes:
        return None
    message, count = crashes.most_common(1)[0]
    if count >= SYSTEMIC_AT_LEAST and count > SYSTEMIC_FRACTION * len(fresh):
        return f"{count} of {len(fresh)} calculations failed alike: {message}"
    return None
