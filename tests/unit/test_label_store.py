"""The store stays whole: many writers, damage, kills."""

import json
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from halcyon.errors import InputError
from halcyon.frames import read_frames, structure_key, write_frames
from halcyon.labels import store as label_store
from halcyon.labels.labelling import Labeller
from halcyon.labels.reference.base import Record, Reference, Status
from halcyon.labels.store import LabelStore

LEVEL = {"program": "toy", "version": "1"}
FORK = multiprocessing.get_context("fork")


def labelled(frames, store):
    for frame in frames:
        frame.info |= {"key": structure_key(frame), "level": store.level, "status": "ok"}
        frame.info |= {"energy": float(frame.positions.sum()), "system": "s", "campaign": "c"}
        frame.info |= {"core_seconds": 2.0}
        frame.arrays["forces"] = frame.positions * 2
    return frames


@pytest.fixture
def messages():
    return []


@pytest.fixture
def store(tmp_path, messages):
    return LabelStore(tmp_path / "store", LEVEL, messages.append)


def again(store):
    """The same store, as another process opens it."""
    return LabelStore(store.folder.parent, LEVEL, store._tell)


def stored_keys(store):
    return [key for table in store.stream(["key"]) for key in table["key"].to_pylist()]


def test_what_is_stored_is_found(store, rattled):
    frames = labelled(rattled(30), store)
    assert store.add(frames[:10]) == set()
    assert store.add(frames[5:]) == {f.info["key"] for f in frames[5:10]}
    records = again(store).find([f.info["key"] for f in frames] + ["0" * 32])
    assert {k: f.info["energy"] for k, f in records.items()} == {
        f.info["key"]: f.info["energy"] for f in frames
    }
    assert len(stored_keys(store)) == 30
    assert [store.check(shard) for shard in store.shards()] == [[], []]


def test_the_index_changes_nothing_but_speed(store, rattled, monkeypatch):
    monkeypatch.setattr(label_store, "NOT_INDEXED", 2)
    monkeypatch.setattr(label_store, "GROUP_FRAMES", 2)
    frames = labelled(rattled(30), store)
    for begin in range(0, 30, 3):
        store.add(frames[begin : begin + 3])
    assert (store.folder / label_store.INDEX).exists()
    keys = [f.info["key"] for f in frames]
    assert again(store).find(keys).keys() == set(keys)
    assert again(store).add(frames) == set(keys)
    # A damaged index is made again from the shards.
    (store.folder / label_store.INDEX).write_bytes(b"PAR1 nonsense PAR1")
    assert again(store).find(keys).keys() == set(keys)
    # A shard that somebody took away is not looked for.
    gone = store.folder / store.shards()[0]
    lost = {f.info["key"] for f in read_frames(gone)}
    gone.unlink()
    assert again(store).find(keys).keys() == set(keys) - lost


def write_some(folder, frames, number):
    store = LabelStore(folder, LEVEL)
    order = random.Random(number).sample(range(len(frames)), len(frames))
    for begin in range(0, len(order), 4):
        store.add([frames[i] for i in order[begin : begin + 4]])


