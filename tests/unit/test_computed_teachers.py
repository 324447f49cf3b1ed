"""Teachers that a program computes: tight binding, and calculators of ASE."""

import gfnff
import numpy as np
import openmm
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from pydantic import ValidationError
from tblite.ase import TBLite

from halcyon.config import AseForceField, GfnffForceField, TeacherSettings, XtbForceField
from halcyon.errors import InputError
from halcyon.teacher import dynamics
from halcyon.teacher.calculators import TightBinding
from halcyon.teacher.forcefield import make_teacher
from halcyon.teacher.sampling import sample

XTB = XtbForceField(kind="xtb")
GFNFF = GfnffForceField(kind="gfnff")


def structure(name="CH3OH", multiplicity=1, seed=1):
    atoms = molecule(name)
    atoms.rattle(0.05, seed=seed)
    atoms.info = {"charge": 0, "multiplicity": multiplicity, "structure": name}
    return atoms


def crystal(name, a):
    atoms = bulk(name, "rocksalt", a=a, cubic=True) * (2, 2, 2)
    atoms.info = {"charge": 0, "multiplicity": 1, "structure": name}
    return atoms


def ase(**arguments):
    return AseForceField(
        kind="ase", calculator="tblite.ase.TBLite", arguments={"verbosity": 0} | arguments
    )


def by_tblite(atoms, **parameters):
    other = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    other.calc = TBLite(verbosity=0, **parameters)
    return other.get_potential_energy(), other.get_forces()


@pytest.mark.parametrize(
    ("name", "multiplicity", "forcefield", "parameters"),
    [
        ("CH3OH", 1, XTB, {"method": "GFN1-xTB"}),
        ("CH3OH", 1, XtbForceField(kind="xtb", method="IPEA1-xTB"), {"method": "IPEA1-xTB"}),
        ("C2H5", 2, XTB, {"method": "GFN1-xTB", "multiplicity": 2, "spin_polarization": 1.0}),
        ("SiH4", 1, ase(method="GFN2-xTB"), {"method": "GFN2-xTB"}),
        ("OH", 2, ase(method="GFN2-xTB"), {"method": "GFN2-xTB", "multiplicity": 2}),
    ],
)
def test_labels_are_those_of_the_program(name, multiplicity, forcefield, parameters):
    atoms = structure(name, multiplicity)
    energies, forces = make_teacher(forcefield, atoms, []).evaluate([atoms])
    energy, force = by_tblite(atoms, **parameters)
    assert energies[0] == pytest.approx(energy, abs=1e-5)
    assert np.allclose(forces[0], force, atol=1e-4)


def test_periodic_frames_keep_their_orientation():
    """In a cell that OpenMM turns and reduces, forces are still minus the slope of the energy."""
    atoms = skewed_water()
    teacher, step = make_teacher(XTB, atoms, []), 2e-3
    forces = teacher.evaluate([atoms])[1][0]
    assert by_tblite(atoms, method="GFN1-xTB")[1] == pytest.approx(forces, abs=1e-3)
    for atom, axis in ((0, 0), (1, 2), (2, 1)):
        slope = downhill(teacher, atoms, atom, axis, step=step)
        assert forces[atom, axis] == pytest.approx(slope, abs=5e-3)


def downhill(teacher, atoms, atom, axis, *, step):
    """Minus the slope of the energy by finite difference, eV/Å."""
    moved = [atoms.copy(), atoms.copy()]
    for frame, sign in zip(moved, (1, -1), strict=True):
        frame.positions[atom, axis] += sign * step
    up, down = teacher.evaluate(moved)[0]
    return (down - up) / (2 * step)


def skewed_water():
    atoms = structure("H2O")
    atoms.cell, atoms.pbc = [[5.5, 0.5, 0.0], [0.0, 5.0, 1.0], [0.3, 1.0, 6.0]], True
    return atoms


def with_charge(atoms, charge):
    atoms.info["charge"] = charge
    return atoms


