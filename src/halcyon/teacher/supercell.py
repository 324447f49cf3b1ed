"""A small periodic cell, repeated until the force field's cutoff has room.

    from ase import Atoms
    from halcyon.teacher.supercell import Supercell

    water = Atoms("OH2", positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    water.cell, water.pbc = [4.0, 4.0, 4.0], True
    supercell = Supercell.of(water, [(0, 1), (0, 2)], repeats=(2, 2, 2))
    len(supercell.repeated(water))  # 24

OpenMM sees of each atom only the nearest image, so that a cutoff may be half the cell at most. In
a cell of four waters that is 2.4 Å, inside the walls of the potential: energies were wrong by 40 %
of the energy and forces by 50 % (2×2×2: 0.1 %). With a cutoff of 3.8 Å forces are right to 2 meV/Å.

The copies are virtual sites: the system has the degrees of freedom of one cell and the energy of
all, so that masses and temperature of its dynamics are multiplied by the number of copies.

Not for: choosing a cutoff, or building the force field (`forcefield`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openmm
from ase import Atoms
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components


@dataclass(frozen=True)
class Supercell:
    """How a cell of N atoms is repeated.

    Attributes:
        repeats: along each cell vector.
        bonds: pairs of bonded atoms of all copies; atom i of copy k is number k·N + i.
        tree: pairs (atom, next atom) along bonds, by which molecules are made whole.
    """

    repeats: tuple[int, int, int]
    bonds: tuple[tuple[int, int], ...]
    tree: tuple[tuple[int, int], ...]

    @classmethod
    def of(
        cls, atoms: Atoms, bonds: Sequence[tuple[int, int]], repeats: tuple[int, int, int]
    ) -> "Supercell":
        """Of a cell and its bonds, which may reach over its boundary."""
        tree = _spanning(len(atoms), bonds)
        whole = _whole(atoms, tree)
        shifts = [*itertools.product(*map(range, repeats))]
        place = {shift: copy for copy, shift in enumerate(shifts)}
        of_copies = []
        for i, j in bonds:
            # Only in a network that is bonded to its own images does a bond of a whole molecule
            # still reach into another cell.
            crossed = _cells(whole.positions[j] - whole.positions[i], atoms)
            for copy, shift in enumerate(shifts):
                other = tuple(int(n) for n in (np.array(shift) - crossed) % repeats)
                of_copies.append((copy * len(atoms) + i, place[other] * len(atoms) + j))
        return cls(repeats, tuple(of_copies), tree)

    @property
    def copies(self) -> int:
        """Number of cells."""
        return int(np.prod(self.repeats))

    def repeated(self, atoms: Atoms) -> Atoms:
        """The supercell of a frame: whole molecules, one copy of all atoms after the other."""
        repeated: Atoms = _whole(atoms, self.tree).repeat(self.repeats)
        repeated.info = dict(atoms.info)
        return repeated

    def tie(
        self, system: openmm.System, order: np.ndarray, cell: np.ndarray, box: np.ndarray
    ) -> None:
        """Let all copies move as the first one does, and give that the masses of all.

        Args:
            system: of the supercell.
            order: the system's particle k is the supercell's atom order[k].
            cell: vectors of the supercell as rows, Å, shape (3, 3), in OpenMM's orientation.
            box: combinations of them that OpenMM takes as its vectors, Å, shape (3, 3).
        """
        particles = np.argsort(order).reshape(self.copies, -1)
        for particle in particles[0]:
            system.setParticleMass(int(particle), self.copies * system.getParticleMass(particle))
        shifts = np.array([*itertools.product(*map(range, self.repeats))]) / self.repeats
        fractions = shifts @ cell @ np.linalg.inv(box)
        unity = [openmm.Vec3(*row) for row in np.eye(3)]
        for copy in range(1, self.copies):
            for particle, first in zip(particles[copy], particles[0], strict=True):
                shift = openmm.Vec3(*fractions[copy])
                site = openmm.SymmetrySite(int(first), *unity, shift, True)
                system.setVirtualSite(int(particle), site)
                system.setParticleMass(int(particle), 0.0)


def _spanning(number: int, bonds: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Bonds by which every atom is reached from the first of its molecule, in that order."""
    i, j = np.array(bonds, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(bonds)), (i, j)), shape=(number, number)).tocsr()
    _, molecule_of = connected_components(graph, directed=False)
    tree = []
    for first in np.unique(molecule_of, return_index=True)[1]:
        reached, before = breadth_first_order(graph, int(first), directed=False)
        tree += [(int(before[atom]), int(atom)) for atom in reached[1:]]
    return tuple(tree)


def _whole(atoms: Atoms, tree: Sequence[tuple[int, int]]) -> Atoms:
    """A copy of a frame in which no molecule is cut by the boundary."""
    whole = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    positions = whole.positions
    for first, then in tree:
        crossed = _cells(positions[then] - positions[first], atoms)
        positions[then] -= crossed @ atoms.cell.array
    return whole


def _cells(vector: np.ndarray, atoms: Atoms) -> np.ndarray:
    """By how many cells a vector (Å, shape (3,)) is longer than that to the nearest image."""
    cells: np.ndarray = np.rint(np.linalg.solve(atoms.cell.array.T, vector)).astype(int)
    return cells
