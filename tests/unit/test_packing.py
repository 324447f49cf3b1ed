"""Boxes of molecules, packed by the real Packmol."""

import numpy as np
import pytest
from scipy import constants

from halcyon.config import StructureSettings
from halcyon.errors import InputError
from halcyon.systems import packing
from halcyon.systems.packing import packed_bonds, packed_structure
from halcyon.systems.structures import atom_classes

PARTS = {
    "water": StructureSettings(name="water", smiles="O"),
    "methanol": StructureSettings(name="methanol", smiles="CO"),
    "acetate": StructureSettings(name="acetate", smiles="CC(=O)[O-]", charge=-1),
    "O2": StructureSettings(name="O2", smiles="O=O", multiplicity=3),
}


def box(**changes):
    return StructureSettings(
        **({"name": "box", "pack": {"water": 20}, "density_g_per_cm3": 0.9} | changes)
    )


def packed(seed=1, cache=None, **changes):
    return packed_structure(box(**changes), PARTS, seed=seed, cache=cache)


def closest(atoms, sizes):
    """Least distance between atoms of different molecules, Å."""
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    molecule = np.repeat(np.arange(len(sizes)), sizes)
    return distances[molecule[:, None] != molecule[None, :]].min()


@pytest.fixture
def runs(monkeypatch):
    """Inputs of Packmol, as it starts."""
    started = []
    packing._run.cache_clear()
    run = packing.subprocess.run

    def counted(command, **options):
        started.append(command)
        return run(command, **options)

    monkeypatch.setattr(packing.subprocess, "run", counted)
    return started


def test_liquid_has_the_asked_density_and_no_overlaps():
    atoms = packed(pack={"water": 64}, density_g_per_cm3=0.997)
    assert atoms.pbc.all()
    assert str(atoms.symbols[:6]) == "OH2OH2"
    grams = atoms.get_masses().sum() * constants.atomic_mass * 1000
    assert grams / (atoms.get_volume() * 1e-24) == pytest.approx(0.997)
    assert closest(atoms, [3] * 64) > packing.TOLERANCE_A - packing.SLACK_A
    assert atoms.info == {"charge": 0, "multiplicity": 1, "structure": "box"}


def test_molecules_keep_their_shape_and_bonds():
    atoms = packed(pack={"methanol": 3, "water": 5})
    graph = packed_bonds(box(pack={"methanol": 3, "water": 5}), PARTS)
    assert len(graph) == 3 * 5 + 5 * 2
    lengths = [atoms.get_distance(i, j) for i, j in graph]
    assert max(lengths) < 1.5
    # One class for each kind of atom of each kind of molecule, however many there are of it.
    assert len(set(atom_classes(atoms, graph, "symmetry"))) == 4 + 2
    assert set(atom_classes(atoms, graph, "element")) == {"C", "H", "O"}


def test_same_seed_same_box(runs):
    first = packed()
    packing._run.cache_clear()
    np.testing.assert_array_equal(packed().positions, first.positions)
    assert len(runs) == 2
    assert not np.array_equal(packed(seed=2).positions, first.positions)


def test_second_time_packmol_does_not_start(runs, tmp_path):
    first = packed(cache=tmp_path)
    packing._run.cache_clear()
    np.testing.assert_array_equal(packed(cache=tmp_path).positions, first.positions)
    assert len(runs) == 1
    packed(cache=tmp_path, density_g_per_cm3=0.8)
    assert len(runs) == 2


def test_cluster_is_not_periodic_and_centred():
    atoms = packed(periodic=False, box_A=20.0)
    assert not atoms.pbc.any()
    np.testing.assert_array_equal(atoms.cell.lengths(), [20.0] * 3)
    np.testing.assert_allclose(atoms.positions.min(0) + atoms.positions.max(0), 20.0)
    extent = np.ptp(atoms.positions, axis=0)
    assert (extent < packing.edge_A(box(), atoms) + packing.SLACK_A).all()
    assert closest(atoms, [3] * 20) > packing.TOLERANCE_A - packing.SLACK_A


def test_edge_instead_of_density():
    atoms = packed(density_g_per_cm3=None, box_A=12.0)
    assert atoms.pbc.all()
    np.testing.assert_array_equal(atoms.cell.lengths(), [12.0] * 3)


def test_charge_and_spin_of_the_whole():
    atoms = packed(pack={"acetate": 1, "O2": 1, "water": 8}, charge=-1, multiplicity=3)
    assert atoms.info["charge"] == -1
    assert atoms.info["multiplicity"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pack": {"acetate": 2}}, "charge = 0: expected -2, the sum over the molecules"),
        ({"multiplicity": 2}, "multiplicity = 2: H40O20 with charge 0 has 200 electrons"),
        ({"pack": {"methanol": 1}}, "density_g_per_cm3 = 0.9: the cell's edge is 3.9 Å; methanol"),
        (
            {"pack": {"water": 8}, "density_g_per_cm3": 4.0},
            "density_g_per_cm3 = 4.0: Packmol cannot pack 24 atoms into a cube of 3.9 Å",
        ),
        ({"pack": {"water": 8}, "density_g_per_cm3": None, "box_A": 3.6}, "box_A = 3.6: Packmol "),
    ],
)
def test_refused(changes, message):
    with pytest.raises(InputError) as caught:
        packed(**changes)
    assert str(caught.value).startswith("structure box: ")
    assert message in str(caught.value)


def test_no_packmol(monkeypatch, tmp_path):
    packing._run.cache_clear()
    monkeypatch.setattr(packing.shutil, "which", lambda _: None)
    monkeypatch.setattr(packing.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(InputError, match="pip install packmol"):
        packed()


def test_overlaps_that_packmol_leaves_are_seen(monkeypatch):
    packing._run.cache_clear()
    monkeypatch.setattr(packing, "_run", lambda *_: np.random.default_rng(0).random((60, 3)) * 8)
    with pytest.raises(InputError, match="Packmol leaves molecules"):
        packed()
