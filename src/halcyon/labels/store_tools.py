"""Label stores by hand: count, export, import and verify labels, for `halcyon labels`.

    from pathlib import Path
    from halcyon.labels.store import LabelStore
    from halcyon.labels.store_tools import open_level, verify

    LabelStore(Path("labels"), {"program": "imported", "name": "PBE0-D3"})
    store = open_level(Path("labels"), "PBE0-D3", print)
    verify(store).faults  # []

Not for: parsing and printing (`commands.labels`), or labelling frames (`labelling`).
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
from halcyon.labels.finite_difference import StressScale
from halcyon.labels.published import XYZ, check_stress, read_set
from halcyon.labels.reference.base import LevelOfTheory, Status
from halcyon.labels.store import SHARD_FRAMES, LabelStore, is_superseded, level_hash, levels

SAME_eV, SAME_eV_per_A = 1e-6, 1e-5
"""Within these, two labels of a structure are the same."""
CHECKED_FRAMES = 1000
"""Frames of a set, from its first on, whose stresses are held against energies."""
UNITS = {
    "energy": "eV",
    "forces": "eV/Å",
    "stress": "eV/Å³, tension positive",
    "positions": "Å",
    "core_seconds": "s",
}


def open_level(root: Path, chosen: str | None, tell: Callable[[str], None]) -> LabelStore:
    """Open an existing level of theory by its name or the beginning of its hash.

    Args:
        root: folder of the store.
        chosen: name or hash; None: the store's only level.
        tell: called with a message for a person about each damaged shard.

    Raises:
        InputError: no level fits, or several do.
    """
    levels_of_store = levels(root)
    fitting = [h for h, level in levels_of_store.items() if level.get("name") == chosen and chosen]
    fitting = fitting or [h for h in levels_of_store if h.startswith(chosen or "")]
    if len(fitting) != 1:
        listed = "; ".join(f"{h} ({level_words(level)})" for h, level in levels_of_store.items())
        raise InputError(
            f"{root}: --level {chosen or ''}: {len(fitting) or 'no'} levels of theory fit; there "
            f"are: {listed or 'none'}"
        )
    return LabelStore(root, levels_of_store[fitting[0]], tell)


def level_words(level: LevelOfTheory) -> str:
    """A level of theory in a few words."""
    words = [level.get(key) for key in ("program", "version", "name", "method", "calculator")]
    return " ".join(str(word) for word in words if word)


@dataclass
class Counts:
    """Number of labels, by status, and what they cost."""

    labels: int = 0
    status: Counter[str] = field(default_factory=Counter)
    core_hours: float = 0.0

    def add(self, status: str, labels: int, core_seconds: float) -> None:
        """Add labels of one status."""
        self.labels += labels
        self.status[status] += labels
        self.core_hours += core_seconds / 3600


def count(store: LabelStore) -> dict[tuple[str, str], Counts]:
    """Labels of a level by campaign and system."""
    groups = ["campaign", "system", "status"]
    counts: dict[tuple[str, str], Counts] = {}
    for table in store.stream([*groups, "core_seconds", "key"]):
        for name in {*groups, "core_seconds"} - {*table.column_names}:
            column_type = pa.float64() if name == "core_seconds" else pa.string()
            table = table.append_column(name, pa.nulls(len(table), column_type))  # noqa: PLW2901
        sums = table.group_by(groups).aggregate([("key", "count"), ("core_seconds", "sum")])
        for row in sums.to_pylist():
            key = row["campaign"] or "", row["system"] or ""
            total = counts.setdefault(key, Counts())
            total.add(row["status"] or "", row["key_count"], row["core_seconds_sum"] or 0.0)
    return counts


def export(
    store: LabelStore, path: Path, level: LevelOfTheory, conditions: Mapping[str, str]
) -> int:
    """Write labels to extended XYZ (`.xyz`, `.extxyz`) or an ASE database (`.db`).

    Args:
        store: of one level.
        path: a new file.
        level: the level of theory; it goes into the database's metadata.
        conditions: column → value that a label must have, e.g. status, campaign, system.

    Returns:
        The number of labels written; they are streamed.

    Raises:
        InputError: the file exists, or its name has another ending.
    """
    if path.exists():
        raise InputError(f"{path} exists already: name another file, or remove it")
    if path.suffix not in {*XYZ, ".db"}:
        raise InputError(f"{path}: expected a name that ends in .xyz, .extxyz or .db")
    number = 0
    with files.replacing(path) as temporary:
        if path.suffix == ".db":
            with connect(temporary, type="db") as database:
                database.metadata = {"units": UNITS, "level_of_theory": level}
                for frame in _matching(store, conditions):
                    # As data: ASE refuses key-value pairs that look like numbers, as keys may.
                    database.write(frame, data=frame.info, status=frame.info["status"])
                    number += 1
        else:
            with temporary.open("w", encoding="utf-8") as opened:
                for frame in _matching(store, conditions):
                    frame.info |= {"energy_unit": "eV", "length_unit": "A"}
                    write(opened, frame, format="extxyz")
                    number += 1
    return number


def _matching(store: LabelStore, conditions: Mapping[str, str]) -> Iterator[Atoms]:
    """Frames that fulfil all conditions, each with its label as an ASE calculator."""
    for group in store.stream():
        table = _without_superseded(store, group)
        for column, value in conditions.items():
            if column not in table.column_names:
                table = table.slice(0, 0)
                break
            table = table.filter(pc.equal(table[column], value))
        for frame in frames_of(table):
            results = {"energy": frame.info.pop("energy", None)}
            results["forces"] = frame.arrays.pop("forces", None)
            results["stress"] = frame.info.pop("stress", None)
            results = {name: value for name, value in results.items() if value is not None}
            frame.calc = SinglePointCalculator(frame, **results) if results else None
            yield frame


def _without_superseded(store: LabelStore, table: pa.Table) -> pa.Table:
    """Rows without those that a later record supersedes: by a stress, a label or higher limits."""
    superseded = pa.array(sorted(store.with_stress(table["key"].to_pylist())), pa.string())
    lacking = pc.is_in(table["key"], value_set=superseded)
    if "stress" in table.column_names:
        lacking = pc.and_(lacking, table["stress"].is_null())
    table = table.filter(pc.invert(lacking))
    failed = table.filter(pc.not_equal(table["status"], Status.OK.value))
    if not len(failed):
        return table
    best = store.find(failed["key"].to_pylist())
    replaced = [is_superseded(row, best) for row in table.to_pylist()]
    return table.filter(pa.array([not known for known in replaced], pa.bool_()))


@dataclass
class Imported:
    """Counts of an import.

    Attributes:
        new: labels that were stored.
        known: labels whose structure had one already, in the store or earlier in the set.
        different: those of them whose energy or forces differ; the label that was first stays.
        stresses: how many labels have a stress.
        stress_scales: of each file whose stress was read: whether it fits the energies.
    """

    new: int = 0
    known: int = 0
    different: int = 0
    stresses: int = 0
    stress_scales: dict[Path, StressScale] = field(default_factory=dict)


def imported_level(name: str, source: str) -> LevelOfTheory:
    """Level of theory of labels that somebody else computed.

    Args:
        name: as the user calls it, e.g. `PBE0-D3/def2-TZVP`.
        source: where the labels come from, e.g. a DOI.
    """
    return {"program": "imported", "version": "1", "name": name, "source": source}


def import_sets(
    store: LabelStore, paths: Sequence[Path], layout: DatasetLayout, system: str | None
) -> Imported:
    """Store the labels of published sets; nothing that is stored is overwritten.

    Raises:
        InputError: the stress of a file does not fit its energies: nothing is stored. Or a file
            cannot be read; labels that were read before it are stored.
    """
    result = Imported()
    if layout.stress_key:
        for path in paths:
            first = itertools.islice(read_set(path, layout), CHECKED_FRAMES)
            result.stress_scales[path] = check_stress(path, layout, first)
    for path in paths:
        waiting: list[Atoms] = []
        for frame in read_set(path, layout):
            frame.info |= {"key": structure_key(frame), "level": store.level, "status": "ok"}
            frame.info |= {"origin": f"imported from {path.name}", "core_seconds": 0.0}
            frame.info |= {"campaign": "imported", "structure": frame.get_chemical_formula()}
            if system is not None:
                frame.info["system"] = system
            result.stresses += "stress" in frame.info
            waiting.append(frame)
            if len(waiting) == SHARD_FRAMES:
                _import(store, waiting, result)
                waiting = []
        _import(store, waiting, result)
    return result


def _import(store: LabelStore, frames: Sequence[Atoms], result: Imported) -> None:
    stored_before = store.add(frames)
    first: dict[str, Atoms] = store.find(sorted(stored_before))
    for frame in frames:
        key = frame.info["key"]
        if key not in first:
            first[key] = frame
            result.new += 1
            continue
        result.known += 1
        energy = abs(first[key].info.get("energy", np.inf) - frame.info["energy"])
        # Forces are sorted, because the order of atoms may differ.
        before, now = (np.sort(f.arrays["forces"], axis=None) for f in (first[key], frame))
        result.different += bool(energy > SAME_eV or np.abs(before - now).max() > SAME_eV_per_A)


@dataclass
class Verified:
    """Result of a check of a level.

    Attributes:
        labels: number of labels in good shards.
        shards: number of good shards.
        damaged: number of shards that were set aside, now or earlier.
        repeated: number of labels whose structure has another one.
        faults: a message each.
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
        faults.append(
            f"{description}: its hash is not the name of its folder: it was changed, or belongs to "
            "another level of theory"
        )
    # 16 bytes per key, so that the keys of a million labels fit into memory.
    keys = [
        np.array([bytes.fromhex(k) for k in t["key"].to_pylist()], "V16")
        for t in store.stream(["key"])
    ]
    merged = np.concatenate([np.empty(0, "V16"), *keys])
    repeated = len(merged) - len(np.unique(merged.view("S16")))
    return Verified(len(merged), len(store.shards()), len(store.damaged()), repeated, faults)
