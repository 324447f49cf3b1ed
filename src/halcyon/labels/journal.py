"""The journal of a label job: every record from the moment it is known, through any kill.

    from pathlib import Path
    from halcyon.labels.journal import NAME, Journal

    journal = Journal(Path("work") / NAME)
    journal.append(atoms)
    labelled = journal.read()  # frames by key

A journal is a file of JSON lines (`halcyon.jsonl`): what a kill left incomplete is passed over, and
that frame is computed again.

Not for: keeping labels for good (`store`), or for other campaigns.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from halcyon import files, jsonl

NAME = "journal.jsonl"
"""File of a label job's journal, in the job's own folder."""
REPEATED = "repeated.jsonl"
"""File beside it: records that a systemic failure made void, paid for and computed again."""


class Journal:
    """Frames with their records, one JSON line each."""

    def __init__(self, path: Path) -> None:
        """Use a journal, which need not exist yet; its folder is made."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, frame: Atoms) -> None:
        """Add a frame with its record; it is on the disk when this returns."""
        jsonl.append(self.path, _entry(frame))

    def keep(self, frames: Sequence[Atoms]) -> None:
        """Replace the journal by one of these frames only."""
        with files.replacing(self.path) as temporary:
            temporary.write_bytes(b"".join(jsonl.encoded(_entry(frame)) for frame in frames))

    def read(self) -> dict[str, Atoms]:
        """Frames with their records, by key."""
        frames = {}
        for entry in jsonl.read(self.path):
            frame = Atoms(
                entry["numbers"], entry["positions"], cell=entry["cell"], pbc=entry["pbc"]
            )
            if entry["forces"] is not None:
                frame.arrays["forces"] = np.array(entry["forces"])
            frame.info = entry["info"]
            frames[frame.info["key"]] = frame
        return frames

    def paid(self) -> dict[str, float]:
        """Core-seconds of all records of each frame, by key: a frame may have been tried twice."""
        seconds: dict[str, float] = {}
        for entry in jsonl.read(self.path):
            info = entry["info"]
            seconds[info["key"]] = seconds.get(info["key"], 0.0) + info["core_seconds"]
        return seconds


def _entry(frame: Atoms) -> dict[str, object]:
    forces = frame.arrays.get("forces")
    return {
        "numbers": frame.numbers.tolist(),
        "positions": frame.positions.tolist(),
        "cell": frame.cell.array.tolist(),
        "pbc": frame.pbc.tolist(),
        "forces": None if forces is None else forces.tolist(),
        "info": frame.info,
    }
