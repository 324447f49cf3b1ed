from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from halcyon.campaign.campaign import SystemPlan
from halcyon.config import Settings, StructureSettings, read_system
from halcyon.errors import InputError
from halcyon.systems.structures import atom_classes, bonds, start_structure

SYSTEMS = sorted((Path(__file__).parents[2] / "config/systems").glob("*.yaml"))

PERIODIC = '2\nLattice="5 0 0 0 5 0 0 0 5" pbc="{pbc}"\nO 0 0 {z}\nH 0 0 4.9\n'


def settings(**changes):
    return StructureSettings(**({"name": "it"} | changes))


def written(tmp_path, text, name="start.xyz"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_shipped_systems_start(path, monkeypatch):
    monkeypatch.chdir(path.parents[2])
    system = read_system(path)
    plan = SystemPlan(system, Settings(), seed=1)
    for name in plan.structures:
        assert len(plan.start(name)) > 1
        assert plan.bonds(name)


def test_smiles_is_reproducible_centred_and_labelled():
    asked = settings(smiles="CCO", box_A=9.0)
    atoms = start_structure(asked)
    assert atoms.info == {"charge": 0, "multiplicity": 1, "structure": "it"}
    assert atoms.get_chemical_formula() == "C2H6O"
    assert not atoms.pbc.any()
    np.testing.assert_array_equal(atoms.cell.lengths(), [9.0, 9.0, 9.0])
    np.testing.assert_allclose(atoms.positions.min(0) + atoms.positions.max(0), 9.0)
    np.testing.assert_array_equal(atoms.positions, start_structure(asked).positions)


@pytest.mark.parametrize(
    ("smiles", "length"), [("N#N", 1.098), ("O=C=O", 1.162), ("O=S=O", 1.431), ("CC", 1.53)]
)
def test_first_bond_is_near_the_observed_one(smiles, length):
    atoms = start_structure(settings(smiles=smiles))
    assert atoms.get_distance(0, 1) == pytest.approx(length, abs=0.1)


def test_ions_and_radicals():
    assert start_structure(settings(smiles="CC(=O)[O-]", charge=-1)).info["charge"] == -1
    assert start_structure(settings(smiles="[OH]", multiplicity=2)).info["multiplicity"] == 2


def test_file_keeps_its_cell(tmp_path):
    asked = settings(file=written(tmp_path, PERIODIC.format(pbc="T T T", z=0.9)), multiplicity=2)
    atoms = start_structure(asked)
    assert atoms.pbc.all()
    np.testing.assert_array_equal(atoms.cell.lengths(), [5.0, 5.0, 5.0])
    assert bonds(asked, atoms) == [(0, 1)]  # 1.0 Å, over the boundary


def test_perceived_bonds_are_those_of_the_smiles(tmp_path):
    by_smiles = settings(smiles="CC(=O)O")
    atoms = start_structure(by_smiles)
    atoms.write(tmp_path / "acid.xyz")
    by_file = settings(file=tmp_path / "acid.xyz")
    assert bonds(by_file, start_structure(by_file)) == bonds(by_smiles, atoms)


def test_symmetry_classes():
    asked = settings(name="ethanol", smiles="CCO")
    atoms = start_structure(asked)
    names = atom_classes(atoms, bonds(asked, atoms), "symmetry")
    hydrogens = ["H0", "H0", "H0", "H1", "H1", "H2"]
    assert names == [f"ethanol:{name}" for name in ["C0", "C1", "O0", *hydrogens]]


@pytest.mark.parametrize(
    ("smiles", "charge", "classes"), [("c1ccccc1", 0, 2), ("CC(=O)[O-]", -1, 4), ("CCC", 0, 4)]
)
def test_number_of_symmetry_classes(smiles, charge, classes):
    asked = settings(smiles=smiles, charge=charge)
    atoms = start_structure(asked)
    assert len(set(atom_classes(atoms, bonds(asked, atoms), "symmetry"))) == classes


def test_equal_molecules_share_classes():
    water = start_structure(settings(smiles="O"))
    pair = Atoms(water)
    pair.extend(Atoms(water.numbers, positions=water.positions + 3.0))
    pair.info["structure"] = "pair"
    names = atom_classes(pair, [(0, 1), (0, 2), (3, 4), (3, 5)], "symmetry")
    assert set(names) == {"pair:O0", "pair:H0"}


def test_element_classes():
    atoms = start_structure(settings(smiles="O"))
    assert atom_classes(atoms, [], "element") == ["O", "H", "H"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"smiles": "CCQ"}, "structure it: smiles = 'CCQ': not valid SMILES"),
        ({"smiles": "[Xx]"}, "structure it: smiles = '[Xx]': not valid SMILES"),
        ({"smiles": "C(C)(C)(C)(C)C"}, "not a possible molecule"),
        ({"smiles": "C*"}, "without an element"),
        ({"smiles": "O.O"}, "several molecules; give each its own structure"),
        ({"smiles": "CC", "charge": 1}, "structure it: charge = 1: expected 0, the sum of the"),
        (
            {"smiles": "[OH]"},
            "multiplicity = 1: HO with charge 0 has 9 electrons; expected an even",
        ),
        ({"smiles": "O", "multiplicity": 2}, "has 10 electrons; expected an odd multiplicity"),
        ({"smiles": "[H]", "multiplicity": 4}, "of at most 2"),
        ({"smiles": "CCO", "box_A": 4.0}, "box_A = 4.0: expected at least 6."),
        ({"file": "none.xyz"}, "file = 'none.xyz': no such file"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(InputError) as caught:
        start_structure(settings(**changes))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3\n\nH 0 0 0\n", "ASE cannot read it"),
        ("", "ASE cannot read it"),
        ("1\n\nXx 0 0 0\n", "unknown element 'Xx'"),
        ("1\n\nX 0 0 0\n", "unknown element 'X'"),
        ("1\n\nO nan 0 0\n", "finite positions"),
        ("1\n\nO 0 0 0\n1\n\nO 0 0 0\n", "holds 2 structures, expected one"),
        (PERIODIC.format(pbc="T T F", z=0.9), "[True, True, False]); expected all or none"),
        (PERIODIC.format(pbc="T T T", z=0.1), "O0 and H1 overlap: 0.20 Å apart, expected at least"),
    ],
)
def test_refused_file(tmp_path, content, message):
    asked = settings(file=written(tmp_path, content), multiplicity=2 if "Lattice" in content else 1)
    with pytest.raises(InputError) as caught:
        start_structure(asked)
    assert str(caught.value).startswith(f"structure it: file = '{tmp_path}/start.xyz': ")
    assert message in str(caught.value)


def test_box_is_not_for_periodic_files(tmp_path):
    file = written(tmp_path, PERIODIC.format(pbc="T T T", z=0.9))
    with pytest.raises(InputError, match=r"box_A = 9\.0: not possible: .* is periodic"):
        start_structure(settings(file=file, multiplicity=2, box_A=9.0))
