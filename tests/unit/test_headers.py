"""Charge, spin and isotopes in people's own structure files: kept or refused, never passed over."""

import pytest
from ase import Atoms
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from halcyon.config import StructureSettings
from halcyon.errors import InputError
from halcyon.systems.headers import charge_of, spin_of
from halcyon.systems.structures import start_structure

WATER = "3\n{}\nO 0 0 0\nH 0 0 0.96\nH 0 0.92 -0.24\n"
COLUMN = "3\nProperties=species:S:1:pos:R:3:{}:R:1\nO 0 0 0 {}\nH 0 0 0.96 {}\nH 0 0.92 -0.24 {}\n"


def started(tmp_path, text, name="start.xyz", **given):
    path = tmp_path / name
    path.write_text(text)
    return start_structure(StructureSettings(name="it", file=path, **given))


def mol_block(smiles):
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(molecule, randomSeed=1)
    return Chem.MolToMolBlock(molecule) + "$$$$\n"


@pytest.mark.parametrize(
    ("header", "charge"),
    [
        ({}, None),
        ({"charge": -2}, -2),
        ({"total_charge": "+1"}, 1),
        ({"Charge": -0.9999}, -1),
        ({"charge": 1, "total_charge": 1.0}, 1),
    ],
)
def test_total_charges(header, charge):
    assert charge_of(header) == charge


def test_the_entry_that_is_named_counts():
    assert charge_of({"charge": 0, "total_charge": -1}, "total_charge") == -1
    assert spin_of({"spin": 1, "S": 1}, 10, "S", "S").multiplicity == 3


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"charge": 0.4}, r"charge = 0\.4: expected a whole number.*charge_key"),
        ({"charge": True}, "charge stands without a value"),
        ({"charge": [0.1, -0.1]}, "expected one number"),
        ({"charge": float("nan")}, "finite"),
        ({"charge": 0, "total_charge": -1}, r"charge = 0, total_charge = -1: which .*charge_key"),
    ],
)
def test_what_is_no_total_charge_is_refused(header, message):
    with pytest.raises(InputError, match=message):
        charge_of(header)


@pytest.mark.parametrize(
    ("header", "electrons", "multiplicity", "reading"),
    [
        # 2S has the parity of the number of electrons, 2S+1 the other one.
        ({"spin": 1}, 10, 1, "2S+1"),
        ({"spin": 0}, 10, 1, "2S"),
        ({"spin": 2}, 16, 3, "2S"),
        ({"spin": 3}, 16, 3, "2S+1"),
        ({"spin": 1}, 9, 2, "2S"),
        ({"total_spin": 2.0}, 9, 2, "2S+1"),
        ({"total_spin": 0.5}, 9, 2, "S"),
        ({"multiplicity": 3}, 16, 3, "2S+1"),
        ({"mult": 1}, 10, 1, "2S+1"),
        ({"uhf": 2}, 16, 3, "2S"),
        ({"multiplicity": 3, "spin": 2}, 16, 3, "2S+1"),
    ],
)
def test_spins(header, electrons, multiplicity, reading):
    spin = spin_of(header, electrons)
    assert (spin.multiplicity, spin.reading) == (multiplicity, reading)
    assert spin.by_parity == (
        reading != "S" and not header.keys() & {"multiplicity", "mult", "uhf"}
    )


@pytest.mark.parametrize(
    ("header", "electrons", "message"),
    [
        ({"spin": 0}, 9, "neither 2S nor 2S\\+1 of 9 electrons.*charge"),
        ({"spin": 0.5}, 10, "no possible spin of 10 electrons"),
        ({"spin": -1}, 9, "neither"),
        ({"spin": "singlet"}, 10, "expected one number"),
        ({"multiplicity": 1, "spin": 3}, 16, r"multiplicity as 2S\+1 → 2S\+1 = 1, spin as .* = 3"),
    ],
)
def test_what_is_no_spin_is_refused(header, electrons, message):
    with pytest.raises(InputError, match=message):
        spin_of(header, electrons)


