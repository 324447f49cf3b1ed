"""tblite as a label backend: numbers against independent ones, and every way to fail."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from tblite.ase import TBLite

from halcyon.config import XtbReference
from halcyon.errors import InputError
from halcyon.labels.reference import Status, make_reference
from halcyon.labels.reference.xtb import Xtb


def xtb(**settings):
    return Xtb(XtbReference(backend="xtb", **settings))


def frame(name="CH3OH", charge=0, multiplicity=1, seed=1):
    atoms = molecule(name)
    atoms.rattle(0.05, seed=seed)
    atoms.info = {"charge": charge, "multiplicity": multiplicity, "structure": name}
    return atoms


def label(reference, atoms, work):
    return next(reference.label([atoms], work, 1))


@pytest.mark.parametrize(
    ("atoms", "method"),
    [
        (frame(), "GFN2-xTB"),
        (frame(), "GFN1-xTB"),
        (frame("OH", charge=-1), "GFN2-xTB"),
        (frame("OH", multiplicity=2), "GFN2-xTB"),
        (frame("O2", multiplicity=3), "GFN2-xTB"),
    ],
)
def test_label_agrees_with_tblites_own_ase_calculator(tmp_path, atoms, method):
    record = label(xtb(method=method), atoms, tmp_path)
    other = atoms.copy()
    other.calc = TBLite(
        method=method,
        accuracy=0.1,
        charge=atoms.info["charge"],
        multiplicity=atoms.info["multiplicity"],
        verbosity=0,
    )
    assert record.status is Status.OK
    assert record.energy == pytest.approx(other.get_potential_energy(), abs=1e-6)
    assert np.allclose(record.forces, other.get_forces(), atol=1e-5)


def test_energy_of_water_in_ev(tmp_path):
    # Converted by hand: tblite's energy of ASE's water, -5.070222289 hartree.
    atoms = molecule("H2O")
    atoms.info = {"charge": 0, "multiplicity": 1}
    assert label(xtb(), atoms, tmp_path).energy == pytest.approx(-137.967775, abs=1e-4)


def test_forces_are_minus_the_derivative_of_the_energy(tmp_path):
    reference, atoms, step = xtb(accuracy=0.001), frame(), 2e-3
    forces = label(reference, atoms, tmp_path).forces
    for atom, axis in ((0, 0), (1, 2), (4, 1)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(label(reference, moved, tmp_path).energy)
        assert forces[atom, axis] == pytest.approx(
            -(energies[0] - energies[1]) / (2 * step), abs=1e-3
        )


def test_box_of_a_molecule_does_not_matter(tmp_path):
    boxed = frame()
    boxed.cell = [5.0] * 3
    assert label(xtb(), boxed, tmp_path).energy == label(xtb(), frame(), tmp_path).energy


def test_periodic_frame_feels_its_images(tmp_path):
    periodic = frame()
    periodic.cell, periodic.pbc = [5.0] * 3, True
    shifted = periodic.copy()
    shifted.info = periodic.info
    shifted.positions[0] += shifted.cell[1]
    record = label(xtb(), periodic, tmp_path)
    assert abs(record.energy - label(xtb(), frame(), tmp_path).energy) > 1e-3
    assert label(xtb(), shifted, tmp_path).energy == pytest.approx(record.energy, abs=1e-5)


def test_unconverged_frame_is_told_in_tblites_words(tmp_path):
    record = label(xtb(max_iterations=2), frame(), tmp_path)
    assert record.status is Status.UNCONVERGED
    assert "not converged in 2 cycles" in record.message


def test_overlapping_atoms_crash_the_frame_only(tmp_path):
    overlap = Atoms("H2", [[0, 0, 0], [0, 0, 0]], info={"charge": 0, "multiplicity": 1})
    records = list(xtb().label([overlap, frame()], tmp_path, 1))
    assert [record.status for record in records] == [Status.CRASHED, Status.OK]
    assert "Too close" in records[0].message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda atoms: atoms.info.update(multiplicity=2), r"multiplicity = 2: impossible with 18"),
        (lambda atoms: atoms.info.update(charge=1), r"charge = 1.*expected an even multiplicity"),
        (lambda atoms: atoms.numbers.__setitem__(0, 95), r"element Am: GFN2-xTB has"),
        (lambda atoms: atoms.pbc.__setitem__(0, True), r"periodic along all three vectors or none"),
        (lambda atoms: atoms.positions.__setitem__((0, 0), np.nan), r"not a finite number"),
    ],
)
def test_impossible_frames_are_refused(tmp_path, change, expected):
    atoms = frame()
    change(atoms)
    with pytest.raises(InputError, match=f"structure CH3OH: .*{expected}"):
        xtb().check([atoms])
    record = label(xtb(), atoms, tmp_path)
    assert record.status is Status.REJECTED


def test_good_frames_pass_the_check():
    xtb().check([frame(), frame("OH", multiplicity=2)])


def test_level_tells_methods_apart_but_not_iteration_limits():
    level = make_reference(XtbReference(backend="xtb")).level
    assert level["program"] == "tblite"
    assert level["version"].count(".") == 2
    assert xtb(method="GFN1-xTB").level != level
    assert xtb(accuracy=1.0).level != level
    assert xtb(max_iterations=10).level == level


def test_it_is_silent(tmp_path, capfd):
    list(xtb().label([frame()], tmp_path, 1))
    assert capfd.readouterr() == ("", "")
