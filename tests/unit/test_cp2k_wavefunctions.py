"""Orbitals that start an SCF: chosen, turned, kept in bounds. Nothing here starts CP2K."""

import struct

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from scipy.io import FortranFile
from scipy.spatial.transform import Rotation

from halcyon.labels.reference.cp2k import wavefunctions
from halcyon.labels.reference.cp2k.wavefunctions import (
    Wavefunctions,
    difference,
    harmonics_turned,
    nearest_first,
    rotations,
    turned,
)

TURN = Rotation.from_rotvec([0.4, -1.3, 0.8]).as_matrix()


def with_spin(atoms, charge=0, multiplicity=1):
    atoms.info = {"charge": charge, "multiplicity": multiplicity}
    return atoms


def ethanol():
    return with_spin(molecule("CH3CH2OH", cell=[9.0] * 3))


def twisted(angle):
    atoms = ethanol()  # atoms 1 and 0 are carbon
    bonded = [i for i in range(len(atoms)) if atoms.get_distance(0, i) < 1.2 and i != 0]
    atoms.rotate(angle, atoms.positions[0] - atoms.positions[1], center=atoms.positions[0])
    turned_back = ethanol()
    turned_back.positions[bonded] = atoms.positions[bonded]
    return turned_back


def write_orbitals(path, shells, coefficients):
    """A file as CP2K writes it: functions per shell of each atom, a column per orbital."""
    atoms, most = len(shells), max(map(len, shells))
    padded = np.zeros((atoms, 1, most), np.int32)
    for atom, sizes in enumerate(shells):
        padded[atom, 0, : len(sizes)] = sizes
    functions, orbitals = coefficients.shape
    with FortranFile(path, "w") as target:
        target.write_record(np.array([atoms, 1, functions, 1, most], np.int32))
        target.write_record(np.ones(atoms, np.int32))
        target.write_record(np.array([len(sizes) for sizes in shells], np.int32))
        target.write_record(padded)
        target.write_record(np.array([orbitals, orbitals, orbitals, 2 * orbitals], np.int32))
        target.write_record(np.zeros(2 * orbitals))
        for column in coefficients.T:
            target.write_record(column)


def read_orbitals(path, orbitals):
    with FortranFile(path) as source:
        for _ in range(4):
            source.read_ints(np.int32)
        source.read_ints(np.int32)
        source.read_reals(float)
        return np.array([source.read_reals(float) for _ in range(orbitals)]).T


def test_p_functions_turn_like_vectors_in_the_order_y_z_x():
    order = [1, 2, 0]
    assert np.allclose(harmonics_turned(1, TURN), TURN[np.ix_(order, order)], atol=1e-12)


def test_d_functions_turn_like_quadratic_forms():
    # Each real d function as a symmetric, traceless matrix q with d(x) = x q x, m from -2 to 2,
    # all of one norm: the rotation turns q into R q R^T.
    def form(*entries):
        q = np.zeros((3, 3))
        for i, j, value in entries:
            q[i, j] = q[j, i] = value
        return q

    half = 1 / np.sqrt(2)
    forms = [
        form((0, 1, half)),
        form((1, 2, half)),
        form((0, 0, -1), (1, 1, -1), (2, 2, 2)) / np.sqrt(6),
        form((0, 2, half)),
        form((0, 0, half), (1, 1, -half)),
    ]
    expected = [[np.sum(a * (TURN @ b @ TURN.T)) for b in forms] for a in forms]
    assert np.allclose(harmonics_turned(2, TURN), expected, atol=1e-12)


def test_orbitals_of_a_turned_molecule_are_the_turned_orbitals(tmp_path):
    rng = np.random.default_rng(3)
    coefficients = rng.normal(size=(1 + 3 + 5 + 1 + 3, 2))
    write_orbitals(tmp_path / "a.wfn", [[1, 3, 5], [1, 3]], coefficients)
    content = (tmp_path / "a.wfn").read_bytes()
    (tmp_path / "b.wfn").write_bytes(turned(content, np.array([TURN, np.eye(3)])))
    turned_coefficients = read_orbitals(tmp_path / "b.wfn", 2)
    assert np.allclose(turned_coefficients[0], coefficients[0])  # s
    order = [1, 2, 0]
    assert np.allclose(turned_coefficients[1:4], TURN[np.ix_(order, order)] @ coefficients[1:4])
    assert np.allclose(
        np.linalg.norm(turned_coefficients[4:9], axis=0), np.linalg.norm(coefficients[4:9], axis=0)
    )
    assert not np.allclose(turned_coefficients[4:9], coefficients[4:9])
    assert np.allclose(turned_coefficients[9:], coefficients[9:])  # of the atom that is not turned


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1],
        lambda content: content[:60],
        lambda _content: b"",
        lambda content: struct.pack("<i", 20) + bytes(20) + struct.pack("<i", 20) + content,
        lambda content: b"garbage" * 100 + content,
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, spoil):
    write_orbitals(tmp_path / "a.wfn", [[1, 3], [1]], np.ones((5, 1)))
    content = (tmp_path / "a.wfn").read_bytes()
    turned(content, np.array([TURN, TURN]))
    with pytest.raises(ValueError, match=r"incomplete|not a|atoms|missing|spherical"):
        turned(spoil(content), np.array([TURN, TURN]))


