"""The minimum of a cheap potential beside that of GFN2-xTB: what a force field has typed badly.

    from halcyon.teacher.comparison import compare

    difference = compare(teacher, start)
    difference.fault  # "": bond lengths, angles and planar centres agree within the tolerances

Both go downhill from the start structure, GFN2-xTB first and the teacher from there, so that they
end in the same conformer. GFN2-xTB's bond lengths of organic molecules are right to some 0.02 Å
(C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019)).

Not for: periodic structures, or the conformers' energies.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import openmm
from ase import Atoms

from halcyon.config import XtbForceField
from halcyon.config.learning import TEACHER_TIMESTEP_FS
from halcyon.teacher.forcefield import Teacher, make_teacher
from halcyon.teacher.relaxation import minimise, positions_of

TOLERANCE_eV_PER_A = 0.02
"""Largest force, eV/Å, that is left at a minimum of GFN2-xTB."""
LARGEST_BOND_A = 0.08
LARGEST_ANGLE_DEG = 15.0
LARGEST_HEIGHT_A = 0.3
"""Differences beyond these are faults; docs/decisions/forcefields.md has those of 49 molecules.
GFN2-xTB itself errs by less, but for single angles: C–N–N of methyl azide by 12°."""
BROKEN = 1.3
"""A bond that GFN2-xTB makes this many times longer is broken: then there is nothing to compare."""
MOST_ATOMS = 120
"""Larger molecules are not compared: it would take minutes."""


@dataclass(frozen=True)
class Difference:
    """Greatest differences of a teacher's minimum from that of GFN2-xTB.

    Attributes:
        bond_A: of a bond length, Å, and `bond` which, in words.
        angle_deg: of an angle between two bonds, degrees, and `angle` which.
        height_A: of an atom with three bonds above the plane of its neighbours, Å, and `centre`
            which: one is flat where the other is a pyramid.
    """

    bond_A: float = 0.0
    bond: str = ""
    angle_deg: float = 0.0
    angle: str = ""
    height_A: float = 0.0
    centre: str = ""

    @property
    def fault(self) -> str:
        """What differs by more than the tolerances, with numbers; empty: nothing does."""
        faults = []
        if self.bond_A > LARGEST_BOND_A:
            faults.append(f"the bond {self.bond}")
        if self.angle_deg > LARGEST_ANGLE_DEG:
            faults.append(f"the angle {self.angle}")
        if self.height_A > LARGEST_HEIGHT_A:
            faults.append(f"{self.centre}")
        return "; ".join(faults)


def compare(teacher: Teacher, start: Atoms) -> Difference:
    """Where a teacher's minimum is not that of GFN2-xTB.

    Args:
        teacher: of the structure; it is not periodic.
        start: the structure, with charge and multiplicity.

    Raises:
        ValueError: GFN2-xTB breaks a bond.
        Exception: a calculation failed.
    """
    gfn2 = make_teacher(XtbForceField(kind="xtb", method="GFN2-xTB"), start, teacher.bonds)
    right = start.copy()
    right.positions = _minimum(gfn2, start)
    for i, j in teacher.bonds:
        if right.get_distance(i, j) > BROKEN * start.get_distance(i, j):
            raise ValueError(f"GFN2-xTB breaks the bond {i}–{j}")
    return difference(right, _minimum(teacher, right), teacher.bonds)


def difference(
    right: Atoms, positions: np.ndarray, bonds: tuple[tuple[int, int], ...]
) -> Difference:
    """Greatest differences between two geometries of a molecule.

    Args:
        right: N atoms at the minimum that counts as right.
        positions: of the same atoms at the other minimum, Å, shape (N, 3).
        bonds: pairs of bonded atoms.
    """
    symbols, both = right.get_chemical_symbols(), (right.positions, positions)
    neighbours: dict[int, list[int]] = {}
    for i, j in bonds:
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)

    def named(*atoms: int) -> str:
        return "–".join(f"{symbols[k]}{k}" for k in atoms)

    lengths = [_Pair(named(i, j), *(_length(x, i, j) for x in both)) for i, j in bonds]
    angles, heights = [], []
    for centre, around in neighbours.items():
        for i, j in combinations(around, 2):
            angles.append(_Pair(named(i, centre, j), *(_angle(x, i, centre, j) for x in both)))
        if len(around) == 3:
            heights.append(_Pair(named(centre), *(_height(x, centre, around) for x in both)))
    bond, angle, height = (max(pairs, default=_Pair()) for pairs in (lengths, angles, heights))
    return Difference(
        bond.size,
        f"{bond.name} is {bond.other:.2f} Å long and should be {bond.right:.2f}",
        angle.size,
        f"{angle.name} is {angle.other:.0f}° and should be {angle.right:.0f}",
        height.size,
        f"{height.name} is {height.other:.2f} Å above the plane of its neighbours and should be "
        f"{height.right:.2f}",
    )


@dataclass(frozen=True)
class _Pair:
    """A length, angle or height at both minima, and of which atoms; by size of the difference."""

    name: str = ""
    right: float = 0.0
    other: float = 0.0

    @property
    def size(self) -> float:
        return abs(self.other - self.right)

    def __lt__(self, another: "_Pair") -> bool:
        return self.size < another.size


def _minimum(teacher: Teacher, start: Atoms) -> np.ndarray:
    """Positions of a frame at a teacher's minimum, Å, shape (N, 3)."""
    context = teacher.context(openmm.VerletIntegrator(TEACHER_TIMESTEP_FS / 1000))
    teacher.place(context, start)
    minimise(teacher, context, tolerance_eV_per_A=TOLERANCE_eV_PER_A)
    return positions_of(context)[teacher.particles]


def _length(positions: np.ndarray, i: int, j: int) -> float:
    return float(np.linalg.norm(positions[i] - positions[j]))


def _angle(positions: np.ndarray, i: int, centre: int, j: int) -> float:
    """Degrees."""
    a, b = positions[i] - positions[centre], positions[j] - positions[centre]
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _height(positions: np.ndarray, centre: int, around: list[int]) -> float:
    """Of an atom above the plane of three others, Å."""
    a, b, c = positions[around]
    normal = np.cross(b - a, c - a)
    return float(abs((positions[centre] - a) @ normal) / np.linalg.norm(normal))
