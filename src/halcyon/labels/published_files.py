"""Files of labelled structures, entry by entry, as they are written: no name or unit is chosen.

    from pathlib import Path
    from halcyon.config import DatasetLayout
    from halcyon.labels.published_files import entries

    for entry in entries(Path("set.npz"), DatasetLayout()):
        print(entry.header, list(entry.columns))

Extended XYZ, npz, ASE databases, and Parquet of Halcyon's own frames.

Not for: which entry is the label, or in which unit (see `published`).
"""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.db import connect
from ase.io import iread

from halcyon.config import DatasetLayout
from halcyon.errors import InputError
from halcyon.frames import read_frames

XYZ = {".xyz", ".extxyz"}
SUFFIXES = (".npz", ".xyz", ".extxyz", ".db", ".parquet")


@dataclass(frozen=True)
class Entry:
    """A structure with all that a file has for it.

    Attributes:
        atoms: species, positions, cell and periodicity, in the file's unit of length.
        header: values of the whole structure by name.
        columns: values of each atom by name, the first axis is that of the atoms.
    """

    atoms: Atoms
    header: Mapping[str, Any]
    columns: Mapping[str, np.ndarray]


def entries(path: Path, layout: DatasetLayout) -> Iterator[Entry]:
    """Entries of a file, in its order.

    Args:
        path: a file with one of `SUFFIXES`.
        layout: names of the arrays of an npz file.

    Raises:
        InputError: names the file, the entry or array, and what was expected.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    match path.suffix:
        case ".npz":
            return _of_npz(path, layout)
        case ".xyz" | ".extxyz":
            return _of_xyz(path)
        case ".db":
            return _of_database(path)
        case ".parquet":
            return _of_parquet(path)
    raise InputError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")


def _of_npz(path: Path, layout: DatasetLayout) -> Iterator[Entry]:
    if layout.stress_key:
        raise InputError(
            f"{path}: stress_key = {layout.stress_key!r}: a set as npz has no cells, and without a "
            "cell there is no stress. Write it as extended XYZ, or remove stress_key"
        )
    arrays = _arrays(path)
    needed = {"numbers_key": layout.numbers_key, "positions_key": layout.positions_key} | {
        key: name
        for key in ("energy_key", "forces_key", "charge_key", "spin_key")
        if (name := getattr(layout, key))
    }
    if missing := {key: name for key, name in needed.items() if name not in arrays}:
        raise InputError(
            f"{path}: no array {', '.join(f'{n!r} ({k})' for k, n in missing.items())}; "
            f"there are {', '.join(arrays)}"
        )
    numbers, positions = arrays.pop(layout.numbers_key), arrays.pop(layout.positions_key)
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise InputError(f"{path}: positions {positions.shape}: expected (frames, atoms, 3)")
    frames, atoms = positions.shape[:2]
    numbers = np.broadcast_to(numbers, (frames, atoms)) if numbers.ndim == 1 else numbers
    if numbers.shape != (frames, atoms):
        raise InputError(f"{path}: atomic numbers {numbers.shape}: expected {(frames, atoms)}")
    headers = {n: a.reshape(-1) for n, a in arrays.items() if a.size in (1, frames)}
    columns = {
        n: a for n, a in arrays.items() if n not in headers and a.shape[:2] == (frames, atoms)
    }
    for key in ("energy_key", "charge_key", "spin_key"):
        name = getattr(layout, key)
        if name and name not in headers:
            raise InputError(
                f"{path}: array {name!r} ({key}): {arrays[name].shape}: expected {(frames,)}, a "
                "number for each frame"
            )
    for i in range(frames):
        real = numbers[i] > 0
        yield Entry(
            Atoms(numbers[i][real], positions=positions[i][real]),
            {name: values[i % len(values)] for name, values in headers.items()},
            {name: values[i][real] for name, values in columns.items()},
        )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of numbers of an npz file; others cannot be read without running foreign code."""
    try:
        with np.load(path) as content:
            arrays = {}
            for name in content.files:
                try:
                    arrays[name] = content[name]
                except ValueError:  # Python objects
                    continue
            return arrays
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: not a readable npz file ({error})") from error


def _of_xyz(path: Path) -> Iterator[Entry]:
    frames = iread(path, format="extxyz")
    number = -1
    while True:
        number += 1
        try:
            read = next(frames)
        except StopIteration:
            break
        except Exception as error:  # the reader's exceptions have no common base class
            raise InputError(f"{path}: frame {number}: not extended XYZ ({error})") from error
        yield _entry(read, read.info)


def _of_database(path: Path) -> Iterator[Entry]:
    try:
        with connect(path, type="db") as database:
            for row in database.select():
                yield _entry(row.toatoms(), dict(row.data) | row.key_value_pairs)
    except InputError:
        raise
    except Exception as error:  # SQLite's and ASE's exceptions have no common base class
        raise InputError(f"{path}: not a readable ASE database ({error})") from error


def _of_parquet(path: Path) -> Iterator[Entry]:
    """Frames with a label of Halcyon's own files; those whose calculation failed have none."""
    for frame in read_frames(path):
        if frame.info.get("status", "ok") == "ok":
            yield _entry(frame, frame.info)


def _entry(read: Atoms, header: Mapping[str, Any]) -> Entry:
    """An entry of a frame; ASE's readers hand usual names over as results of a calculator."""
    results = dict(read.calc.results) if read.calc else {}
    per_atom = {n for n, v in results.items() if np.shape(v)[:1] == (len(read),) and n != "stress"}
    bare = Atoms(read.numbers, positions=read.positions, cell=read.cell, pbc=read.pbc)
    return Entry(
        bare,
        {n: v for n, v in results.items() if n not in per_atom} | dict(header),
        {n: np.asarray(results[n]) for n in per_atom} | dict(read.arrays),
    )
