"""`halcyon labels`: what a person does with a label store by hand.

Each command computes and returns; `cli` parses and prints.

Not for: what a campaign does with it (`labels`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

from halcyon import files
from halcyon.config import DatasetLayout
from halcyon.errors import InputError
from halcyon.frames import frames_of, structure_key
from halcyon.labels.published import XYZ, read_set
from halcyon.labels.store import SHARD_FRAMES, LabelStore, level_hash, levels

SAME_eV, SAME_eV_per_A = 1e-6, 1e-5
"""Within these, two labels of a structure are the same."""
UNITS = {"energy": "eV", "forces": "eV/Å", "positions": "Å", "core_seconds": "s"}


def open_level(root: Path, chosen: str | None, tell: Callable[[str], None]) -> LabelStore:
    """A level of a store that is there, by its name or the beginning of its hash.

    Raises:
        InputError: none, or several, fit.
    """
    known = levels(root)
    fitting = [h for h, level in known.items() if level.get("name") == chosen and chosen]
    fitting = fitting or [h for h in known if h.startswith(chosen or "")]
    if len(fitting) != 1:
        listed = "; ".join(f"{h} ({level_words(level)})" for h, level in known.items())
        raise InputError(
            f"{root}: --level {chosen or ''}: {len(fitting) or 'no'} levels of theory fit; there "
            f"are: {listed or 'none'}"
        )
    return LabelStore(root, known[fitting[0]], tell)


def level_words(level: dict[str, Any]) -> str:
    """A level of theory in a few words."""
    words = [level.get(key) for key in ("program", "version", "name", "method", "calculator")]
    return " ".join(str(word) for word in words if word)


@dataclass
class Counts:
    """How many labels there are, of which kind, and what they cost."""

    labels: int = 0
    status: Counter[str] = field(default_factory=Counter)
    core_hours: float = 0.0

    def add(self, status: str, labels: int, core_seconds: float) -> None:
        """Count some more."""
        self.labels += labels
        self.status[status] += labels
        self.core_hours += core_seconds / 3600


def count(store: LabelStore) -> dict[tuple[str, str], Counts]:
    """Labels of a level by campaign and system."""
    groups = ["campaign", "system", "status"]
    found: dict[tuple[str, str], Counts] = {}
    for table in store.stream([*groups, "core_seconds", "key"]):
        for name in {*groups, "core_seconds"} - {*table.column_names}:
            kind = pa.float64() if name == "core_seconds" else pa.string()
            table = table.append_column(name, pa.nulls(len(table), kind))  # noqa: PLW2901
        sums = table.group_by(groups).aggregate([("key", "count"), ("core_seconds", "sum")])
        for row in sums.to_pylist():
            mine = found.setdefault((row["campaign"] or "", row["system"] or ""), Counts())
            mine.add(row["status"] or "", row["key_count"], row["core_seconds_sum"] or 0.0)
    return found


def export(
    store: LabelStore, path: Path, description: dict[str, Any], wanted: dict[str, str]
) -> int:
    """Write labels to extended XYZ (`.xyz`, `.extxyz`) or an ASE database (`.db`).

    Args:
        store: of one level.
        path: a new file.
        description: the level of theory; it goes into the database's metadata.
        wanted: column → value that a label must have, e.g. status, campaign, system.

    Returns:
        The number of labels written; they are streamed.

    Raises:
        InputError: the file is there already, or of another kind.
    """
    if path.exists():
        raise InputError(f"{path}: is there already: name another file, or remove it")
    if path.suffix not in {*XYZ, ".db"}:
        raise InputError(f"{path}: expected a name that ends in .xyz, .extxyz or .db")
    number = 0
    with files.replacing(path) as temporary:
        if path.suffix == ".db":
            with connect(temporary, type="db") as database:
                database.metadata = {"units": UNITS, "level_of_theory": description}
                for frame in _matching(store, wanted):
                    # As data: ASE refuses key-value pairs that look like numbers, as keys may.
                    database.write(frame, data=frame.info, status=frame.info["status"])
                    number += 1
        else:
            with temporary.open("w", encoding="utf-8") as opened:
                for frame in _matching(store, wanted):
                    frame.info |= {"energy_unit": "eV", "length_unit": "A"}
                    write(opened, frame, format="extxyz")
                    number += 1
    return number


def _matching(store: LabelStore, wanted: dict[str, str]) -> Iterator[Atoms]:
    for read in store.stream():
        table = read
        for column, value in wanted.items():
            if column not in table.column_names:
                table = table.slice(0, 0)
                break
            table = table.filter(pc.equal(table[column], value))
        for frame in frames_of(table):
            results = {"energy": frame.info.pop("energy", None)}
            results["forces"] = frame.arrays.pop("forces", None)
            results = {name: value for name, value in results.items() if value is not None}
            frame.calc = SinglePointCalculator(frame, **results) if results else None
            yield frame


@dataclass
class Imported:
    """What came of an import.

    Attributes:
        new: labels that were stored.
        known: duplicates: their structures had a label already, in the store or the set.
        different: those duplicates whose energy or forces differ; the first one stays.
    """

    new: int = 0
    known: int = 0
    different: int = 0


def imported_level(name: str, source: str) -> dict[str, Any]:
    """Level of theory of labels that somebody else computed."""
    return {"program": "imported", "version": "1", "name": name, "source": source}


def import_sets(
    store: LabelStore, paths: Sequence[Path], layout: DatasetLayout, system: str | None
) -> Imported:
    """Store the labels of published sets; nothing that is stored is overwritten.

    Raises:
        InputError: a file that cannot be read; what was read before it is stored.
    """
    result = Imported()
    for path in paths:
        some: list[Atoms] = []
        for frame in read_set(path, layout):
            frame.info |= {"key": structure_key(frame), "level": store.level, "status": "ok"}
            frame.info |= {"origin": f"imported from {path.name}", "core_seconds": 0.0}
            frame.info |= {"campaign": "imported", "structure": frame.get_chemical_formula()}
            if system is not None:
                frame.info["system"] = system
            some.append(frame)
            if len(some) == SHARD_FRAMES:
                _import(store, some, result)
                some = []
        _import(store, some, result)
    return result


def _import(store: LabelStore, frames: Sequence[Atoms], result: Imported) -> None:
    known = store.add(frames)
    first: dict[str, Atoms] = store.find(sorted(known))
    for frame in frames:
        key = frame.info["key"]
        if key not in first:
            first[key] = frame
            result.new += 1
            continue
        result.known += 1
        energy = abs(first[key].info.get("energy", np.inf) - frame.info["energy"])
        # Sorted: the order of atoms may differ.
        one, other = (np.sort(f.arrays["forces"], axis=None) for f in (first[key], frame))
        result.different += bool(energy > SAME_eV or np.abs(one - other).max() > SAME_eV_per_A)


@dataclass
class Verified:
    """What a check of a level found.

    Attributes:
        labels: how many there are in good shards.
        shards: how many good shards.
        damaged: shards that are set aside, now or earlier.
        repeated: labels of structures that have one already.
        faults: a line each.
    """

    labels: int
    shards: int
    damaged: int
    repeated: int
    faults: list[str]


def verify(store: LabelStore) -> Verified:
    """Check every shard's checksum, every label's key against its structure, and the counts."""
    faults = [fault for shard in store.shards() for fault in store.check(shard)]
    description = store.folder / "level.json"
    if level_hash(files.read_json(description)) != store.folder.name:
        faults.append(f"{description}: is not the level of theory of its folder")
    # 16 bytes a key: memory for a million labels, not for a million strings.
    keys = [
        np.array([bytes.fromhex(k) for k in t["key"].to_pylist()], "V16")
        for t in store.stream(["key"])
    ]
    merged = np.concatenate([np.empty(0, "V16"), *keys])
    repeated = len(merged) - len(np.unique(merged.view("S16")))
    return Verified(len(merged), len(store.shards()), len(store.damaged()), repeated, faults)
