"""Trajectories of other programs, judged by a campaign's index."""

import json

import chemfiles
import numpy as np
import pandas as pd
import pytest
from ase.build import bulk, molecule
from ase.io import read, write
from test_calculator import folder  # noqa: F401 - a fixture

from halcyon.commands.main import main
from halcyon.domain.intervals import Domain
from halcyon.errors import InputError
from halcyon.final.monitor.ase import MonitoredMace
from halcyon.final.monitor.judging import judge
from halcyon.final.monitor.lammps import MaceFix, open_lammps, start_commands
from halcyon.final.monitor.trajectories import Frame, frames_of
from halcyon.final.monitor.watch import Thresholds, WatchedAtoms

ELEMENTS = ["C", "O", "H", "H", "H", "H"]


def moving(number=12, width=0.02):
    """Methanol that shakes."""
    frames = []
    for seed in range(number):
        atoms = molecule("CH3OH")
        atoms.rattle(width, seed=seed)
        frames.append(atoms)
    return frames


def saved(path, frames, *, times=False):
    with chemfiles.Trajectory(str(path), "w") as out:
        for number, atoms in enumerate(frames):
            frame = chemfiles.Frame()
            for symbol, position in zip(atoms.symbols, atoms.positions, strict=True):
                frame.add_atom(chemfiles.Atom(symbol), position)
            frame.step = 10 * number
            if times:
                frame["time"] = 0.02 * number
            out.write(frame)
    return path


@pytest.fixture
def calculator(folder):  # noqa: F811
    return MonitoredMace(folder)


@pytest.mark.parametrize("suffix", [".xyz", ".dcd", ".xtc", ".pdb"])
def test_positions_and_elements_of_every_format(tmp_path, suffix):
    frames, topology = moving(3), None
    path = saved(tmp_path / f"run{suffix}", frames)
    if suffix in {".dcd", ".xtc"}:
        topology = saved(tmp_path / "start.pdb", frames[:1])
    found = list(frames_of(path, topology=topology))
    assert [frame.number for frame in found] == [0, 1, 2]
    for frame, atoms in zip(found, frames, strict=True):
        assert list(frame.atoms.symbols) == ELEMENTS
        np.testing.assert_allclose(frame.atoms.positions, atoms.positions, atol=6e-3)
        assert not frame.atoms.pbc.any()


def test_lammps_writes_a_dump_and_watch_scores_it(folder, tmp_path, capsys):  # noqa: F811
    """The same numbers as those of the monitor while LAMMPS runs."""
    lmp, types, calculator = open_lammps(), ["O", "H", "C"], MonitoredMace(folder)
    atoms = molecule("CH3OH")
    lmp.commands_string(start_commands(atoms, types, tmp_path / "start.data"))
    force = MaceFix(lmp, calculator, types)
    dump = tmp_path / "run.lammpstrj"
    lmp.commands_string(
        "velocity all create 600 1\nfix 1 all nve\ntimestep 0.0005\n"
        f"dump d all custom 5 {dump} id type element xu yu zu\n"
        "dump_modify d element O H C sort id\n"
    )
    force.run("run 40")
    lmp.close()
    words = ["watch", str(dump), "--model", str(folder), "--frame-interval-fs", "2.5"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["frames"], told["structure"], told["interval_ps"]) == (9, "methanol", 0.0025)
    table = pd.read_parquet(tmp_path / "run-watched/frames.parquet")
    assert table["step"].tolist() == list(range(0, 45, 5))
    last = force.atoms  # after 40 steps
    assert table["energy_eV"].iloc[-1] == pytest.approx(calculator.get_property("energy", last))
    assert main(words) == 0
    assert "9 frames of methanol, 2.5 fs apart" in capsys.readouterr().out
    assert "plotly" in (tmp_path / "run-watched/page.html").read_text()
    atoms_table = pd.read_parquet(tmp_path / "run-watched/atoms.parquet")
    assert atoms_table["element"].tolist() == ELEMENTS
    # Types alone, as of a dump without the column `element`.
    text = dump.read_text().replace("id type element", "id type extra")
    other = tmp_path / "types.lammpstrj"
    other.write_text(text)
    with pytest.raises(InputError, match=r"no chemical symbol.*--elements"):
        list(frames_of(other))
    [first, *_] = frames_of(other, elements={"1": "O", "2": "H", "3": "C"})
    assert list(first.atoms.symbols) == ELEMENTS