@pytest.mark.parametrize(
    "atoms",
    [structure("CH3CH2OH"), with_charge(structure("HCOOH"), 1), skewed_water()],
    ids=["molecule", "cation", "periodic"],
)
def test_gfnff_forces_are_minus_the_slope_of_its_energy(atoms):
    teacher, step = make_teacher(GFNFF, atoms, []), 1e-3
    forces = teacher.evaluate([atoms])[1][0]
    for atom in range(3):
        for axis in range(3):
            slope = downhill(teacher, atoms, atom, axis, step=step)
            assert forces[atom, axis] == pytest.approx(slope, abs=2e-4)


def test_gfnff_is_that_of_the_package():
    atoms = structure("CH3CH2OH")
    energies, forces = make_teacher(GFNFF, atoms, []).evaluate([atoms])
    other = atoms.copy()
    other.calc = gfnff.GFNFF()
    assert energies[0] == pytest.approx(other.get_potential_energy(), abs=1e-5)
    assert np.allclose(forces[0], other.get_forces(), atol=1e-4)


def test_gfnff_keeps_the_bonds_of_the_start_and_nothing_of_other_frames():
    start, other = structure("CH3CH2OH"), structure("H2O")
    far = start.copy()
    far.positions[3] += far.positions[3] - far.positions[1]  # O or H at twice its distance
    teacher = make_teacher(GFNFF, start, [])
    before = teacher.evaluate([start, far])
    make_teacher(GFNFF, other, []).evaluate([other])
    after = make_teacher(GFNFF, start, []).evaluate([far, start])
    assert np.array_equal(before[0], after[0][::-1])
    assert np.array_equal(before[1], after[1][::-1])


def test_gfnff_does_not_mind_where_atoms_are_put_back_into_the_cell():
    """Without care, an energy is wrong by 13 eV: see `teacher.gfnff`."""
    atoms = skewed_water()
    wrapped, moved = atoms.copy(), atoms.copy()
    wrapped.wrap()
    moved.positions[1] += moved.cell[2] - moved.cell[0]
    assert not np.allclose(wrapped.positions, atoms.positions)
    energies, forces = make_teacher(GFNFF, atoms, []).evaluate([atoms, wrapped, moved])
    assert np.ptp(energies) < 1e-8
    assert np.ptp(forces, axis=0).max() < 1e-8


@pytest.mark.parametrize("forcefield", [XTB, GFNFF], ids=lambda settings: settings.kind)
def test_frames_of_every_origin(monkeypatch, forcefield):
    monkeypatch.setattr(dynamics, "EQUILIBRATION_PS", 0.01)
    atoms = structure("CH3CH2OH")
    bonds = [(0, 1), (1, 2), (2, 3), (0, 4), (0, 5), (1, 6), (1, 7), (1, 8)]
    asked = {"displaced": 3, "stretched": 3, "contact": 3, "dissociated": 3}
    settings = TeacherSettings(
        md_frames=4,
        md_interval_fs=2.0,
        temperatures_K=[300.0],
        force_cap_eV_per_A=1e3,
        **{f"{origin}_frames": number for origin, number in asked.items()},
    )
    frames, counts = sample(make_teacher(forcefield, atoms, bonds), atoms, settings, seed=1)
    assert counts["md"] == 4
    assert all(counts[origin] for origin in asked)
    assert np.abs(frames[0].arrays["forces"]).max() < 10.0  # after its minimisation it is calm


def test_a_frame_whose_calculation_fails_is_dropped_and_others_are_not():
    atoms = structure("H2O")
    broken = atoms.copy()
    broken.positions[1] = broken.positions[0]
    energies, forces = make_teacher(XTB, atoms, []).evaluate([broken, atoms])
    assert np.isnan(energies).tolist() == [True, False]
    assert np.isnan(forces[0]).all()
    assert np.isfinite(forces[1]).all()


