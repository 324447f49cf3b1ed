"""Minima of a force field beside those of GFN2-xTB: what is typed badly is noticed."""

import numpy as np
import pytest
from ase import Atoms
from ase.optimize import LBFGS
from tblite.ase import TBLite

from halcyon.commands.new_system.wish import Wish, parts_of
from halcyon.config import Gaff2ForceField, GfnffForceField
from halcyon.systems.structures import bonds
from halcyon.teacher.comparison import compare, difference
from halcyon.teacher.forcefield import make_teacher

GAFF2 = Gaff2ForceField(kind="gaff2")
GFNFF = GfnffForceField(kind="gfnff")


def compared(smiles, settings=GAFF2):
    (part,) = parts_of(Wish("it", smiles))
    teacher = make_teacher(
        settings,
        part.atoms,
        bonds(part.settings, part.atoms),
        molecules=lambda: {part.name: [part.molecule]},
    )
    return compare(teacher, part.atoms), part.atoms


@pytest.mark.parametrize("smiles", ["CCO", "CC(=O)O", "C[N+](=O)[O-]", "CS(C)=O"])
def test_what_gaff2_types_well_passes(smiles):
    found, _ = compared(smiles)
    assert found.fault == ""
    assert 0 < found.bond_A < 0.06


@pytest.mark.parametrize(
    ("smiles", "words"),
    [
        ("C=P(C)(C)C", "the bond C0–P1 is 1.86 Å long and should be 1.70"),  # an ylide
        ("C1=CC=CC=CC=C1", "is 1.43 Å long and should be 1.33"),  # its bonds alternate
        ("FN(F)F", "is 1.45 Å long and should be 1.36"),  # 1.365 Å, microwave spectrum
        ("CN=S(C)(C)=NC", "the angle N1–S2–N5 is 97° and should be 125"),
    ],
)
def test_what_gaff2_types_badly_is_noticed(smiles, words):
    assert words in compared(smiles)[0].fault


def test_the_right_geometry_is_that_of_gfn2():
    """The ylide's short bond by another way: tblite's own calculator, from the same start."""
    found, atoms = compared("C=P(C)(C)C")
    other = Atoms(atoms.numbers, atoms.positions)
    other.calc = TBLite(method="GFN2-xTB", verbosity=0)
    LBFGS(other, logfile=None, maxstep=0.1).run(fmax=0.02, steps=300)
    assert f"should be {other.get_distance(0, 1):.2f}" in found.bond


def test_differences_are_the_greatest():
    flat = Atoms("BH3", [[0, 0, 0], [1, 0, 0], [-0.5, 0.8, 0], [-0.5, -0.8, 0]])
    other = flat.positions.copy()
    other[0, 2] = 0.4  # boron out of the plane
    other[1, 0] = 1.3
    found = difference(flat, other, ((0, 1), (0, 2), (0, 3)))
    assert found.bond_A == pytest.approx(np.hypot(1.3, 0.4) - 1)
    assert found.height_A == pytest.approx(0.4)
    a, b = np.array([1.3, 0, -0.4]), np.array([-0.5, 0.8, -0.4])
    angle = np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    before = np.degrees(np.arccos(-0.5 / np.hypot(0.5, 0.8)))
    largest = max(abs(angle - before), abs(_between(other, 2, 3) - _between(flat.positions, 2, 3)))
    assert found.angle_deg == pytest.approx(largest)
    assert "the bond B0–H1 is 1.36 Å long and should be 1.00" in found.fault
    assert "B0 is 0.40 Å above the plane of its neighbours and should be 0.00" in found.fault


def _between(positions, i, j):
    a, b = positions[i] - positions[0], positions[j] - positions[0]
    return np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))


def test_a_bond_that_gfn2_breaks_is_not_compared():
    with pytest.raises(ValueError, match="GFN2-xTB breaks the bond"):
        compared("FP(F)(F)(F)F")
