"""GAFF2 from SMILES or a file, with the real antechamber and parmchk2."""

import io
import json
import subprocess
from itertools import product

import numpy as np
import openmm
import pytest
from ase import Atoms
from openmm import app, unit

from conftest import ROOT
from halcyon.config import Gaff2ForceField, StructureSettings, TeacherSettings
from halcyon.errors import InputError
from halcyon.systems.structures import bonds, molecules, start_structure
from halcyon.teacher import gaff2
from halcyon.teacher.forcefield import make_teacher
from halcyon.teacher.frcmod import forcefield_xml, read_frcmod, read_mol2
from halcyon.teacher.openmm_systems import topology_of
from halcyon.teacher.sampling import sample

DATA = ROOT / "tests/data/gaff2"
REFERENCE = json.loads((DATA / "reference.json").read_text(encoding="utf-8"))["molecules"]
SMILES = {
    "ethanol": "CCO",
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "betaine": "C[N+](C)(C)CC(=O)[O-]",
    "acetate": "CC(=O)[O-]",
}


def prepared(tmp_path, *, forcefield=None, **changes):
    """A structure and its teacher."""
    settings = StructureSettings(**({"name": "it"} | changes))
    atoms = start_structure(settings)
    graph = bonds(settings, atoms)
    teacher = make_teacher(
        forcefield or Gaff2ForceField(kind="gaff2"),
        atoms,
        graph,
        molecules=lambda: {"it": molecules(settings, atoms, graph)},
        prepared=tmp_path,
    )
    return teacher, atoms


def refused(tmp_path, **changes):
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, **changes)
    return str(caught.value)


@pytest.fixture
def programs(monkeypatch):
    """Names of the programs that were started, as they start."""
    started = []
    run = subprocess.run

    def counted(command, **options):
        started.append(str(command[0]).rpartition("/")[2])
        return run(command, **options)

    monkeypatch.setattr(gaff2.subprocess, "run", counted)
    return started


@pytest.mark.parametrize("name", REFERENCE)
def test_energies_are_parmed_s(name):
    """Term by term, from the same mol2 and frcmod."""
    wanted = REFERENCE[name]
    numbers = tuple(wanted["numbers"])
    typed = read_mol2((DATA / f"{name}.mol2").read_text(encoding="utf-8"), numbers)
    parameters = read_frcmod((DATA / f"{name}.frcmod").read_text(encoding="utf-8"))
    forcefield = app.ForceField(io.StringIO(forcefield_xml({name: typed}, parameters, prefix="x-")))
    atoms = Atoms(numbers, positions=wanted["positions_A"])
    topology, order = topology_of(atoms, [tuple(pair) for pair in wanted["bonds"]])
    system = forcefield.createSystem(topology)
    for index, force in enumerate(system.getForces()):
        force.setForceGroup(index)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(atoms.positions[order] / 10)
    found = {
        force.getName(): context.getState(energy=True, groups={index})
        .getPotentialEnergy()
        .value_in_unit(unit.kilojoule_per_mole)
        for index, force in enumerate(system.getForces())
        if force.getName() in wanted["energy_kJ_per_mol"]
    }
    assert found == pytest.approx(wanted["energy_kJ_per_mol"], abs=2e-6)


@pytest.mark.parametrize("name", SMILES)
def test_real_programs(name, tmp_path):
    """Same energies as stored; forces are the gradient; dynamics hold."""
    stored = REFERENCE[name]
    teacher, atoms = prepared(tmp_path, smiles=SMILES[name], charge=stored["charge"])
    assert atoms.numbers.tolist() == stored["numbers"]
    frame = Atoms(atoms.numbers, positions=stored["positions_A"])
    total = sum(stored["energy_kJ_per_mol"].values()) * 1000 / 6.02214076e23 / 1.602176634e-19
    (energy,), (forces,) = teacher.evaluate([frame])
    # Charges are made to add up to the last digit: that much may differ.
    assert energy == pytest.approx(total, abs=1e-4)
    step, moved = 1e-4, []
    for atom, axis, sign in product(range(3), range(3), (1, -1)):
        moved.append(frame.copy())
        moved[-1].positions[atom, axis] += sign * step
    energies = teacher.evaluate(moved)[0].reshape(-1, 3, 2)
    numerical = -(energies[..., 0] - energies[..., 1]) / (2 * step)
    np.testing.assert_allclose(forces[:3], numerical, atol=1e-4)
    settings = TeacherSettings(md_frames=6, displaced_frames=2)
    frames, counts = sample(teacher, atoms, settings, seed=1)
    assert counts["md"] == 6
    assert counts["not_finite"] == 0
    assert len(frames) > 40