@pytest.mark.parametrize("forcefield", [XTB, GFNFF], ids=lambda settings: settings.kind)
def test_the_teacher_is_the_same_text_each_time(forcefield):
    """Saved dynamics are found by it, and OpenMM makes the program again from it."""
    atoms = structure("H2O")
    text, again = (
        openmm.XmlSerializer.serialize(make_teacher(forcefield, atoms, []).system) for _ in range(2)
    )
    assert text == again
    made = openmm.XmlSerializer.deserialize(text)
    assert openmm.XmlSerializer.serialize(made) == text
    other = make_teacher(XtbForceField(kind="xtb", method="GFN2-xTB"), atoms, []).system
    assert openmm.XmlSerializer.serialize(other) != text


@pytest.mark.parametrize(
    ("atoms", "forcefield", "words"),
    [
        (structure("H2O", multiplicity=2), XTB, "structure H2O.*GFN1-xTB cannot compute it"),
        (
            Atoms("AmF", [[0, 0, 0], [0, 0, 2.0]], info={"charge": 0, "multiplicity": 1}),
            XTB,
            "element Am.*up to Rn",
        ),
        (
            Atoms("AmF", [[0, 0, 0], [0, 0, 2.0]], info={"charge": 0, "multiplicity": 1}),
            GFNFF,
            "element Am.*GFN-FF has parameters up to Rn",
        ),
        (crystal("MgO", 4.21), GFNFF, "its library ends the process with SIG"),
        (structure(), ase(method="GFN9-xTB"), "cannot compute it.*GFN9-xTB"),
        (
            structure(),
            AseForceField(kind="ase", calculator="nowhere.Calculator"),
            "forcefield.calculator = nowhere.Calculator: nowhere cannot be imported",
        ),
        (
            structure(),
            AseForceField(kind="ase", calculator="ase.calculators.emt.Nothing"),
            "has no class or function Nothing",
        ),
        (
            structure("SiH4"),
            AseForceField(kind="ase", calculator="ase.calculators.emt.EMT"),
            r"ase.calculators.emt.EMT \(ase .*cannot compute it",
        ),
    ],
)
def test_what_it_cannot_compute_is_refused_before_any_job(atoms, forcefield, words):
    with pytest.raises(InputError, match=words):
        make_teacher(forcefield, atoms, [])


def test_a_start_structure_is_computed_once(monkeypatch):
    calls = []
    single = TightBinding.__call__
    monkeypatch.setattr(TightBinding, "__call__", lambda s, a: calls.append(a) or single(s, a))
    start = structure("SH2", seed=9)
    for _ in range(2):
        make_teacher(XTB, start, [(0, 1), (0, 2)])
    assert len(calls) == 1
    start.positions[1, 2] += 0.01
    make_teacher(XTB, start, [(0, 1), (0, 2)])
    assert len(calls) == 2


def test_a_hamiltonian_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="'GFN2-xTB', 'GFN1-xTB' or 'IPEA1-xTB'"):
        XtbForceField(kind="xtb", method="GFN9-xTB")


def test_so3lr_is_a_teacher():
    """Where the extra `so3lr` is installed: the example of docs/add-a-system.md."""
    pytest.importorskip("so3krates_torch")
    settings = AseForceField(
        kind="ase",
        calculator="so3krates_torch.calculator.so3.SO3LRCalculator",
        arguments={"default_dtype": "float64"},
    )
    atoms, step = structure("CH3CH2OH"), 1e-3
    teacher = make_teacher(settings, atoms, [])
    assert "So3krates-torch 0.2.1" in teacher.program
    energies, forces = teacher.evaluate([atoms])
    slope = downhill(teacher, atoms, 2, 0, step=step)
    assert forces[0][2, 0] == pytest.approx(slope, abs=2e-4)
    cation = with_charge(atoms.copy(), 1)
    assert make_teacher(settings, cation, []).evaluate([cation])[0][0] > energies[0] + 1.0
