"""Sets of other tools: their names of energies, forces, charges and spins; what is open is refused.

Each file is written here by hand, so the numbers that are expected stand in it.
"""

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect

from halcyon.config import DatasetLayout, DatasetReference
from halcyon.errors import InputError
from halcyon.frames import write_frames
from halcyon.labels.published import read_set
from halcyon.labels.reference import make_reference
from halcyon.labels.store import level_hash

ONE = "2\n{header} Properties=species:S:1:pos:R:3:{columns}\n{a} 0 0 0 {x}\n{b} 0 0 1.1 {y}\n"
"""Two atoms; OH has 9 electrons, O2 16, and HF 10."""


def xyz(tmp_path, *headers, symbols="FH", columns="forces:R:3", x="1 2 3", y="-1 -2 -3"):
    path = tmp_path / "set.xyz"
    a, b = symbols
    texts = [ONE.format(header=h, columns=columns, a=a, b=b, x=x, y=y) for h in headers]
    path.write_text("".join(texts))
    return path


def frames(path, **layout):
    return list(read_set(path, DatasetLayout(**layout)))


@pytest.mark.parametrize(
    ("header", "layout", "energy"),
    [
        ("energy=-1.5", {}, -1.5),
        ("REF_energy=-2.5", {}, -2.5),
        ("dft_energy=-2.5", {}, -2.5),
        ("free_energy=-2.5", {}, -2.5),
        ("energy=-1.5 free_energy=-1.5 REF_energy=-1.5", {}, -1.5),
        ("energy=-1.5 free_energy=-1.7", {"energy_key": "free_energy"}, -1.7),
        ("energy=-1.5 REF_energy=-2.5", {"energy_key": "energy"}, -1.5),
        ('energy=-1.5 E="0 0 1"', {}, -1.5),  # an electric field
        ("energy=-1.5 Etot=3", {"energy_key": "Etot"}, 3.0),
    ],
)
def test_energies(tmp_path, header, layout, energy):
    (frame,) = frames(xyz(tmp_path, header), **layout)
    assert frame.info["energy"] == energy
    np.testing.assert_array_equal(frame.arrays["forces"], [[1, 2, 3], [-1, -2, -3]])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("energy=-1.5 free_energy=-1.7", r"frame 0: energy = -1\.5, free_energy = -1\.7: which .*"),
        ("energy=-1.5 REF_energy=-2.5", r"energy = -1\.5, REF_energy = -2\.5: which .*energy_key"),
        ("dft_energy=-1.5 REF_energy=-2.5", "which is the label"),
        ("dipole=1", r"no energy; there are .*energy_key"),
        ('energy="low"', r"energy = 'low': expected one number"),
    ],
)
def test_energies_that_are_open_are_refused(tmp_path, header, message):
    with pytest.raises(InputError, match=message) as refused:
        frames(xyz(tmp_path, header))
    assert "set.xyz: frame 0: " in str(refused.value)


TWO_FORCES = {"columns": "forces:R:3:REF_forces:R:3", "x": "1 1 1 2 2 2", "y": "1 1 1 2 2 2"}


def test_forces_go_with_the_name_of_the_energy(tmp_path):
    path = xyz(tmp_path, "energy=-1.5 REF_energy=-2.5", **TWO_FORCES)
    (reference,) = frames(path, energy_key="REF_energy")
    assert (reference.arrays["forces"] == 2).all()
    (plain,) = frames(path, energy_key="energy")
    assert (plain.arrays["forces"] == 1).all()
    (chosen,) = frames(path, energy_key="energy", forces_key="REF_forces")
    assert (chosen.arrays["forces"] == 2).all()


def test_two_forces_that_differ_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"forces and REF_forces differ by up to 1: .*forces_key"):
        frames(xyz(tmp_path, "energy=-1.5", **TWO_FORCES))
    with pytest.raises(InputError, match=r"no forces of the shape \(2, 3\)"):
        frames(xyz(tmp_path, "energy=-1.5", columns="forces:R:1", x="1", y="1"))


@pytest.mark.parametrize(
    ("header", "symbols", "layout", "state"),
    [
        ("energy=0", "FH", {}, (0, 1)),
        ("energy=0 charge=-1", "OH", {}, (-1, 1)),
        ("energy=0 total_charge=-1.0", "OH", {}, (-1, 1)),
        ("energy=0 charge=1 total_charge=-1", "OH", {"charge_key": "total_charge"}, (-1, 1)),
        ("energy=0", "OH", {"charge": -1}, (-1, 1)),
        ("energy=0 charge=0 spin=1", "FH", {}, (0, 1)),  # 2S+1
        ("energy=0 charge=0 spin=2", "OO", {}, (0, 3)),  # 2S
        ("energy=0 charge=0 spin=3", "OO", {}, (0, 3)),  # 2S+1
        ("energy=0 total_charge=0 total_spin=2", "OH", {}, (0, 2)),  # 2S+1
        ("energy=0 spin=1", "OH", {}, (0, 2)),  # 2S
        ("energy=0 spin=1", "OO", {"spin_is": "S"}, (0, 3)),
        ("energy=0 spin=2", "OO", {"charge": 0}, (0, 3)),
        ("energy=0 spin=0", "OH", {"spin_is": "nothing"}, (0, 2)),
        ("energy=0 multiplicity=3", "OO", {}, (0, 3)),
        ("energy=0", "OO", {"multiplicity": 3}, (0, 3)),
    ],
)
def test_charges_and_spins(tmp_path, header, symbols, layout, state):
    (frame,) = frames(xyz(tmp_path, header, symbols=symbols), **layout)
    assert (frame.info["charge"], frame.info["multiplicity"]) == state