def test_charges_add_up(tmp_path):
    for smiles, charge in (("CC(=O)[O-]", -1), ("C[N+](C)(C)CC(=O)[O-]", 0), ("C[NH3+]", 1)):
        teacher, _ = prepared(tmp_path, smiles=smiles, charge=charge)
        force = next(f for f in teacher.system.getForces() if isinstance(f, openmm.NonbondedForce))
        charges = [
            force.getParticleParameters(i)[0].value_in_unit(unit.elementary_charge)
            for i in range(force.getNumParticles())
        ]
        assert sum(charges) == pytest.approx(charge, abs=1e-12)


def test_second_time_no_program_starts(tmp_path, programs):
    first, atoms = prepared(tmp_path, smiles="CCO")
    assert programs == ["antechamber", "parmchk2"]
    second, _ = prepared(tmp_path, smiles="CCO")
    assert programs == ["antechamber", "parmchk2"]
    np.testing.assert_array_equal(first.evaluate([atoms])[1], second.evaluate([atoms])[1])
    assert [path.suffix for path in tmp_path.iterdir()] == [".xml"]  # nothing half-written
    prepared(tmp_path, smiles="CCN")
    assert len(programs) == 4


def test_without_a_cache_nothing_is_written(programs):
    prepared(None, smiles="CO")
    prepared(None, smiles="CO")
    assert len(programs) == 4


def test_a_file_gives_what_its_smiles_gives(tmp_path):
    teacher, atoms = prepared(tmp_path, smiles="CC(=O)[O-]", charge=-1)
    atoms.write(tmp_path / "acetate.xyz")
    by_file, same = prepared(tmp_path, file=tmp_path / "acetate.xyz", charge=-1)
    assert by_file.evaluate([same])[0] == pytest.approx(teacher.evaluate([atoms])[0], abs=1e-6)


def test_a_file_of_several_molecules(tmp_path, programs):
    settings = StructureSettings(name="it", smiles="CO")
    one = start_structure(settings)
    several = Atoms(one.numbers, positions=one.positions)
    for number in (1, 2):
        several += Atoms(one.numbers, positions=one.positions + np.array([0, 0, 4.0 * number]))
    several.write(tmp_path / "three.xyz")
    teacher, _ = prepared(tmp_path, file=tmp_path / "three.xyz")
    assert teacher.system.getNumParticles() == 18
    assert programs == ["antechamber", "parmchk2"]  # they are alike


def test_charges_from_a_file(tmp_path):
    (tmp_path / "water.txt").write_text("-0.8\n0.4 0.4\n")
    given = Gaff2ForceField(kind="gaff2", charge_files={"it": tmp_path / "water.txt"})
    teacher, _ = prepared(tmp_path, smiles="O", forcefield=given)
    force = next(f for f in teacher.system.getForces() if isinstance(f, openmm.NonbondedForce))
    assert force.getParticleParameters(0)[0].value_in_unit(unit.elementary_charge) == -0.8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("-0.8 0.4", "2 numbers, expected 3"),
        ("-0.8 0.4 0.5", "the charges add up to 0.100 e, expected 0"),
        ("O H H", "expected numbers only"),
    ],
)
def test_bad_charge_file(tmp_path, content, message):
    path = tmp_path / "water.txt"
    if content is not None:
        path.write_text(content)
    given = Gaff2ForceField(kind="gaff2", charge_files={"it": path})
    said = refused(tmp_path, smiles="O", forcefield=given)
    assert said.startswith(f"structure it: forcefield.charge_files: {path}: ")
    assert message in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"smiles": "C[Si](C)(C)C"}, "GAFF2 has no type for atom Si1; it knows Br, C, Cl, F"),
        ({"smiles": "CB(O)O"}, "GAFF2 has no type for atom B1"),
        ({"smiles": "[Na+]", "charge": 1}, "GAFF2 has no type for atom Na0"),
        ({"smiles": "[Cl-]", "charge": -1}, "GAFF2 has no type for the single atom Cl0"),
        ({"smiles": "[H][H]"}, "GAFF2 has no parameters for the bond H0-H1"),
        (
            {"smiles": "O=O", "multiplicity": 3},
            "GAFF2's length of the bond O0-O1 is 1.43 Å, and in the start structure it is 1.15 Å",
        ),
        ({"smiles": "FS(F)(F)(F)(F)F"}, "GAFF2 has no type that fits these atoms"),
        ({"smiles": "C" * 90}, "272 atoms; AmberTools takes at most 250"),
    ],
)
def test_what_gaff2_does_not_know(tmp_path, changes, message):
    said = refused(tmp_path, **changes)
    assert said.startswith("structure it: forcefield: ")
    assert message in said
    assert "forcefield_xml" in said  # the alternative


