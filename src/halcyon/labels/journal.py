"""The journal of a label job: every record from the moment it is known, through any kill.

A journal is JSON Lines, appended and synced. A line that a kill tore is passed over when the
journal is read, and the next line does not join it.

Not for: keeping labels for good (`label_store`), or for other campaigns.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from halcyon import files

NAME = "journal.jsonl"
"""File of a label job's journal, in the job's own folder."""
REPEATED = "repeated.jsonl"
"""Beside it: records that a systemic failure made void. Paid for, and computed again."""


class Journal:
    """One JSON line per record, appended and synced."""

    def __init__(self, path: Path) -> None:
        """Open, or begin, a journal."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # A kill in mid-write leaves a line without its end; the next one must not join it.
        written = path.read_bytes() if path.exists() else b""
        self._torn = bool(written) and not written.endswith(b"\n")

    def append(self, frame: Atoms) -> None:
        """Add a frame with its record; it is on the disk when this returns."""
        with self.path.open("ab") as journal:
            if self._torn:
                journal.write(b"\n")
                self._torn = False
            journal.write(_line(frame))
            journal.flush()
            os.fsync(journal.fileno())

    def keep(self, frames: Sequence[Atoms]) -> None:
        """Keep only these frames."""
        with files.replacing(self.path) as temporary:
            temporary.write_bytes(b"".join(_line(frame) for frame in frames))

    def read(self) -> dict[str, Atoms]:
        """Frames with their records, by key."""
        found = {}
        for entry in entries(self.path):
            frame = Atoms(
                entry["numbers"], entry["positions"], cell=entry["cell"], pbc=entry["pbc"]
            )
            if entry["forces"] is not None:
                frame.arrays["forces"] = np.array(entry["forces"])
            frame.info = entry["info"]
            found[frame.info["key"]] = frame
        return found


def entries(path: Path, begin: int = 0) -> Iterator[dict]:
    """Whole lines of a journal, from the byte `begin` on; none where there is no journal."""
    if not path.exists():
        return
    with path.open("rb") as journal:
        journal.seek(begin)
        content = journal.read()
    for line in content.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue  # torn by a kill in mid-write: that frame is computed again


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