@pytest.mark.parametrize(
    ("headers", "symbols", "message"),
    [
        (["energy=0 charge=-0.5"], "OH", r"charge = -0\.5: expected a whole number"),
        (["energy=0 charge=0 total_charge=-1"], "OH", "which is the total charge.*charge_key"),
        (
            ["energy=0 spin=2"],
            "OO",
            r"spin = 2 as 2S\+1 → multiplicity 2, or spin = 2 as 2S → .* 3",
        ),
        (["energy=0 charge=0 spin=0"], "OH", "neither 2S nor"),
        (
            ["energy=0 charge=0 spin=1", "energy=0 charge=0 spin=2"],
            "FH",
            r"frame 1: .*its spin is 2S\+1 in frame 0, 2S in frame 1: .*spin_is",
        ),
        (["energy=0 multiplicity=1 spin=3"], "OO", "which is the spin.*spin_key"),
    ],
)
def test_charges_and_spins_that_are_open_are_refused(tmp_path, headers, symbols, message):
    with pytest.raises(InputError, match=message):
        frames(xyz(tmp_path, *headers, symbols=symbols))


def test_partial_charges_are_not_the_total(tmp_path):
    columns = {"columns": "forces:R:3:charges:R:1", "x": "1 2 3 -1.3", "y": "-1 -2 -3 0.3"}
    path = xyz(tmp_path, "energy=0", symbols="OH", **columns)
    with pytest.raises(InputError, match=r"the column charges adds up to -1\.00 e.*charge: -1"):
        frames(path)
    (anion,) = frames(path, charge=-1)
    assert anion.info == {"charge": -1, "multiplicity": 1, "energy": 0.0}
    (radical,) = frames(path, charge=0)
    assert radical.info["charge"] == 0


NPZ = {
    "Z": np.array([9, 1]),
    "R": np.array([[[0, 0, 0], [0, 0, 1.0]], [[0, 0, 0], [0, 0, 1.1]], [[0, 0, 0], [0, 0, 1.2]]]),
    "F": np.ones((3, 2, 3)),
    "E": np.array([-1.0, -2.0, -3.0]),
}


def test_npz(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, **NPZ, total_charge=np.array([-2, 0, 2]), names=np.array([{}], dtype=object))
    read = frames(path)
    assert [f.info["charge"] for f in read] == [-2, 0, 2]
    assert [f.info["energy"] for f in read] == [-1, -2, -3]


@pytest.mark.parametrize(
    ("arrays", "layout", "message"),
    [
        ({"dft_energy": np.array([-1.0, -2.0, -3.5])}, {}, r"frame 2: E = -3, dft_energy = -3\.5"),
        ({"charges": np.full((3, 2), -0.5)}, {}, r"column charges adds up to -1\.00"),
        ({"q": np.full((3, 2), -0.5)}, {"charge_key": "q"}, r"'q' \(charge_key\): \(3, 2\)"),
        ({"charge": np.array([0, 0.5, 0])}, {}, r"frame 1: charge = 0\.5"),
        ({}, {"spin_key": "S"}, r"no array 'S' \(spin_key\)"),
    ],
)
def test_npz_that_is_open_is_refused(tmp_path, arrays, layout, message):
    np.savez(tmp_path / "set.npz", **NPZ, **arrays)
    with pytest.raises(InputError, match=message):
        frames(tmp_path / "set.npz", **layout)


def test_nuclear_charges_are_no_partial_charges(tmp_path):
    np.savez(tmp_path / "set.npz", **NPZ, charges=np.array([[9, 1]] * 3))
    assert [f.info["charge"] for f in frames(tmp_path / "set.npz")] == [0, 0, 0]


def test_databases_and_parquet(tmp_path):
    (frame,) = frames(xyz(tmp_path, "energy=-1.5 charge=-1", symbols="OH"))
    write_frames(tmp_path / "set.parquet", [frame])
    (of_parquet,) = frames(tmp_path / "set.parquet")
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = Atoms(frame.numbers, positions=frame.positions)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=frame.arrays["forces"])
    with connect(tmp_path / "set.db") as database:
        database.write(atoms, total_charge=-1)
    (of_database,) = frames(tmp_path / "set.db")
    for read in (of_parquet, of_database):
        assert read.info == {"charge": -1, "multiplicity": 1, "energy": -1.5}
        np.testing.assert_allclose(read.positions, frame.positions)
        np.testing.assert_array_equal(read.arrays["forces"], frame.arrays["forces"])
    (tmp_path / "bad.db").write_text("no database")
    with pytest.raises(InputError, match="not a readable ASE database"):
        frames(tmp_path / "bad.db")


def test_new_keys_leave_the_level_of_before_as_it_was(tmp_path):
    path = xyz(tmp_path, "energy=-1.5")

    def level(**layout):
        return make_reference(DatasetReference(backend="dataset", files=[path], **layout)).level

    layout = level()["layout"]
    # As the release before wrote it down.
    assert {*layout} == {
        "numbers_key",
        "positions_key",
        "energy_key",
        "forces_key",
        "energy_unit",
        "positions_unit",
        "forces_unit",
        "charge",
        "multiplicity",
    }
    assert level_hash(level(spin_is="2S")) != level_hash(level())
