"""`halcyon new-system`: what it chooses, what it refuses, and that what it writes runs."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.build import molecule as ase_molecule
from rdkit import Chem

from conftest import ROOT
from halcyon import config
from halcyon.commands import main
from halcyon.commands.new_system import proposal
from halcyon.commands.new_system.campaign_file import campaign_text
from halcyon.commands.new_system.wish import Wish, parts_of
from halcyon.systems import drawing, guesses

PYSCF = ["--campaign", "pyscf"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new(*words: str) -> int:
    try:
        return main.main(["new-system", *words])
    except SystemExit as left:  # argparse's own
        return left.code


def written(name: str) -> config.System:
    return config.read_system(f"config/systems/{name}.yaml")


def molecule(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


# Densities measured near 298 K (CRC Handbook), to which the method promises some 10 %.
@pytest.mark.parametrize(
    ("smiles", "measured"),
    [("O", 0.997), ("CCO", 0.785), ("CC(=O)O", 1.044), ("c1ccccc1", 0.877), ("CS(C)=O", 1.095)],
)
def test_density_is_near_the_measured_one(smiles, measured):
    guessed = guesses.liquid_density({"it": molecule(smiles)}, {"it": 3})
    assert guessed == pytest.approx(measured, rel=0.1)


def test_mixture_adds_volumes():
    both = {"a": molecule("CCO"), "b": molecule("O")}
    alone = [guesses.liquid_density({n: m}, {n: 1}) for n, m in both.items()]
    masses = [46.069 * 2, 18.015 * 3]  # g/mol, from tables
    by_hand = sum(masses) / sum(m / d for m, d in zip(masses, alone, strict=True))
    assert guesses.liquid_density(both, {"a": 2, "b": 3}) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize(
    ("smiles", "unpaired"),
    [("CCO", 0), ("[OH]", 1), ("O=O", 2), ("[O]", 2), ("C[CH2]", 1), ("[Na+]", 0), ("[Cu+2]", 1)],
)
def test_unpaired_electrons(smiles, unpaired):
    assert guesses.unpaired_electrons(molecule(smiles))[0] == unpaired


def test_metal_is_to_be_checked():
    assert "check" in guesses.unpaired_electrons(molecule("[Fe+2]"))[1]


def test_drawing_numbers_atoms_as_frames_do():
    lines = drawing.text(molecule("CC(=O)O"))
    assert all(label in lines for label in ("C0", "C1", "O2", "O3"))
    assert "H" not in lines
    assert "=" in lines
    assert drawing.svg({"acid": molecule("CC(=O)O")}).count("<svg") == 1


def test_molecule(here, capsys):
    assert new("CC(=O)O", "--name", "acetic_acid", "--campaign", "xtb") == 0
    system = written("acetic_acid")
    (structure,) = system.structures
    assert (system.kind, system.forcefield.kind) == ("molecule", "gaff2")
    assert (structure.charge, structure.multiplicity) == (0, 1)
    # Longest distance in the acid 4.0 Å (H of the methyl to the acid's), 3 Å on each side.
    assert structure.box_A == 10.0
    said = capsys.readouterr().out
    assert "acetic_acid:H0" in said
    assert "snakemake --configfile config/acetic_acid.yaml" in said
    campaign = config.parse_campaign(config.read_yaml("config/acetic_acid.yaml"), "it")
    assert campaign.certificate.time_ps == 50  # xTB is for trying out
    assert campaign.systems == ["acetic_acid"]
    assert campaign.model.preset == "quick"
    assert (here / "config/systems/acetic_acid.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("backend", "n_atoms", "device", "preset"),
    [
        ("xtb", 9, "cpu", "quick"),
        ("cp2k", 9, "cpu", "standard"),
        ("pyscf", 9, "cpu", "standard"),
        ("cp2k", 192, "cpu", "quick"),
        ("cp2k", 192, "cuda", "large"),
    ],
)
def test_size_and_device_choose_the_model(backend, n_atoms, device, preset):
    text = campaign_text("thing", backend, n_atoms=n_atoms, device=device)
    assert yaml.safe_load(text)["model"] == {"preset": preset}
    assert f"{n_atoms} atoms on a" in text or backend == "xtb"


def test_labels_from_pyscf(here, capsys):
    assert new("C[CH2]", "--name", "ethyl", "--campaign", "pyscf") == 0
    campaign = config.parse_campaign(config.read_yaml("config/ethyl.yaml"), "it")
    level = Path("config/pyscf/pbe-d3bj-def2-svp.yaml")
    assert (campaign.reference.backend, campaign.reference.level) == ("pyscf", level)
    assert campaign.certificate.time_ps == 1000
    (structure,) = written("ethyl").structures
    assert structure.multiplicity == 2
    assert "halcyon plan --configfile config/ethyl.yaml" in capsys.readouterr().out
    own = (here / level).read_text().replace("basis: def2-svp", "basis: def2-tzvp")
    (here / "own.yaml").write_text(own)
    assert new("O", "--name", "it", "--campaign", "pyscf", "--level", "own.yaml") == 0
    assert config.read_yaml("config/it.yaml")["reference"]["level"] == "own.yaml"


def test_nothing_is_written_over(here, capsys):
    assert new("CO", "--name", "methanol") == 2
    assert "config/systems/methanol.yaml: exists already" in capsys.readouterr().err
    assert "small-molecules.xml" in (here / "config/systems/methanol.yaml").read_text()
    assert new("CO", "--name", "methanol", "--force") == 0
    assert written("methanol").forcefield.kind == "gaff2"


def test_ion_in_water(here):
    del here
    assert new("[Na+]", "--name", "sodium", "--in-water", "10") == 0
    system = written("sodium")
    box, ion, water, shell = system.structures
    assert [str(path) for path in system.forcefield.files] == ["amber14/tip3p.xml"]
    assert box.pack == {"sodium": 1, "water": 10}
    assert (box.charge, ion.charge, shell.charge) == (1, 1, 1)
    assert (box.explore, ion.explore, water.explore, shell.explore) == (True, False, False, False)
    assert shell.pretrain
    # Density of 10 waters and a sodium, by hand: (180.15 + 22.99) u; Girolami's volumes
    # 4/1.1 for water (hydroxyl), 4 for Na.
    by_hand = (180.15 + 22.99) / (5 * (10 * 4 / 1.1 + 4))
    assert math.isclose(box.density_g_per_cm3, by_hand, rel_tol=1e-3)


def test_ions_alone_get_a_neutral_cluster(here):
    del here
    assert new("[Na+]", "--name", "sodium", "--liquid", "4", "--with", "CC(=O)[O-]:4:acetate") == 0
    shell = written("sodium").structures[-1]
    assert shell.name == "sodium-shell"
    assert shell.pack == {"sodium": 4, "acetate": 4}
    assert shell.charge == 0


def part(name, charge, atoms, count=4):
    return SimpleNamespace(
        name=name, count=count, atoms=[None] * atoms, settings=SimpleNamespace(charge=charge)
    )


@pytest.mark.parametrize(
    ("others", "pack"),
    [
        ([("nitrate", -1, 4)], {"ion": 2, "nitrate": 4}),  # Mg(NO3)2: 2 · (+2) + 4 · (−1)
        ([("phosphate", -3, 5)], {"ion": 3, "phosphate": 2}),
        ([("nitrate", -1, 4), ("water", 0, 3)], {"ion": 1, "water": 6}),
        ([("ammonium", 1, 5)], {}),
        ([("chloride", -1, 1)], {}),
    ],
)
def test_a_cluster_is_neutral_or_solvated(others, pack):
    ion = part("ion", 2, 1)
    assert proposal._cluster(ion, [ion, *(part(*other) for other in others)]) == pack


def test_organic_ion_in_water_gets_templates_beside_waters(here):
    assert new("CC(=O)[O-]", "--name", "acetate", "--in-water", "12", "--with", "[Na+]:1") == 0
    system = written("acetate")
    made, water = map(str, system.forcefield.files)
    assert (made, water) == ("config/forcefields/acetate-acetate.xml", "amber14/tip3p.xml")
    assert (here / made).exists()
    assert system.structures[0].charge == 0


def test_charges_of_a_box_are_counted_as_often_as_their_ions(here):
    del here
    assert new("[Mg+2]", "--name", "salt", "--in-water", "10", "--with", "[Cl-]:2") == 0
    assert written("salt").structures[0].charge == 0  # +2 and twice -1


def test_charge_and_spin_of_a_structure_file_are_what_is_asked_for(tmp_path):
    formate = ase_molecule("HCOOH")
    del formate[3]  # the acid's hydrogen
    path = tmp_path / "formate.xyz"
    formate.write(path)
    (part,) = parts_of(Wish("formate", str(path), charge=-1))
    assert (part.settings.charge, part.settings.multiplicity) == (-1, 1)


def test_reactive_mixture_is_that_of_the_shipped_file(here):
    del here
    more = ("--reactive", "4", "--with", "O=O:2:O2", "--density", "0.25")
    assert new("[H][H]", "--name", "H2", *more, "--may-form", "[OH]:OH") == 0
    system, shipped = written("H2"), written("hydrogen-combustion")
    box, *species = system.structures
    mixture = shipped.structures[0]
    assert box.pack == mixture.pack
    assert (box.multiplicity, box.multiplicities) == (5, [1, 3, 5])
    assert mixture.multiplicities == box.multiplicities
    assert box.pretrain
    assert mixture.pretrain
    assert box.density_g_per_cm3 == 0.25
    known = {s.name: s for s in shipped.structures}
    for one in species:
        assert one.multiplicity == known[one.name].multiplicity
    assert system.forcefield == shipped.forcefield
    assert system.overrides["training"] == shipped.overrides["training"]


@pytest.mark.parametrize(("multiplicity", "spins"), [(1, []), (3, [1, 3])])
@pytest.mark.usefixtures("here")
def test_a_cluster_of_metal_may_pair_its_electrons(multiplicity, spins):
    Atoms("Li4", [[1.35, 0, 0], [-1.35, 0, 0], [0, 2.67, 0], [0, -2.67, 0]]).write("lithium.xyz")
    more = ("--multiplicity", str(multiplicity), "--campaign", "xtb")
    assert new("lithium.xyz", "--name", "it", *more) == 0
    assert written("it").structures[0].multiplicities == spins
    assert written("it").overrides["seed_labels"] == {"free_atoms": False}


def test_names_that_yaml_would_misread(here):
    del here
    mine = ("--forcefield", "config/forcefields/small-molecules.xml")
    assert new("CO", "--name", "NO", *mine, "--liquid", "8", "--with", "O:4:1e3") == 0
    system = config.System.model_validate(config.read_yaml("config/systems/NO.yaml"))
    assert system.name == "NO"
    assert system.structures[0].pack == {"NO": 8, "1e3": 4}


def test_a_box_runs_as_long_as_its_molecules_need(here):
    del here
    assert new("O", "--name", "few", "--liquid", "4", "--density", "0.5") == 0
    # Without an event: 4 replicas of shape 1/2, 1 - 0.05/8, in half the time of 4 molecules.
    least = 2 * ((0.05 / 8) ** -0.5 - 1) / (4 * 4 * 0.5 * 0.1)
    time = written("few").overrides["exploration"]["time_ps"]
    assert 1.1 * least <= time < 1.1 * least + 1
    assert new("O", "--name", "many", "--liquid", "32", "--density", "0.5") == 0
    assert written("many").overrides["exploration"]["time_ps"] == 10.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["CC(C", "--name", "it"], "not valid SMILES"),
        (["CCO", "--name", "it", "--box", "4"], "expected at least 6.6"),
        (["CCO", "--name", "it", "--charge", "1"], "expected 0, the sum of the formal charges"),
        (["F[Am](F)F", "--name", "it"], "element Am: GFN1-xTB has parameters up to Rn"),
        (["CCO", "--name", "it", "--multiplicity", "2"], "expected an odd multiplicity"),
        (["[Na+]", "--name", "it"], "--in-water"),
        (["CO", "--name", "it", "--with", "O:3"], "--with needs --liquid"),
        (["CO", "--name", "it", "--liquid", "4", "--with", "C:0x"], "SMILES:N"),
        (["CO", "--name", "it", "--liquid", "4", "--in-water", "4"], "expected one of them"),
        (["[H][H]", "--name", "it", "--reactive", "4"], "give the density"),
        (["CO", "--name", "it", "--liquid", "4", "--density", "9"], "the cell's edge is 2.9 Å"),
        (["CO", "--name", "../it"], "letters, digits"),
        (["CO", "--name", "it", "--cost"], "--cost needs a campaign"),
        (["CCO", "--name", "it", "--forcefield", "none.xml"], "none.xml: no such file"),
        (["CO", "--name", "it", "--liquid", "4", *PYSCF], "expected --campaign cp2k or xtb"),
        (["[Na+]", "--name", "it", "--in-water", "9", *PYSCF], "--in-water makes a periodic box"),
        (["F[Eu](F)F", "--name", "it", *PYSCF], "basis = def2-svp: it has no functions for Eu"),
        (["CO", "--name", "it", *PYSCF, "--level", "none.yaml"], "none.yaml: no such file"),
        (["CO", "--name", "it", "--campaign", "xtb", "--level", "it.yaml"], "not xtb"),
    ],
)
def test_refused_and_nothing_written(here, capsys, words, said):
    before = sorted(here.rglob("*"))
    assert new(*words) == 2
    assert said in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_a_crystals_file_is_refused_with_where_its_labels_come_from(here, capsys):
    bulk("MgO", "rocksalt", a=4.2).write(here / "oxide.cif")
    assert new("oxide.cif", "--name", "it", *PYSCF) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "oxide.cif is periodic, and --campaign pyscf labels molecules only" in error
    assert "expected xtb or cp2k" in error


@pytest.mark.parametrize(
    ("source", "kind", "why"),
    [
        ("[H][H]", "gfnff", "no parameters for the bond H0-H1"),
        ("C[Si](C)(C)C", "gfnff", "no type for atom Si1"),
        ("OB(O)c1ccccc1", "gfnff", "no type for atom B1"),
        ("ferrocene.xyz", "gfnff", "RDKit finds no bond orders for C10H10Fe "),
        # GFN-FF has them fall apart, or other bond lengths.
        ("lithium.xyz", "xtb", "RDKit finds no bond orders for Li4 "),
        ("oxide.xyz", "xtb", "RDKit finds no bond orders for Mg4O4 "),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_gaff2_does_not_type_gets_another_teacher(capsys, source, kind, why):
    Atoms("Li4", [[1.35, 0, 0], [-1.35, 0, 0], [0, 2.67, 0], [0, -2.67, 0]]).write("lithium.xyz")
    ring = np.linspace(0, 2 * np.pi, 5, endpoint=False)
    around = np.stack([np.cos(ring), np.sin(ring), 0 * ring], axis=1)
    flat = np.concatenate([1.216 * around, 2.296 * around])  # C-C 1.43, C-H 1.08, Fe-C 2.05 Å
    up = np.array([0, 0, 1.65])
    Atoms("FeC5H5C5H5", np.concatenate([[0 * up], flat + up, flat - up])).write("ferrocene.xyz")
    bulk("MgO", "rocksalt", a=4.0, cubic=True).write("oxide.xyz", format="xyz")
    assert new(source, "--name", "it", "--campaign", "xtb") == 0
    assert written("it").forcefield.kind == kind
    # Atoms of a cluster of metal change places.
    assert written("it").kind == ("reactive" if source == "lithium.xyz" else "molecule")
    # Bonds of metals are soft, in the reference's own dynamics as well.
    overrides = written("it").overrides.get("exploration", {})
    metal_and_others = source in ("ferrocene.xyz", "oxide.xyz")
    assert overrides.get("bond_stretch_A") == (1.0 if metal_and_others else None)
    said = " ".join(capsys.readouterr().out.split())
    name = {"gfnff": "GFN-FF", "xtb": "GFN1-xTB"}[kind]
    assert f"so {name} is the teacher" in said
    assert why in said


@pytest.mark.usefixtures("here")
def test_what_gaff2_types_badly_is_said(capsys):
    assert new("C=P(C)(C)C", "--name", "ylide") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "GAFF2 types ylide badly: at its minimum the bond C0–P1 is 1.86 Å long" in said
    assert "forcefield: {kind: gfnff}" in said
    assert new("CCO", "--name", "it") == 0
    assert "badly" not in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_a_radicals_labels_are_spin_polarised():
    assert new("C[CH2]", "--name", "it", "--campaign", "xtb") == 0
    assert config.read_yaml("config/it.yaml")["reference"]["spin_polarized"] is True
    assert new("CC", "--name", "closed", "--campaign", "xtb") == 0
    assert "spin_polarized" not in config.read_yaml("config/closed.yaml")["reference"]


@pytest.mark.usefixtures("here")
def test_labels_of_reactions_have_warm_electrons_and_there_are_many():
    assert new("CC", "--name", "closed", "--campaign", "xtb") == 0
    more = ("--reactive", "2", "--density", "0.3", "--campaign", "xtb")
    assert new("[H][H]", "--name", "burning", *more) == 0
    closed, burning = (
        config.parse_campaign(config.read_yaml(f"config/{name}.yaml"), name)
        for name in ("closed", "burning")
    )
    explored = config.settings_for(burning, written("burning")).exploration
    assert [burning.reference.electronic_temperature_K] == explored.temperatures_K
    assert closed.reference.electronic_temperature_K == 300.0
    assert burning.selection.frames > closed.selection.frames
    assert burning.limits.label_budget > closed.limits.label_budget


def test_own_forcefield_and_level(here, capsys):
    level = yaml.safe_load((here / "config/cp2k/pbe-d3-dzvp.yaml").read_text())
    del level["force_eval"]["subsys"]["kind"]["O"]
    (here / "level.yaml").write_text(yaml.safe_dump(level))
    mine = "config/forcefields/small-molecules.xml"
    # The level knows no oxygen: what was written can be mended, and says so.
    assert new("CCO", "--name", "it", "--forcefield", mine, "--level", "level.yaml") == 1
    assert "config/it.yaml was written, and cannot run here yet" in capsys.readouterr().err
    assert [str(path) for path in written("it").forcefield.files] == [mine]
    assert config.read_yaml("config/it.yaml")["reference"]["level"] == "level.yaml"
    assert config.read_yaml("config/it.yaml")["certificate"]["time_ps"] == 1000


def test_forcefield_of_another_charge_is_refused(here, capsys):
    text = (here / "config/forcefields/small-molecules.xml").read_text()
    oxygen = 'charge="-0.303734"'  # of acetaldehyde alone
    assert text.count(oxygen) == 1
    (here / "mine.xml").write_text(text.replace(oxygen, 'charge="0.696266"'))
    assert new("CC=O", "--name", "it", "--forcefield", "mine.xml") == 2
    assert "its charges add up to 1.00 e, expected 0" in capsys.readouterr().err
