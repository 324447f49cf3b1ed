"""The label store: labels kept by their content, immutable, checked, shared by all campaigns.

    from pathlib import Path
    from halcyon.frames import structure_key
    from halcyon.labels.store import LabelStore

    store = LabelStore(Path("labels"), {"program": "tblite", "version": "0.8.0"})
    store.find([structure_key(frame) for frame in frames])  # {}

A label belongs to a structure (see `frames.structure_key`) and a level of theory. Levels lie in
folders of their own and never mix:

    <store>/<level>/level.json             the level of theory
    <store>/<level>/sha256-….parquet       a shard of labels, named after the hash of its bytes
    <store>/<level>/….parquet.damaged      a damaged shard, renamed so that nothing reads it
    <store>/<level>/keys.index             which shard has which label; a cache, made again at will

A shard is written once, under a lock, and only with labels that the level does not have yet:
however many processes write, no label is lost and none is stored twice. Two records are superseded
by a later one, beside which they stay: a label without stress by one with it, and a failure by a
label, or by a failure under higher limits.

Every page that is read is checked against its own checksum. A whole shard is checked against its
name before it is indexed, and by `check`. Shards of earlier versions, without checksums, are read
too.

Not for: deciding what is computed (`labelling`), or computing it (`reference`).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ase import Atoms

from halcyon import files
from halcyon.errors import InputError
from halcyon.frames import canonical_frame, check_schema, frames_of, structure_key, table_of
from halcyon.labels import limits
from halcyon.labels.reference.base import LevelOfTheory, Status

CHECKED = "sha256-"
"""Beginning of the name of a shard whose name holds its checksum."""
DAMAGED = ".damaged"
INDEX = "keys.index"
INDEX_SCHEMA = {b"halcyon.label_index": b"2"}
"""Schema version in the index file's metadata; the first indexes had none. Version 2 says which
labels have a stress: those of an earlier index have none."""
FORMER_INDEX_SCHEMAS = (None, {b"halcyon.label_index": b"1"})
NOT_INDEXED = 64
"""The index is written again when more shards than this are not in it."""
SHARD_FRAMES = 1000
"""Most frames of a shard."""
GROUP_FRAMES = 50
"""Frames of a row group, the least that is read at once."""
ALL_DIFFERENT = {"numbers", "positions", "forces", "key"}
"""Columns for which a dictionary of values costs space and time."""
LOCK_WAIT_S = 600.0
"""How long a process waits for another one that is writing, s."""
UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, MemoryError, OverflowError)
"""What pyarrow raises on damaged files."""


def level_hash(level: LevelOfTheory) -> str:
    """Hash of a level of theory, 16 hexadecimal digits."""
    canonical = json.dumps(level, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def levels(root: Path) -> dict[str, LevelOfTheory]:
    """Levels of theory of a store by their hashes.

    Raises:
        InputError: there is no store, or a level's description is damaged.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such label store")
    return {path.parent.name: files.read_json(path) for path in sorted(root.glob("*/level.json"))}


