"""`halcyon new-system` with a crystal or a slab: what it chooses, and what it refuses."""

import shutil

import pytest
import yaml
from ase import Atoms
from ase.build import bulk, fcc100, graphene, molecule
from ase.io import read, write

from conftest import ROOT
from halcyon import config
from halcyon.commands import main
from halcyon.commands.new_system.crystal import is_crystal, propose_crystal
from halcyon.commands.new_system.wish import Wish, parts_of
from halcyon.errors import InputError

CIF = (ROOT / "config/structures/nacl.cif").read_text()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def proposed(atoms, name="start.cif", **wish):
    """The system's file for these atoms, and the notes."""
    write(name, atoms)
    assert is_crystal(name)
    proposal = propose_crystal(Wish("it", name, **wish))
    return yaml.safe_load(proposal.text), proposal


def test_a_salt_is_repeated_until_it_is_wide_enough():
    """Rock salt of 5.64 Å: 8 Å take two cells; the sites are 4a and 4b of Fm-3m."""
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    system, proposal = proposed(salt, "POSCAR")
    ions = {"kind": "forcefield_xml", "files": ["amber14/tip3p.xml"]}
    assert (system["kind"], system["forcefield"]) == ("solid", ions)
    (structure,) = system["structures"]
    assert structure["supercell"] == [2, 2, 2]
    assert "Na0 (32 atoms), Cl0 (32 atoms)" in proposal.notes[0]
    assert "Γ point" in proposal.notes[-1]
    assert 0.7 < proposal.k_spacing_per_A <= 0.8


def test_a_cell_that_is_large_enough_is_left_alone():
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat((2, 2, 2))
    assert "supercell" not in proposed(salt)[0]["structures"][0]


def test_a_box_of_molecules_is_noticed():
    box = molecule("H2O", cell=[3.2] * 3, pbc=True).repeat((3, 3, 3))
    notes = proposed(box, "box.xyz")[1].notes
    assert any("27 molecules or ions" in note and "kind: liquid" in note for note in notes)


def test_an_odd_number_of_electrons_is_a_doublet():
    system, _ = proposed(bulk("Al", "fcc", a=4.05), charge=1)
    (structure,) = system["structures"]
    electrons = 13 * len(bulk("Al").repeat(structure["supercell"])) - 1
    assert structure["multiplicity"] == 1 + electrons % 2


def test_a_metal_has_a_metals_teacher_and_is_told_what_its_labels_need():
    system, proposal = proposed(bulk("Cu", "fcc", a=3.61))
    assert system["forcefield"] == {"kind": "ase", "calculator": "ase.calculators.emt.EMT"}
    assert any("smeared electrons" in note for note in proposal.notes)
    assert proposal.k_spacing_per_A < 0.3
    assert proposal.is_metallic
    assert not proposed(bulk("MgO", "rocksalt", a=4.21))[1].is_metallic


def test_a_vacuum_along_the_third_vector_makes_a_slab():
    slab = fcc100("Cu", (2, 2, 4), vacuum=6.0)
    system, proposal = proposed(slab, "start.xyz")  # periodic in two directions
    (structure,) = system["structures"]
    assert system["kind"] == "slab"
    assert structure["periodic"] is True
    assert structure["supercell"] == [2, 2, 1]
    assert "4 layers, and none is fixed" in proposal.notes[0]
    sheet = proposed(graphene(size=(3, 3, 1), vacuum=8.0), "sheet.xyz")[1]
    assert not any("fixed" in note for note in sheet.notes), "the lowest layer would be all of it"


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (fcc100("Cu", (2, 2, 4), vacuum=6.0), r"12\.0 Å along a: expected none .* Turn the slab"),
        (molecule("H2O", vacuum=6.0), r"Å along a, .* along b, .* along c: .* molecule as SMILES"),
    ],
    ids=["slab", "molecule"],
)
def test_a_vacuum_elsewhere_is_refused(atoms, expected):
    turned = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.array[[2, 0, 1]], pbc=True)
    with pytest.raises(InputError, match=expected):
        proposed(turned)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("Cl Cl 0.5 0.5 0.5 1", "Cl Cl 0.5 0.5 0.5 0.5"), r"occupied by 0\.5 Cl"),
        (
            ("Cl Cl 0.5 0.5 0.5 1", "Cl Cl 0.5 0.5 0.5 0.7\nBr Br 0.5 0.5 0.5 0.3"),
            r"occupied by 0\.7 Cl and 0\.3 Br",
        ),
        (("data_NaCl", "data_NaCl\n_chemical_formula_sum 'H2 Cl1 Na1 O1'"), r"atoms are Cl4Na4"),
        (("data_NaCl", "data_NaCl\n_chemical_formula_sum 'H1 Na1 Cl1'"), r"no hydrogen atoms"),
        (("data_NaCl", "data_NaCl\n_chemical_formula_sum 'K1 Cl1'"), r"formula is K1Cl1, but"),
        (("Na Na", "Xx Xx"), r"unknown element 'Xx'"),
    ],
)
def test_a_file_without_all_atoms_is_refused(tmp_path, change, expected):
    assert change[0] in CIF
    (tmp_path / "bad.cif").write_text(CIF.replace(*change))
    choose = propose_crystal if is_crystal("bad.cif") else parts_of
    with pytest.raises(InputError, match=expected) as caught:
        choose(Wish("bad", "bad.cif"))
    assert "bad.cif" in str(caught.value)


def test_a_formula_that_is_right_is_no_fault(tmp_path):
    text = CIF.replace("data_NaCl", "data_NaCl\n_chemical_formula_sum 'Na1 Cl1'")
    (tmp_path / "good.cif").write_text(text)
    assert propose_crystal(Wish("good", "good.cif")).notes


def test_a_crystal_is_not_packed():
    with pytest.raises(InputError, match=r"is periodic: --liquid"):
        proposed(bulk("Cu"), kind="liquid", count=3)


def test_one_command_writes_a_campaign_that_can_start(tmp_path, capsys):
    shutil.copytree(ROOT / "config", tmp_path / "config")
    write("silicon.cif", bulk("Si", "diamond", a=5.43, cubic=True))
    assert read("silicon.cif").pbc.all()
    assert main.main(["new-system", "silicon.cif", "--name", "silicon", "--campaign", "xtb"]) == 0
    system = config.read_system("config/systems/silicon.yaml")
    assert system.structures[0].supercell == [2, 2, 2]
    assert (tmp_path / "config/silicon.yaml").exists()
    assert not (tmp_path / "config/systems/silicon.svg").exists()
    assert "Si0 (64 atoms)" in capsys.readouterr().out