def test_every_atom_of_a_rigid_molecule_turns_alike():
    moved = ethanol()
    moved.positions = moved.positions @ TURN.T + [1, 2, 3]
    assert difference(ethanol(), moved) < 1e-6
    assert np.allclose(rotations(ethanol(), moved), TURN, atol=1e-6)


def test_atoms_of_a_turned_methyl_group_turn_with_it():
    other = twisted(60)
    assert difference(ethanol(), other) < 0.15
    turns = rotations(ethanol(), other)
    angles = np.degrees([Rotation.from_matrix(turn).magnitude() for turn in turns])
    oxygen = ethanol().get_chemical_symbols().index("O")
    carbon = 0
    methyl = [i for i in range(9) if i != carbon and ethanol().get_distance(carbon, i) < 1.2]
    assert angles[oxygen] < 5
    assert all(angles[methyl] > 40)


def test_orientation_counts_in_a_periodic_cell_but_not_the_image():
    first, second = ethanol(), ethanol()
    first.pbc = second.pbc = True
    second.positions[3] += [9.0, 0, -9.0]
    assert difference(first, second) < 1e-9
    second.positions = second.positions @ TURN.T
    assert difference(first, second) > 0.5


def test_order_is_that_of_the_shortest_tree():
    # On a line the tree is the line: from the first frame outwards, nearest first.
    stretched = []
    for length in (0.70, 0.95, 0.72, 0.80, 0.60):
        atoms = with_spin(Atoms("H2", [[0, 0, 0], [0, 0, length]], cell=[6.0] * 3))
        stretched.append(atoms)
    assert nearest_first(stretched) == [0, 2, 3, 4, 1]
    assert nearest_first([]) == []


def test_order_is_a_permutation_where_frames_cannot_be_compared():
    frames = [ethanol(), with_spin(molecule("H2O", cell=[9.0] * 3)), ethanol(), ethanol()]
    frames[3].info["charge"] = 1
    frames.append(ethanol())
    frames[4].positions[0] = np.nan  # the label stage will reject it
    assert sorted(nearest_first(frames)) == [0, 1, 2, 3, 4]
    assert nearest_first(frames)[:2] == [0, 2]


@pytest.fixture
def orbitals(tmp_path):
    def write(shift=0.0):
        path = tmp_path / "frame-RESTART.wfn"
        write_orbitals(path, [[1, 3], [1], [1]], np.arange(6.0)[:, None] + shift)
        return path

    return write


def water(shift=0.0):
    atoms = with_spin(molecule("H2O", cell=[7.0] * 3))
    atoms.positions[1, 1] += shift
    return atoms


def test_the_nearest_frame_is_the_guess_also_after_a_kill(tmp_path, orbitals):
    known = Wavefunctions(tmp_path / "kept")
    assert not known.guess(water(), tmp_path / "guess")
    known.add("far", water(0.3), orbitals(100))
    known.add("near", water(0.05), orbitals(0))
    for store in (known, Wavefunctions(tmp_path / "kept")):
        assert store.guess(water(), tmp_path / "guess")
        assert read_orbitals(tmp_path / "guess", 1)[0, 0] == 0.0
    for other in (with_spin(water(), multiplicity=3), with_spin(water(), 1), ethanol()):
        assert not known.guess(other, tmp_path / "guess")
    known.clear()
    assert list((tmp_path / "kept").iterdir()) == []


def test_torn_orbitals_are_no_guess(tmp_path, orbitals):
    known = Wavefunctions(tmp_path / "kept")
    known.add("one", water(), orbitals())
    kept = tmp_path / "kept" / "one.wfn"
    kept.write_bytes(kept.read_bytes()[:-9])
    assert not known.guess(water(), tmp_path / "guess")
    assert not (tmp_path / "guess").exists()
    assert not kept.exists()


def test_only_so_many_are_kept(tmp_path, orbitals, monkeypatch):
    monkeypatch.setattr(wavefunctions, "KEPT", 3)
    known = Wavefunctions(tmp_path / "kept")
    for number in range(5):
        known.add(f"frame{number}", water(0.01 * number), orbitals(number))
    assert sorted(path.stem for path in (tmp_path / "kept").glob("*.wfn")) == [
        "frame2",
        "frame3",
        "frame4",
    ]
    assert len(list((tmp_path / "kept").iterdir())) == 6
    monkeypatch.setattr(wavefunctions, "KEPT_BYTES", 1)
    known.add("last", water(), orbitals())
    assert [path.stem for path in (tmp_path / "kept").glob("*.wfn")] == ["last"]


def test_orbitals_that_cannot_be_kept_cost_a_guess_and_no_label(tmp_path):
    known = Wavefunctions(tmp_path / "kept")
    known.add("lost", water(), tmp_path / "nowhere.wfn")
    assert not known.guess(water(), tmp_path / "guess")
    assert list((tmp_path / "kept").iterdir()) == []