def test_many_writers_lose_nothing_and_write_nothing_twice(store, rattled, monkeypatch):
    monkeypatch.setattr(label_store, "NOT_INDEXED", 5)
    frames = labelled(rattled(60), store)
    writers = [
        FORK.Process(target=write_some, args=(store.folder.parent, frames, n)) for n in range(6)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert sorted(stored_keys(store)) == sorted(f.info["key"] for f in frames)
    assert not list(store.folder.glob(".*.tmp"))
    assert all(store.check(shard) == [] for shard in store.shards())


def flip(path, where):
    content = bytearray(path.read_bytes())
    content[where] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("damage", ["truncated", "empty", "a byte in the data", "the footer"])
def test_a_damaged_shard_is_set_aside_and_told(  # noqa: PLR0917
    store, rattled, messages, damage, indexed, monkeypatch
):
    monkeypatch.setattr(label_store, "NOT_INDEXED", 0 if indexed else 64)
    frames = labelled(rattled(20), store)
    store.add(frames[:10])
    store.add(frames[10:])
    broken = next(
        store.folder / shard
        for shard in store.shards()
        if frames[0].info["key"] in {f.info["key"] for f in read_frames(store.folder / shard)}
    )
    size = broken.stat().st_size
    if damage == "truncated":
        os.truncate(broken, size // 2)
    elif damage == "empty":
        os.truncate(broken, 0)
    elif damage == "a byte in the data":
        column = pq.ParquetFile(broken).metadata.row_group(0).column(1)  # of the positions
        flip(broken, column.data_page_offset + column.total_compressed_size - 3)
    else:
        flip(broken, size - 40)
    reopened = again(store)
    keys = [f.info["key"] for f in frames]
    records = reopened.find(keys)
    assert records.keys() == set(keys[10:])
    (line,) = messages
    assert f"{broken}: damaged" in line
    assert "10 labels are computed again" in line or not indexed
    assert reopened.damaged() == [broken.with_name(broken.name + ".damaged")]
    # Computed again, they are stored again.
    assert reopened.add(frames) == set(keys[10:])
    assert again(store).find(keys).keys() == set(keys)
    assert len(messages) == reopened.damaged_here == 1


def test_a_thorough_check_sees_what_a_look_up_passes_over(store, rattled):
    store.add(labelled(rattled(5), store))
    (shard,) = store.shards()
    flip(store.folder / shard, (store.folder / shard).stat().st_size - 200)
    (fault,) = store.check(shard)
    assert "checksum" in fault
    assert store.shards() == []


def test_a_label_that_is_not_its_structures_is_a_fault(store, rattled):
    frames = labelled(rattled(3), store)
    frames[1].info["key"] = frames[0].info["key"][::-1]
    store.add(frames)
    (fault,) = store.check(store.shards()[0])
    assert frames[1].info["key"] in fault


def test_stores_of_earlier_versions_are_read(store, rattled, messages):
    """Then shards were named after their keys, and had no checksums."""
    frames = labelled(rattled(4), store)
    write_frames(store.folder / "0123456789abcdef01234567.parquet", frames)
    keys = [f.info["key"] for f in frames]
    assert again(store).find(keys).keys() == set(keys)
    assert again(store).check(store.shards()[0]) == []
    assert store.add(frames) == set(keys)
    os.truncate(store.folder / store.shards()[0], 500)
    assert again(store).find(keys) == {}
    assert len(messages) == 1


def test_what_is_whole_and_yet_unreadable_is_not_set_aside(store, rattled, monkeypatch):
    store.add(labelled(rattled(4), store))
    (shard,) = store.shards()

    def newer(*_args, **_options):
        raise OSError("unknown page type")

    monkeypatch.setattr(label_store.pq, "ParquetFile", newer)
    with pytest.raises(InputError, match="newer Halcyon"):
        again(store).find(["0" * 32])
    assert store.shards() == [shard]


@pytest.mark.parametrize("checked", [True, False])
def test_what_the_disk_does_not_give_is_not_called_damaged(store, rattled, monkeypatch, checked):
    frames = labelled(rattled(4), store)
    if checked:
        store.add(frames)
    else:
        write_frames(store.folder / "0123456789abcdef01234567.parquet", frames)
    shards = store.shards()

    def fail(*_args, **_options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(label_store.Path, "open", fail)
    with pytest.raises(InputError, match=r"cannot be read .*Input/output error"):
        again(store).find([frames[0].info["key"]])
    assert store.shards() == shards


class Slow(Reference):
    """Writes down what it begins, and takes a moment."""

    level = LEVEL

    def __init__(self, diary):
        self.diary = diary

    def check(self, structures):
        pass

    def label(self, frames, work, cores):  # noqa: ARG002
        for frame in frames:
            with self.diary.open("a") as diary:
                diary.write(f"{os.getpid()} {structure_key(frame)}\n")
            time.sleep(0.002)
            if frame.positions[0, 0] > 0.08:
                yield Record(status=Status.UNCONVERGED, message="no luck")
            else:
                yield Record(
                    status=Status.OK, energy=float(frame.positions.sum()), forces=frame.positions
                )


SHARDS = 40


def label_all(folder, frames):
    store = LabelStore(folder / "store", LEVEL)
    for shard in range(SHARDS):
        Labeller(
            reference=Slow(folder / "diary"),
            store=store,
            work=folder / f"work-{shard}",
            cores=1,
            provenance={"campaign": "c", "system": "s"},
        ).label(frames[shard::SHARDS])


def test_killed_at_fifty_moments_every_frame_has_one_record(store, rattled, tmp_path, messages):
    frames = rattled(800)
    diary = tmp_path / "diary"
    diary.touch()
    for moment in np.random.default_rng(1).uniform(0.0, 0.04, size=50):
        size = diary.stat().st_size
        job = FORK.Process(target=label_all, args=(tmp_path, frames))
        job.start()
        while job.is_alive() and diary.stat().st_size == size:
            time.sleep(0.0005)
        time.sleep(moment)
        assert job.is_alive(), "it must not end before the last kill"
        os.kill(job.pid, signal.SIGKILL)
        job.join()
    job = FORK.Process(target=label_all, args=(tmp_path, frames))
    job.start()
    job.join(60)
    assert job.exitcode == 0
    keys = [structure_key(frame) for frame in frames]
    assert sorted(stored_keys(store)) == sorted(keys)
    records = store.find(keys)
    assert {f.info["status"] for f in records.values()} == {"ok", "unconverged"}
    assert all(store.check(shard) == [] for shard in store.shards())
    assert messages == []
    # Only a frame that was in progress when its process was killed was begun twice.
    begun = [line.split() for line in diary.read_text().splitlines()]
    last = {pid: number for number, (pid, _key) in enumerate(begun)}
    finished = [key for number, (pid, key) in enumerate(begun) if last[pid] != number]
    assert len(finished) == len(set(finished))
    assert len({pid for pid, _key in begun}) == 51


def test_levels_are_listed(store, tmp_path):
    assert label_store.levels(tmp_path / "store") == {store.level: LEVEL}
    assert json.loads((store.folder / "level.json").read_text()) == LEVEL
    with pytest.raises(InputError, match="no such label store"):
        label_store.levels(tmp_path / "none")