class LabelStore:
    """Labels of one level of theory.

    Attributes:
        level: hash of the level of theory.
        folder: folder of the level's shards.
        damaged_here: number of shards that this process has found damaged.
    """

    def __init__(
        self, root: Path, level: LevelOfTheory, tell: Callable[[str], None] = lambda _text: None
    ) -> None:
        """Open, or begin, the store of a level under `root`.

        Args:
            root: folder of the whole store.
            level: see `Reference.level`.
            tell: called with a message for a person about each damaged shard.
        """
        self.level = level_hash(level)
        self.folder = root / self.level
        self.damaged_here = 0
        self._tell = tell
        self._index: tuple[int, pa.Table] | None = None
        self._scanned: dict[str, pa.Table] = {}
        description = self.folder / "level.json"
        if not description.exists():
            files.write_json(description, level)

    def find(self, keys: Sequence[str]) -> dict[str, Atoms]:
        """Stored records for some structures.

        A damaged shard is set aside, with a message; its labels count as not stored.

        Args:
            keys: from `structure_key`.

        Returns:
            Key → frame in canonical order with its record in `info`; missing keys are absent.

        Raises:
            InputError: a shard cannot be read for a reason that is not damage; it is named.
        """
        records: dict[str, Atoms] = {}
        while missing := set(keys) - records.keys():
            groups_of: dict[str, set[int]] = {}
            keys_of: dict[str, list[str]] = {}
            for key, places in self._locate(missing).items():
                for place in places:
                    groups_of.setdefault(place.shard, set()).add(place.group)
                    keys_of.setdefault(place.shard, []).append(key)
            any_damaged = False
            for shard, groups in sorted(groups_of.items()):
                table = self._read(shard, sorted(groups))
                if table is None:  # set aside: some of its labels may be in another shard
                    any_damaged = True
                    continue
                rows = table.filter(pc.is_in(table["key"], value_set=pa.array(keys_of[shard])))
                for frame in frames_of(rows):
                    key = frame.info["key"]
                    if key not in records or _supersedes(frame, records[key]):
                        records[key] = frame
            if not any_damaged:
                break
        return records

    def known(self, keys: Sequence[str]) -> set[str]:
        """Those keys whose records are stored; much faster than `find`."""
        return set(self._locate(set(keys)))

    def with_stress(self, keys: Sequence[str]) -> set[str]:
        """Those keys whose labels are stored with a stress."""
        places = self._locate(set(keys))
        return {key for key, of_key in places.items() if any(place.stress for place in of_key)}

    def add(self, frames: Sequence[Atoms]) -> set[str]:
        """Store frames with their records; what is stored already stays as it is.

        Args:
            frames: with their records in `info` (see `labelling.Labeller`).

        Returns:
            Keys of frames that were stored already, by this process or another; a frame whose
            record supersedes the stored one is not among them.

        Raises:
            ValueError: a frame of another level of theory.
            InputError: another process has been writing for ten minutes.
        """
        if wrong := {frame.info["level"] for frame in frames} - {self.level}:
            raise ValueError(f"level of theory {wrong} cannot enter the store of {self.level}")
        if not frames:
            return set()
        with self._alone():
            stored = self.find([frame.info["key"] for frame in frames])
            new: dict[str, Atoms] = {}
            for frame in frames:
                key = frame.info["key"]
                before = new.get(key, stored.get(key))
                if before is None or _supersedes(frame, before):
                    new[key] = frame
            rows = list(new.values())
            for begin in range(0, len(rows), SHARD_FRAMES):
                self._write_shard(rows[begin : begin + SHARD_FRAMES])
            self._update_index()
        return stored.keys() - new.keys()

    def stream(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield all labels, a row group at a time: memory does not grow with the store.

        Args:
            columns: names of the columns to read, where a shard has them; None: all.
        """
        for shard in self.shards():
            with self._open(shard) as opened:
                if opened is None:
                    continue
                present = [name for name in columns or () if name in opened.schema_arrow.names]
                groups = opened.metadata.num_row_groups
            for group in range(groups):
                if (table := self._read(shard, [group], present or None)) is None:
                    break
                yield table

    def shards(self) -> list[str]:
        """Names of the shards, sorted."""
        with os.scandir(self.folder) as entries:
            names = [e.name for e in entries if e.name.endswith(".parquet") and e.name[0] != "."]
        return sorted(names)

    def damaged(self) -> list[Path]:
        """Shards that were set aside."""
        return sorted(self.folder.glob(f"*.parquet{DAMAGED}"))

    def check(self, shard: str) -> list[str]:
        """Check a shard's checksum, and every label's key against its structure.

        A damaged shard is set aside.

        Returns:
            One message per fault.
        """
        path = self.folder / shard
        if _intact(path) is False:
            return [self._set_aside(shard, "its checksum is not that of its name")]
        table = self._read(shard, None)
        if table is None:
            return [f"{path}: damaged: set aside as {shard}{DAMAGED}"]
        faults = []
        for frame in frames_of(table):
            key, level = frame.info.get("key"), frame.info.get("level")
            if level != self.level:
                faults.append(f"{path}: label {key} belongs to the level of theory {level}")
            if key != structure_key(frame):
                faults.append(f"{path}: label {key}: its structure has another key")
            if ("energy" in frame.info) != (frame.info.get("status") == "ok"):
                has = "has" if "energy" in frame.info else "lacks"
                status = frame.info.get("status")
                faults.append(f"{path}: label {key}: status {status}, but it {has} an energy")
        return faults

    def _write_shard(self, frames: Sequence[Atoms]) -> None:
        sink = pa.BufferOutputStream()
        table = table_of([canonical_frame(frame) for frame in frames])
        pq.write_table(
            table,
            sink,
            # `find` reads hundreds of small row groups: Zstandard takes three times as long.
            compression="lz4",
            use_dictionary=[name for name in table.column_names if name not in ALL_DIFFERENT],
            row_group_size=GROUP_FRAMES,
            write_page_checksum=True,
            write_statistics=False,
        )
        content = sink.getvalue()
        name = f"{CHECKED}{hashlib.sha256(content).hexdigest()[:32]}.parquet"
        with files.replacing(self.folder / name) as temporary:
            temporary.write_bytes(content)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = files.take_lock(self.folder / ".lock", wait_s=LOCK_WAIT_S)
        try:
            yield
        finally:
            os.close(lock)

    def _locate(self, keys: set[str]) -> dict[str, list["_Place"]]:
        """Places of each key that is stored; several where a record is superseded."""
        index, present = self._indexed(), self.shards()
        indexed = set(index["shard"].combine_chunks().dictionary.to_pylist()) if index else set()
        self._scanned = {n: t for n, t in self._scanned.items() if n not in indexed}
        for shard in present:
            if shard not in indexed and shard not in self._scanned:
                table = self._scan(shard)
                if table is not None:
                    self._scanned[shard] = table
        binary_keys = pa.array([bytes.fromhex(key) for key in sorted(keys)], pa.binary(16))
        names = set(present)
        places: dict[str, list[_Place]] = {}
        for table in (*([index] if index else []), *self._scanned.values()):
            for row in table.filter(pc.is_in(table["key"], value_set=binary_keys)).to_pylist():
                key, place = row["key"].hex(), _Place(row["shard"], row["group"], row["stress"])
                if place.shard in names:
                    places.setdefault(key, []).append(place)
        return places

    def _scan(self, shard: str) -> pa.Table | None:
        """Keys of a shard and their row groups; None if it is damaged, and set aside."""
        if _intact(self.folder / shard) is False:
            self._set_aside(shard, "its checksum is not that of its name")
            return None
        keys: list[bytes] = []
        groups: list[int] = []
        stresses: list[bool] = []
        columns = ["key"]
        with self._open(shard) as opened:
            number = opened.metadata.num_row_groups if opened else 0
            if opened and "stress" in opened.schema_arrow.names:
                columns.append("stress")
        for group in range(number):
            table = self._read(shard, [group], columns)
            if table is None:
                return None
            keys += [bytes.fromhex(key) for key in table["key"].to_pylist()]
            groups += [group] * len(table)
            stresses += (
                table["stress"].is_valid().to_pylist()
                if "stress" in columns
                else [False] * len(table)
            )
        return pa.table(
            {
                "key": pa.array(keys, pa.binary(16)),
                "shard": pa.array([shard] * len(keys)).dictionary_encode(),
                "group": pa.array(groups, pa.int16()),
                "stress": pa.array(stresses, pa.bool_()),
            }
        )

    def _indexed(self) -> pa.Table | None:
        """The index, from memory if its file has not changed; None without a usable one."""
        path = self.folder / INDEX
        try:
            changed_ns = path.stat().st_mtime_ns
            if self._index is None or self._index[0] != changed_ns:
                self._index = (changed_ns, _read_index(path))
        except UNREADABLE:
            self._index = None  # it is a cache: the shards are read instead
        return self._index and self._index[1]

    def _update_index(self) -> None:
        """Write the index again if many shards are not in it. The caller holds the lock."""
        if len(self._scanned) <= NOT_INDEXED:
            return
        index = self._indexed()
        names = pa.array(self.shards())
        tables = [*([index] if index else []), *self._scanned.values()]
        merged = pa.concat_tables(tables).unify_dictionaries()
        merged = merged.filter(pc.is_in(merged["shard"].cast(pa.string()), value_set=names))
        merged = merged.replace_schema_metadata(INDEX_SCHEMA)
        with files.replacing(self.folder / INDEX) as temporary:
            pq.write_table(merged, temporary, compression="lz4", write_page_checksum=True)

    @contextmanager
    def _open(self, shard: str) -> Iterator[pq.ParquetFile | None]:
        """A shard's file; None if it is gone, or damaged and set aside."""
        path = self.folder / shard
        try:
            opened = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
            check_schema(opened.schema_arrow, path)
        except FileNotFoundError:  # another process has set it aside
            yield None
            return
        except UNREADABLE as error:
            self._set_aside(shard, str(error))
            yield None
            return
        with opened:
            yield opened

    def _read(
        self, shard: str, groups: Sequence[int] | None, columns: Sequence[str] | None = None
    ) -> pa.Table | None:
        """Row groups of a shard; None if it is gone, or damaged and set aside."""
        with self._open(shard) as opened:
            if opened is None:
                return None
            numbers = range(opened.metadata.num_row_groups) if groups is None else groups
            try:
                return opened.read_row_groups(list(numbers), columns, use_threads=False)
            except UNREADABLE as error:
                self._set_aside(shard, str(error))
                return None

    def _set_aside(self, shard: str, why: str) -> str:
        """Rename a damaged shard, so that nothing reads it any more; returns the message."""
        path = self.folder / shard
        if _intact(path):
            raise InputError(
                f"{path}: cannot be read ({why}), though its checksum is right: it was perhaps "
                "written by a newer Halcyon or pyarrow; update this one"
            )
        try:
            path.rename(path.with_name(shard + DAMAGED))
        except FileNotFoundError:
            pass  # another process was first
        except OSError as error:
            raise InputError(
                f"{path}: damaged ({why}), and cannot be set aside ({error}): rename it to "
                f"{shard}{DAMAGED}, then run again"
            ) from error
        lost = len(self._scanned.pop(shard, ()))
        if not lost and (index := self._indexed()):
            lost = pc.sum(pc.equal(index["shard"].cast(pa.string()), shard)).as_py()
        line = (
            f"{path}: damaged label shard ({why}): set aside as {shard}{DAMAGED}; "
            f"{lost or 'its'} labels are computed again when a campaign needs them"
        )
        self.damaged_here += 1
        self._tell(line)
        return line


class _Place(NamedTuple):
    """Where a label is: its shard, the number of its row group; and whether it has a stress."""

    shard: str
    group: int
    stress: bool


def _supersedes(record: Atoms, other: Atoms) -> bool:
    """Whether a record takes the place of another one of the same structure."""
    return _worth(record) > _worth(other)


def is_superseded(failure: Mapping[str, Any], records: Mapping[str, Atoms]) -> bool:
    """Whether a failure has given way to another record of its structure.

    Args:
        failure: a row of the store; a label, status ok, never has.
        records: by key, from `LabelStore.find`.
    """
    record = records.get(failure["key"])
    if failure["status"] == Status.OK or record is None:
        return False
    failure = {name: value for name, value in failure.items() if value is not None}
    return _worth(record) > (False, False, limits.rank(failure))


def _worth(record: Atoms) -> tuple[bool, bool, tuple[float, ...]]:
    """Orders records of a structure: labels before failures, with stress before without."""
    labelled = record.info["status"] == Status.OK
    return labelled, "stress" in record.info, () if labelled else limits.rank(record.info)


def _read_index(path: Path) -> pa.Table:
    """The index file: key (16 bytes), shard (name), group (number of the row group), and stress.

    Raises:
        ValueError: it is of another schema version.
    """
    table = pq.read_table(path, read_dictionary=["shard"], page_checksum_verification=True)
    if table.schema.metadata in FORMER_INDEX_SCHEMAS:
        table = table.append_column("stress", pa.array([False] * len(table), pa.bool_()))
        table = table.replace_schema_metadata(INDEX_SCHEMA)
    if table.schema.metadata != INDEX_SCHEMA:
        raise ValueError(f"{path}: schema {table.schema.metadata}")
    return table.unify_dictionaries()


def _intact(shard: Path) -> bool | None:
    """Whether a shard's bytes have the checksum in its name; None if it is gone, or has none.

    Raises:
        InputError: the file system cannot read it: whether it is damaged is not known.
    """
    digest = hashlib.sha256()
    try:
        with shard.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{shard}: cannot be read ({error})") from error
    if not shard.name.startswith(CHECKED):
        return None
    return shard.stem == CHECKED + digest.hexdigest()[:32]
