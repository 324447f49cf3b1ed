"""Trajectories, written only if the user asks for them: a frame every so many fs, as Parquet.

Frames are collected in memory until the run's next checkpoint, then written as one part. A run that
goes on after a kill drops the parts that its checkpoint does not count. At the end the parts become
one file.

Not for: candidates (they need no trajectory) or traces.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms

from halcyon import files, tables
from halcyon.errors import InputError
from halcyon.frames import write_frames


class Trajectory:
    """The trajectory of all replicas of a run, in parts in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Write parts into `folder`, which is made with the first part."""
        self.folder = folder
        self._waiting: list[Atoms] = []
        self._parts = 0

    def add(self, frames: Sequence[Atoms]) -> None:
        """Remember frames until `flush`."""
        self._waiting += frames

    def flush(self) -> int:
        """Write the frames that were added since the last part.

        Returns:
            Number of parts: what a checkpoint must hold.
        """
        if self._waiting:
            write_frames(self._part(self._parts), self._waiting)
            self._parts += 1
            self._waiting = []
        return self._parts

    def restore(self, parts: int) -> None:
        """Go on after so many parts; later parts are of steps that will be made again."""
        self._parts, self._waiting = parts, []

    def files(self) -> list[Path]:
        """The parts, in order."""
        return [self._part(number) for number in range(self._parts)]

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.parquet"


def join(parts: Sequence[Path], out: Path) -> int:
    """Make one frames file of parts, one part in memory at a time; then delete the parts.

    Returns:
        Number of frames; 0 where there are no parts, or where parts are missing, since parts are
        deleted only when they have been joined.
    """
    rows = 0
    if not parts or not all(part.exists() for part in parts):
        return rows
    with files.replacing(out) as temporary:
        schema = _read(parts[0]).schema
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for part in parts:
                table = _read(part)
                rows += table.num_rows
                writer.write_table(table)
    for part in parts:
        part.unlink()
    return rows


def _read(part: Path) -> pa.Table:
    try:
        return tables.read(part)
    except InputError as error:
        checkpoint = part.parent.with_suffix(".checkpoint")
        raise InputError(
            f"{part}: a damaged part of the trajectory. Delete {part.parent} and {checkpoint} and "
            "run the same command: the dynamics begin anew, and are the same"
        ) from error
