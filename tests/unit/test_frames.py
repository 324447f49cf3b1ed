import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase import Atoms

from halcyon.errors import InputError
from halcyon.frames import read_frames, structure_key, write_frames


def test_written_and_read_again_nothing_is_lost(tmp_path, water):
    water.arrays["forces"] = np.arange(9.0).reshape(3, 3)
    water.info |= {"energy": -1.5, "split": "train", "time": 0.1}
    bare = Atoms("He", cell=[4, 5, 6], pbc=True, info={"charge": 0, "multiplicity": 1})
    write_frames(tmp_path / "f.parquet", [water, bare])
    first, second = read_frames(tmp_path / "f.parquet")
    assert first.info == water.info
    assert (first.arrays["forces"] == water.arrays["forces"]).all()
    assert (first.positions == water.positions).all()
    assert second == bare
    assert second.info == bare.info


def test_units_are_in_the_file(tmp_path, water):
    water.info["energy"] = 1.0
    write_frames(tmp_path / "f.parquet", [water])
    schema = pq.read_schema(tmp_path / "f.parquet")
    assert schema.field("positions").metadata[b"unit"].decode() == "Å"
    assert schema.field("energy").metadata[b"unit"] == b"eV"


def test_no_frames_are_frames(tmp_path):
    write_frames(tmp_path / "f.parquet", [])
    assert read_frames(tmp_path / "f.parquet") == []


def test_an_undeclared_column_is_refused(tmp_path, water):
    water.info["enrgy"] = 1.0
    with pytest.raises(KeyError, match="enrgy"):
        write_frames(tmp_path / "f.parquet", [water])
    assert list(tmp_path.iterdir()) == []


def test_a_bad_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_frames(tmp_path / "missing.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"broken\.parquet"):
        read_frames(broken)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="not one of Halcyon's frames"):
        read_frames(tmp_path / "other.parquet")


def test_the_key_forgets_order_and_whole_cells_but_nothing_else(water):
    key = structure_key(water)
    swapped = water[[2, 0, 1]]
    swapped.info = dict(water.info)
    assert structure_key(swapped) == key
    for change in ({"charge": 1}, {"multiplicity": 3}):
        other = water.copy()
        other.info = water.info | change
        assert structure_key(other) != key
    moved = water.copy()
    moved.info = dict(water.info)
    moved.positions[0, 0] += 1e-8
    assert structure_key(moved) == key
    moved.positions[0, 0] += 1e-5
    assert structure_key(moved) != key
    boxed = water.copy()
    boxed.info = dict(water.info)
    boxed.set_cell([9, 9, 9])
    assert structure_key(boxed) != key
    boxed.pbc = True
    there = boxed.copy()
    there.info = dict(water.info)
    there.positions[1] += [9, -18, 0]
    assert structure_key(there) == structure_key(boxed)
