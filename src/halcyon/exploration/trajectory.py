"""Whole trajectories, written only if the user asks for them: every so many fs, as Parquet.

Frames are collected in memory until the run's next checkpoint, then written as one part; a killed
run drops parts that its checkpoint does not know. At the end the parts become one file.

Not for: candidates (they need no trajectory) or traces.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from ase import Atoms

from halcyon import files
from halcyon.frames import write_frames


class Trajectory:
    """Parts in a folder of this run's own."""

    def __init__(self, folder: Path) -> None:
        """Write parts into `folder`, made when the first is written."""
        self.folder = folder
        self._waiting: list[Atoms] = []
        self._parts = 0

    def add(self, frames: Sequence[Atoms]) -> None:
        """Remember frames until `flush`."""
        self._waiting += frames

    def flush(self) -> int:
        """Write what waits.

        Returns:
            Parts there are: what a checkpoint must hold.
        """
        if self._waiting:
            write_frames(self._part(self._parts), self._waiting)
            self._parts += 1
            self._waiting = []
        return self._parts

    def restore(self, parts: int) -> None:
        """Go on behind so many parts; later ones are of steps that will be done again."""
        self._parts, self._waiting = parts, []

    def files(self) -> list[Path]:
        """The parts, in order."""
        return [self._part(number) for number in range(self._parts)]

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.parquet"


def join(parts: Sequence[Path], out: Path) -> int:
    """Make one frames file of parts, one part in memory at a time; then delete the parts.

    Returns:
        Number of frames.
    """
    rows = 0
    with files.replacing(out) as temporary:
        schema = pq.read_schema(parts[0])
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for part in parts:
                table = pq.read_table(part)
                rows += table.num_rows
                writer.write_table(table)
    for part in parts:
        part.unlink()
    return rows