def test_lambda_is_the_time_outside_and_neighbours_are_one(calculator):
    stretched = molecule("CH3OH")
    stretched.positions[1] += 1.5 * (stretched.positions[1] - stretched.positions[0])
    order = [*moving(4, width=0.005), stretched, stretched, *moving(3, width=0.03)]
    frames = [Frame(number, atoms, number, None) for number, atoms in enumerate(order)]
    judged = judge(calculator, frames, interval_ps=0.01)
    # By the calculator itself, frame by frame.
    name = f"score_{judged.decides}"
    scores = np.array([calculator.get_property(name, atoms) for atoms in order])
    outside = scores > 0
    assert outside[4].any()
    np.testing.assert_allclose(judged.atoms["cli_ps"], 0.01 * outside.sum(axis=0))
    assert judged.frames["outside"].tolist() == outside.sum(axis=1).tolist()
    begun = outside & ~np.vstack([np.zeros_like(outside[:1]), outside[:-1]])
    assert judged.atoms["excursions"].tolist() == begun.sum(axis=0).tolist()
    assert judged.frames["failure"].iloc[4].startswith("bond")
    # A frame of each run of frames that are outside, or have failed: its worst.
    bad = outside.any(axis=1) | (judged.frames["failure"] != "").to_numpy()
    runs = np.split(np.arange(len(order)), np.flatnonzero(np.diff(bad.astype(int))) + 1)
    expected = {int(run[scores[run].max(axis=1).argmax()]) for run in runs if bad[run[0]]}
    assert {atoms.info["frame"] for atoms in judged.worst} == expected


def test_frames_in_batches_have_the_numbers_of_frames_alone(calculator):
    """Atoms in another order than the domain's, and a batch that is not full."""
    order = [3, 5, 1, 0, 2, 4]
    frames = [Frame(n, atoms[order], n, None, 12) for n, atoms in enumerate(moving(12))]
    frames[7].atoms.positions[3] += 2.0
    done = []

    def scored(batch):
        progress = lambda *numbers: done.append(numbers)  # noqa: E731
        return judge(calculator, frames, interval_ps=0.01, batch=batch, progress=progress)

    alone, together = scored(1), scored(8)
    assert done == [(n + 1, 12) for n in range(12)] * 2
    assert alone.frames["worst_score"].max() > 0
    assert len({*alone.frames["worst_atom"]}) > 1
    # The model computes in double precision; the order of sums differs.
    pd.testing.assert_frame_equal(together.frames, alone.frames, rtol=1e-9, atol=1e-9)
    pd.testing.assert_frame_equal(together.atoms, alone.atoms, rtol=1e-9)
    assert [a.info for a in together.worst] == [a.info for a in alone.worst]


def test_periodic_frames_in_batches_each_have_their_cell(calculator):
    frames = moving(3)
    for number, atoms in enumerate(frames):
        atoms.set_cell([7.0 + number] * 3)
        atoms.pbc = True
    for atoms, together in zip(frames, calculator.predict(frames), strict=True):
        for name in ("energy", "forces", "stress", "score_label"):
            alone = calculator.get_property(name, atoms)
            np.testing.assert_allclose(together[name], alone, rtol=1e-9, atol=1e-9)
    frames[1].pbc = False
    with pytest.raises(ValueError, match="all periodic or none"):
        calculator.predict(frames)


def test_other_atoms_on_the_way_are_refused(calculator):
    order = [*moving(3), molecule("CH3OH")[[1, 0, 2, 3, 4, 5]]]
    frames = [Frame(number, atoms, number, None) for number, atoms in enumerate(order)]
    with pytest.raises(InputError, match="frame 3 has other atoms than frame 0"):
        judge(calculator, frames, interval_ps=0.01)


