"""`halcyon labels`, run as a person runs it."""

import json
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from ase.db import connect
from ase.io import read, write
from ase.units import Bohr, Hartree

from conftest import ROOT
from halcyon.commands.main import main
from halcyon.frames import structure_key
from halcyon.labels.store import LabelStore
from halcyon.labels.store_tools import imported_level

LEVEL = {"program": "toy", "version": "1", "name": "toys"}


@pytest.fixture
def store(tmp_path, rattled):
    """Five labels of one campaign, one of another that did not converge."""
    store = LabelStore(tmp_path / "labels", LEVEL)
    frames = rattled(6)
    for number, frame in enumerate(frames):
        frame.info |= {"key": structure_key(frame), "level": store.level, "core_seconds": 1800.0}
        frame.info |= {"campaign": "old" if number == 5 else "new", "system": "water"}
        frame.info["status"] = "unconverged" if number == 5 else "ok"
        if number < 5:
            frame.info["energy"] = float(frame.positions.sum())
            frame.arrays["forces"] = frame.positions * 2
    store.add(frames)
    return store


@pytest.fixture
def run(store, capsys):
    def command(*words):
        """Exit code, what it prints, and its complaints."""
        code = main(["labels", words[0], "--store", str(store.folder.parent), *map(str, words[1:])])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


@pytest.fixture
def published(tmp_path):
    """An npz in hartree and bohr, two kinds of molecules padded, one frame twice."""
    random = np.random.default_rng(3)
    numbers = np.array([[8, 1, 1]] * 3 + [[8, 1, 0]])
    positions = random.normal(size=(4, 3, 3))
    positions[2] = positions[0]
    path = tmp_path / "set.npz"
    arrays = {"Z": numbers, "coords": positions, "F": -positions * 0.1}
    np.savez(path, **arrays, E=np.array([[-76.0], [-76.1], [-76.0], [-75.5]]))
    return path


def test_list_counts(run, store):
    code, out, _ = run("list")
    assert code == 0
    assert f"{store.level}  toy 1 toys" in out
    assert "5 ok" in out
    assert "2.5" in out
    code, out, _ = run("list", "--json")
    (level,) = json.loads(out)
    assert level["damaged_shards"] == 0
    assert level["labels"] == [
        {
            "campaign": "new",
            "system": "water",
            "labels": 5,
            "status": {"ok": 5},
            "core_hours": 2.5,
        },
        {
            "campaign": "old",
            "system": "water",
            "labels": 1,
            "status": {"unconverged": 1},
            "core_hours": 0.5,
        },
    ]


def test_export_to_xyz(run, store, tmp_path):
    out = tmp_path / "out.xyz"
    code, told, _ = run("export", out)
    assert (code, told.split()[0]) == (0, "5")
    frames = read(out, ":")
    known = store.find([f.info["key"] for f in frames])
    for frame in frames:
        label = known[frame.info["key"]]
        assert frame.get_potential_energy() == pytest.approx(label.info["energy"], abs=1e-7)
        np.testing.assert_allclose(frame.get_forces(), label.arrays["forces"], atol=1e-7)
        assert (frame.info["energy_unit"], frame.info["length_unit"]) == ("eV", "A")
        assert (frame.info["charge"], frame.info["multiplicity"]) == (0, 1)
    code, _, complaint = run("export", out)
    assert code == 2
    assert "exists already" in complaint


def test_export_to_an_ase_database(run, tmp_path):
    assert run("export", tmp_path / "out.db", "--level", "toys")[0] == 0
    with connect(tmp_path / "out.db") as database:
        assert database.count() == 5
        assert database.metadata["units"]["forces"] == "eV/Å"
        assert database.metadata["level_of_theory"] == LEVEL
        row = next(database.select())
        assert row.data["campaign"] == "new"
        np.testing.assert_allclose(row.forces, row.positions * 2)


@pytest.mark.parametrize(
    ("options", "number"),
    [
        (["--status", "unconverged"], 1),
        (["--campaign", "old"], 0),
        (["--system", "water"], 5),
        (["--system", "ice"], 0),
    ],
)
def test_export_chooses(run, tmp_path, options, number):
    code, told, _ = run("export", tmp_path / "out.extxyz", *options)
    assert (code, told.split()[0]) == (0, str(number))
    assert (tmp_path / "out.extxyz").exists()


IMPORT = ["--level", "HF/STO-3G", "--source", "10.1/2", "--positions-key", "coords"]
UNITS = ["--energy-unit", "Ha", "--positions-unit", "A", "--forces-unit", "Ha", "bohr"]