ANY = {
    "CS(=O)(=O)N": (0, 1),
    "FC(F)(F)CBr": (0, 1),
    "IC": (0, 1),
    "CP(=O)(O)O": (0, 1),
    "C1CC1C#N": (0, 1),
    "[O-][N+](=O)c1ccccc1": (0, 1),
    "c1ccc2c(c1)[nH]c1ccccc12": (0, 1),
    "[NH4+]": (1, 1),
    "C[NH2+]CC(=O)[O-]": (0, 1),
    "[CH3]": (0, 2),
    "CC[O]": (0, 2),
    "OO": (0, 1),
}


@pytest.mark.parametrize("smiles", ANY)
def test_molecules_nobody_thought_of(tmp_path, smiles):
    charge, multiplicity = ANY[smiles]
    teacher, atoms = prepared(tmp_path, smiles=smiles, charge=charge, multiplicity=multiplicity)
    asked = TeacherSettings(md_frames=6, displaced_frames=0)
    frames, _ = sample(teacher, atoms, asked, seed=1)
    assert len(frames) > 6


def test_bond_orders_that_do_not_exist(tmp_path):
    atoms = start_structure(StructureSettings(name="it", smiles="CO"))
    atoms.info = {}  # its charge of 0 would contradict the one that is given
    atoms.write(tmp_path / "it.xyz")
    said = refused(tmp_path, file=tmp_path / "it.xyz", charge=2)
    assert "RDKit finds no bond orders for CH4O with charge 2" in said
    assert "Give the molecule as `smiles`" in said


def test_no_ambertools(tmp_path, monkeypatch):
    monkeypatch.setattr(gaff2.shutil, "which", lambda _: None)
    monkeypatch.setattr(gaff2.importlib.util, "find_spec", lambda _: None)
    said = refused(tmp_path, smiles="O")
    assert "needs AmberTools' programs antechamber and parmchk2" in said
    assert "pip install acpype" in said


def test_ambertools_on_path_come_first(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/antechamber"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("AMBERHOME", str(tmp_path))
    assert gaff2.find_ambertools() == gaff2.AmberTools(tmp_path, tmp_path / "bin")
    monkeypatch.delenv("AMBERHOME")
    assert gaff2.find_ambertools().home != tmp_path


def fake(tmp_path, monkeypatch, script):
    """AmberTools whose every program is a shell script."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "dat/leap/parm").mkdir(parents=True)
    (tmp_path / "dat/leap/parm/gaff2.dat").write_text("a force field\n")
    for name in ("antechamber", "parmchk2", "sqm"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("AMBERHOME", str(tmp_path))
    monkeypatch.setattr(gaff2.shutil, "which", lambda name: str(tmp_path / "bin" / name))


LOADER = "error while loading shared libraries: libarpack.so.2: cannot open shared object file"


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, f"echo 'sqm: {LOADER}' >&2; exit 127")
    with pytest.raises(InputError, match="libarpack2") as caught:
        gaff2.check_sqm()
    assert "charges = 'bcc'" in str(caught.value)
    assert "apt-get install" in str(caught.value)
    assert "antechamber does not start" in refused(None, smiles="O")


def test_what_a_program_says_is_passed_on(tmp_path, monkeypatch):
    fake(tmp_path, monkeypatch, "echo ' antechamber: Fatal Error!'; echo 'Too odd.'; exit 1")
    assert "antechamber failed: Too odd." in refused(None, smiles="O")


def test_bcc_charges(tmp_path, programs):
    try:
        gaff2.check_sqm()
    except InputError as error:
        pytest.skip(str(error))
    programs.clear()
    asked = Gaff2ForceField(kind="gaff2", charges="bcc")
    teacher, _ = prepared(tmp_path, smiles="O", forcefield=asked)
    force = next(f for f in teacher.system.getForces() if isinstance(f, openmm.NonbondedForce))
    oxygen = force.getParticleParameters(0)[0].value_in_unit(unit.elementary_charge)
    # A. Jakalian, D. B. Jack, C. I. Bayly, J. Comput. Chem. 23, 1623 (2002).
    assert oxygen == pytest.approx(-0.785, abs=0.02)
    prepared(tmp_path, smiles="O", forcefield=asked)
    assert programs == ["antechamber", "parmchk2"]