def test_a_long_file_says_how_far_it_is(folder, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr("halcyon.commands.watch.EVERY_S", 0.0)
    path = saved(tmp_path / "run.xyz", moving(40))
    main(["watch", str(path), "--model", str(folder), "--frame-interval-fs", "10"])
    lines = capsys.readouterr().err
    assert "10 of 40 frames in " in lines
    assert "40 of 40 frames in " in lines
    assert lines.count(" left") == 40


def stretched(by):
    atoms = molecule("CH3OH")
    atoms.positions[1] += by * (atoms.positions[1] - atoms.positions[0])
    return atoms


def test_of_consecutive_bad_frames_the_worst_is_kept(folder):  # noqa: F811
    """In a domain that calm frames are inside of, and frames with a long bond are not."""
    calm = moving(6, width=0.005)
    model = MonitoredMace(folder)
    nodes = np.array([model.get_property("node_energy", atoms) for atoms in calm])
    tier = {
        symbol: (float(of.min()) - 0.1, float(of.max()) + 0.1)
        for symbol in set(ELEMENTS)
        for of in [nodes[:, [own == symbol for own in ELEMENTS]]]
    }
    domain = Domain(classes={"methanol": ELEMENTS}, label=tier, guard=tier, margin=None, bonds={})
    calculator = MonitoredMace(folder / "model.model", domain)
    order = [calm[0], stretched(0.6), stretched(1.5), calm[1], calm[2], stretched(0.6), calm[3]]
    frames = [Frame(number, atoms, number, None) for number, atoms in enumerate(order)]
    judged = judge(calculator, frames, interval_ps=0.01)
    outside = (judged.frames["outside"] > 0).tolist()
    assert outside == [False, True, True, False, False, True, False]
    worst = judged.frames["worst_score"].to_numpy()
    first = 1 if worst[1] > worst[2] else 2
    assert {atoms.info["frame"] for atoms in judged.worst} == {first, 5}
    few = judge(calculator, frames, interval_ps=0.01, most_worst=1)
    assert [atoms.info["frame"] for atoms in few.worst] == [int(worst.argmax())]


def test_times_of_the_file_are_those_of_lambda(calculator, tmp_path):
    frames = moving(4)
    start = saved(tmp_path / "start.pdb", frames[:1])
    path = saved(tmp_path / "run.xtc", frames, times=True)
    judged = judge(calculator, frames_of(path, topology=start))
    assert judged.interval_ps == pytest.approx(0.02, rel=1e-4)
    assert len(judged.frames) == 4


def test_what_is_refused(calculator, tmp_path):
    frames = moving(3)
    path = saved(tmp_path / "run.xyz", frames)
    with pytest.raises(InputError, match=r"time between frames is not known.*--frame-interval-fs"):
        judge(calculator, frames_of(path))
    with pytest.raises(InputError, match="a single frame has no time between frames"):
        judge(calculator, frames_of(saved(tmp_path / "one.xyz", frames[:1])))
    with pytest.raises(InputError, match=r"none\.xyz: no such file"):
        list(frames_of(tmp_path / "none.xyz"))
    with pytest.raises(InputError, match=r"suffix \.txt: expected one of"):
        list(frames_of(tmp_path / "run.txt"))
    nm = [atoms.copy() for atoms in frames]
    for atoms in nm:
        atoms.positions /= 10
    with pytest.raises(InputError, match="positions in nm"):
        judge(calculator, frames_of(saved(tmp_path / "nm.xyz", nm)), interval_ps=0.01)
    uneven = [
        Frame(n, a, n, time) for n, (a, time) in enumerate(zip(frames, (0, 1, 3), strict=True))
    ]
    with pytest.raises(InputError, match="frames 1 and 2 are 2 ps apart, others 1"):
        judge(calculator, uneven)
    water = [molecule("H2O")]
    with pytest.raises(InputError, match="structures"):
        judge(calculator, frames_of(saved(tmp_path / "w.xyz", water)), interval_ps=0.01)
    dump = tmp_path / "half.lammpstrj"
    dump.write_text(
        "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp ff\n0 5\n0 5\n0 5\n"
        "ITEM: ATOMS id element x y z\n1 O 0 0 0\n"
    )
    with pytest.raises(InputError, match="periodic in some directions only"):
        list(frames_of(dump))
    assert main(["watch", str(path), "--model", str(tmp_path), "--elements", "1"]) == 2


def test_a_periodic_dump_has_its_cell(tmp_path):
    dump = tmp_path / "box.lammpstrj"
    dump.write_text(
        "ITEM: TIMESTEP\n7\nITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n0 5\n0 6\n0 7\n"
        "ITEM: ATOMS id element x y z\n2 H 1 1 1\n1 O 0 0 0\n"
    )
    [frame] = frames_of(dump)
    assert frame.step == 7
    assert list(frame.atoms.symbols) == ["O", "H"]  # by id
    np.testing.assert_allclose(frame.atoms.cell.lengths(), [5, 6, 7])
    assert frame.atoms.pbc.all()
    write(tmp_path / "again.xyz", frame.atoms, format="extxyz")
    [again] = frames_of(tmp_path / "again.xyz")
    np.testing.assert_allclose(again.atoms.cell.array, read(tmp_path / "again.xyz").cell.array)


@pytest.mark.parametrize("limit_A", [None, 1.0])
def test_an_atom_that_leaves_its_site_in_a_crystal_fails_where_it_is_asked(limit_A):
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)[[7, 2, 4, 1, 6, 3, 5, 0]]
    tier = {"Na": (-1.0, 1.0), "Cl": (-1.0, 1.0)}
    domain = Domain(
        classes={"salt": ["Na", "Cl"] * 4}, label=tier, guard=tier, margin=None, bonds={}
    )
    watched = WatchedAtoms(domain, salt, system_kind="solid")
    monitor = watched.failure_monitor(Thresholds(site_distance_A=limit_A))
    salt.positions += 0.8  # the crystal as a whole: it may drift
    assert monitor.check(salt, 0.0, np.zeros((8, 3))) is None
    salt.positions[3, 2] += 1.3  # of which an eighth moves the crystal
    expected = None if limit_A is None else "an atom over 1 Å from its site"
    assert monitor.check(salt, 0.0, np.zeros((8, 3))) == expected
