"""Files of the label stage as schema 1 wrote them, kept in tests/data/labels, are read for good."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import ROOT
from halcyon.frames import frames_of, structure_key
from halcyon.labels import store as label_store
from halcyon.labels.job import good_labels
from halcyon.labels.labelling import gather
from halcyon.labels.store import LabelStore, level_hash, levels
from halcyon.labels.store_tools import verify

DATA = ROOT / "tests/data/labels"
XTB, CP2K = "29e4473b738cac16", "dcedac51c3dc3bfd"
KEYS = {
    "7867e8dd4f7130ae293db6d3dd0bf6a0",
    "d63632817c8f0f392704a392569abd9f",
    "cd6f401753768737b355b5030ffcb0a5",
    "e079324fa732c45b8bf757fd2c27410c",
}


@pytest.fixture
def root(tmp_path):
    return shutil.copytree(DATA / "store", tmp_path / "store")


def open_store(root):
    return LabelStore(root, json.loads((root / XTB / "level.json").read_text()))


def test_levels_of_theory_have_the_hashes_of_their_folders():
    stored = levels(DATA / "store")
    assert [level_hash(level) for level in stored.values()] == list(stored) == [XTB, CP2K]
    assert stored[CP2K]["program"] == "CP2K"


@pytest.mark.parametrize("indexed", [True, False])
def test_labels_of_an_old_store_are_found(root, indexed, monkeypatch):
    if not indexed:
        (root / XTB / label_store.INDEX).unlink()
    store = open_store(root)
    if indexed:  # the index alone tells where they are
        monkeypatch.setattr(store, "_scan", lambda _shard: pytest.fail("a shard was scanned"))
    labels = store.find(sorted(KEYS))
    assert labels.keys() == KEYS
    assert {structure_key(frame) for frame in labels.values()} == KEYS
    assert {frame.get_chemical_formula() for frame in labels.values()} == {"C2H6O"}
    energy = labels["7867e8dd4f7130ae293db6d3dd0bf6a0"].info["energy"]
    assert energy == -309.0571053962164
    assert verify(open_store(root)).faults == []


def test_a_written_index_has_its_version_and_another_version_is_not_trusted(root, monkeypatch):
    path = root / XTB / label_store.INDEX
    path.unlink()
    monkeypatch.setattr(label_store, "NOT_INDEXED", 0)
    store = open_store(root)
    (old,) = frames_of(next(store.stream()))[:1]
    moved = old.copy()
    moved.info = dict(old.info)
    moved.positions[0] += 0.1
    moved.arrays["forces"] = old.arrays["forces"]
    moved.info["key"] = structure_key(moved)
    store.add([moved])
    assert pq.read_schema(path).metadata == {b"halcyon.label_index": b"2"}

    # A later version, whose keys mean something else.
    table = pq.read_table(path, read_dictionary=["shard"])
    other = pa.array([bytes(16)] * len(table), pa.binary(16))
    table = table.set_column(0, "key", other)
    pq.write_table(table.replace_schema_metadata({"halcyon.label_index": "3"}), path)
    assert open_store(root).known(sorted(KEYS)) == KEYS


def test_an_old_label_file_is_read():
    path = DATA / "labels_schema_1.parquet"
    gathered = gather([path])
    counts = {split: len(frames) for split, frames in gathered.items()}
    none = dict.fromkeys(("test", "free_atoms", "bad", "not_computed"), 0)
    assert counts == {"train": 8, "validation": 2} | none
    labels = good_labels([path])
    assert len(labels) == 10
    assert {frame.info["level"] for frame in labels} == {XTB}
    assert labels[0].info["energy"] == -309.0963952642045
    assert labels[0].arrays["forces"].shape == (9, 3)