@pytest.mark.parametrize(
    ("comment", "given", "message"),
    [
        (
            "charge=-2",
            {},
            r"charge = 0: the default, but the header .* says -2: write `charge: -2`",
        ),
        ("charge=-2", {"charge": 0}, "charge = 0: given, but the header"),
        ("total_charge=-2.0", {}, "says -2"),
        ("charge=0.4", {}, "its header: charge = 0.4: expected a whole number"),
        ("multiplicity=3", {}, "multiplicity = 1: the default, .* multiplicity = 3 as 2S"),
        ("charge=0 spin=2", {}, "spin = 2 as 2S → multiplicity 3"),
        ("spin=2", {"multiplicity": 1}, "multiplicity = 1: given, but .* spin = 2 as 2S"),
    ],
)
def test_a_header_is_not_overruled(tmp_path, comment, given, message):
    with pytest.raises(InputError, match=message):
        started(tmp_path, WATER.format(comment), **given)


@pytest.mark.parametrize(
    ("comment", "given"),
    [
        ("charge=-2", {"charge": -2}),
        ("charge=0 spin=1", {}),
        ("spin=0", {}),
        ("spin=2", {"multiplicity": 3}),
        ("spin=1", {"multiplicity": 3}),  # S = 1, which only the user knows
        ("multiplicity=3", {"multiplicity": 1, "multiplicities": [1, 3]}),
    ],
)
def test_a_header_that_agrees(tmp_path, comment, given):
    atoms = started(tmp_path, WATER.format(comment), **given)
    assert atoms.info["charge"] == given.get("charge", 0)
    assert atoms.info["multiplicity"] == given.get("multiplicity", 1)


def test_partial_charges_that_add_up_to_an_ion(tmp_path):
    anion = COLUMN.format("charges", -1.8, 0.4, 0.4)
    with pytest.raises(InputError, match=r"the column charges .* adds up to -1\.00"):
        started(tmp_path, anion)
    assert started(tmp_path, anion, charge=0).info["charge"] == 0
    assert started(tmp_path, COLUMN.format("charges", -0.8, 0.4, 0.4)).info["charge"] == 0
    assert started(tmp_path, COLUMN.format("charges", 8, 1, 1)).info["charge"] == 0


def test_formal_charges_of_an_sdf(tmp_path):
    oxalate = mol_block("C(=O)(C(=O)[O-])[O-]")
    with pytest.raises(InputError, match="says -2: write `charge: -2`"):
        started(tmp_path, oxalate, "start.sdf")
    assert started(tmp_path, oxalate, "start.sdf", charge=-2).info["charge"] == -2


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (COLUMN.format("masses", 15.999, 2.014, 1.008), "a.xyz", r"H \(atom 1, 2\.014 u\)"),
        (COLUMN.format("mass", 17.999, 1, 1), "a.xyz", r"O \(atom 0, 17\.999 u\)"),
        (WATER.replace("H", "D").format(""), "a.xyz", "D is deuterium"),
        (mol_block("[2H]O"), "a.sdf", r"2H \(atom 0\)"),
        (mol_block("[2H]O"), "a.mol", r"2H \(atom 0\)"),
    ],
)
def test_isotopes_of_a_file_are_refused(tmp_path, text, name, message):
    with pytest.raises(InputError, match=message) as refused:
        started(tmp_path, text, name)
    assert str(tmp_path / name) in str(refused.value)
    assert "masses" in str(refused.value)


def test_a_cif_with_deuterium_is_refused(tmp_path):
    water = Atoms("OH2", [(2, 2, 2), (2, 2, 2.96), (2, 2.92, 1.76)], cell=[5, 5, 5], pbc=True)
    water.write(tmp_path / "ice.cif")
    text = (tmp_path / "ice.cif").read_text()
    assert started(tmp_path, text, "ice.cif").get_chemical_formula() == "H2O"
    with pytest.raises(InputError, match=r"H \(atom 1, 2\.01355 u\)"):
        started(tmp_path, text.replace("  H  ", "  D  "), "heavy.cif")


@pytest.mark.parametrize(("smiles", "isotope"), [("[2H]O[2H]", "2H"), ("[13CH4]", "13C")])
def test_isotopes_of_a_smiles_are_refused(smiles, isotope):
    with pytest.raises(InputError, match=rf"structure it: smiles = .*{isotope} \(atom 0\)"):
        start_structure(StructureSettings(name="it", smiles=smiles))


def test_masses_in_another_rounding_are_taken(tmp_path):
    assert len(started(tmp_path, COLUMN.format("masses", 16, 1, 1))) == 3