def test_import_of_npz(run, store, published):
    code, told, _ = run("import", published, *IMPORT, *UNITS, "--system", "water")
    assert code == 0
    assert "3 new labels" in told
    assert "1 duplicate passed over" in told
    assert "other forces" not in told
    mine = LabelStore(store.folder.parent, imported_level("HF/STO-3G", "10.1/2"))
    frames = [frame for table in mine.stream() for frame in _frames(table)]
    assert sorted(len(frame) for frame in frames) == [2, 3, 3]
    short = next(frame for frame in frames if len(frame) == 2)
    assert short.info["energy"] == pytest.approx(-75.5 * Hartree)
    assert {(len(f), f.info["multiplicity"]) for f in frames} == {(2, 2), (3, 1)}
    assert short.info["origin"] == "imported from set.npz"
    np.testing.assert_allclose(
        short.arrays["forces"], -0.1 * short.positions * Hartree / Bohr, rtol=1e-12
    )
    # Again, all are known; another energy of a known structure is told, not stored.
    again = run("import", published, *IMPORT, *UNITS)[1]
    assert "0 new labels" in again
    assert "4 duplicates" in again
    assert "another energy" in run("import", published, *IMPORT, "--energy-unit", "eV")[1]
    assert [f.info["energy"] for t in mine.stream() for f in _frames(t)] == [
        f.info["energy"] for f in frames
    ]
    assert "imported 1 HF/STO-3G" in run("list")[1]


def _frames(table):
    from halcyon.frames import frames_of

    return frames_of(table)


def test_what_was_exported_can_be_imported(run, store, tmp_path):
    run("export", tmp_path / "out.xyz")
    code, told, _ = run("import", tmp_path / "out.xyz", "--level", "x", "--source", "y")
    assert code == 0
    assert "5 new labels" in told
    mine = LabelStore(store.folder.parent, imported_level("x", "y"))

    def energies(one):
        return sorted(e for t in one.stream(["energy"]) for e in t["energy"].to_pylist() if e)

    assert energies(mine) == pytest.approx(energies(store), abs=1e-7)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda _p: ["none.npz"], "none.npz: no such file"),
        (lambda p: [p, "--multiplicity", "high"], "--multiplicity high"),
        (lambda p: [p, "--energy-key", "Etot"], "no array 'Etot' (energy_key)"),
        (lambda p: [p, "--forces-unit", "Ha", "metre"], "--forces-unit metre"),
        (lambda p: [p.rename(p.with_suffix(".hdf5"))], "expected a file that ends in .npz"),
        (lambda p: [(p.write_bytes(b"PK"), p)[1]], "not a readable npz"),
    ],
)
def test_import_says_what_is_wrong(run, published, change, complaint):
    code, _, err = run("import", *change(published), *IMPORT)
    assert code == 2
    assert complaint in err


def test_import_of_xyz_without_labels_is_refused(run, water, tmp_path):
    write(tmp_path / "bare.xyz", water)
    code, _, err = run("import", tmp_path / "bare.xyz", *IMPORT)
    assert code == 2
    assert "frame 0: no energy" in err


def test_verify(run, store):
    code, told, _ = run("verify")
    assert code == 0
    assert "as it was written" in told
    (shard,) = store.shards()
    content = bytearray((store.folder / shard).read_bytes())
    content[len(content) // 2] ^= 1
    (store.folder / shard).write_bytes(content)
    code, told, err = run("verify")
    assert code == 1
    assert f"{shard}: damaged label shard" in err
    assert "1 damaged shard set aside" in run("list")[1]


def test_bad_input_is_told(run, store, capsys):
    assert run("export", "x.xyz", "--level", "abc")[0] == 2
    assert main(["labels", "list", "--store", "nowhere"]) == 2
    assert "nowhere: no such label store" in capsys.readouterr().err
    code, _, err = run("export", "x.pdf")
    assert code == 2
    assert "expected a name that ends in" in err
    LabelStore(store.folder.parent, {"program": "other"})
    code, _, err = run("export", "x.xyz")
    assert code == 2
    assert "2 levels of theory fit" in err


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "halcyon", "labels", "--help"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT / "src",
    )
    for command in ("list", "export", "import", "verify"):
        assert command in done.stdout


def test_the_command_is_the_one_that_is_installed():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"halcyon": f"{main.__module__}:{main.__name__}"}
