"""How many molecules a frame has.

    from halcyon.systems.molecules import number_of_molecules

    number_of_molecules(atoms)  # 1

Not for: the bonds of a start structure or their orders (see `structures`).
"""

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from halcyon.systems.structures import BONDED

IONS = [3, 11, 12, 19, 20, 37, 38, 55, 56]
"""Alkali and alkaline earth metals: what touches their large ions is not bonded to them."""


ATOMS_OF_A_UNIT = 10
"""So many atoms of a crystal count as one molecule: ethanol has nine."""


def counted(kind: str) -> str:
    """What `number_of_molecules` counts in a system of a kind, in words."""
    return "molecule or ten atoms" if kind in ("solid", "slab") else "molecule"


def number_of_molecules(atoms: Atoms, *, kind: str = "molecule") -> int:
    """Molecules of a frame, over periodic boundaries, too: what rates are given for.

    They are its connected parts. Two atoms are connected where they are closer than `BONDED` times
    the sum of their covalent radii; ions of `IONS` never are. A part that is connected with its own
    image counts once. In solids and slabs, where that would make one molecule of silicon and one of
    each ion of salt, only finite parts of two atoms or more are molecules; of all other atoms each
    `ATOMS_OF_A_UNIT` count as one, the last ones also if they are fewer.

    Args:
        atoms: the frame.
        kind: of the system.
    """
    if kind not in ("solid", "slab"):
        return int(connected_components(_graph(*_bonds(atoms)[:2], len(atoms)), directed=False)[0])
    molecules = finite_molecules(atoms)
    others = len(atoms) - sum(map(len, molecules))
    return len(molecules) + -(-others // ATOMS_OF_A_UNIT)


def finite_molecules(atoms: Atoms) -> list[np.ndarray]:
    """Atoms of each connected part that has two atoms or more and does not go on in its image."""
    first, second, shifts = _bonds(atoms)
    graph = _graph(first, second, len(atoms))
    number, part = connected_components(graph, directed=False)
    # The cell in which each atom is, seen along bonds from the first atom of its part.
    cell = np.zeros((len(atoms), 3), dtype=int)
    of_bond = {(i, j): s for i, j, s in zip(first.tolist(), second.tolist(), shifts, strict=True)}
    parts = [np.flatnonzero(part == n) for n in range(number)]
    for members in parts:
        order, before = breadth_first_order(graph, members[0], directed=False)
        for atom in order[1:].tolist():
            cell[atom] = cell[before[atom]] + of_bond[int(before[atom]), atom]
    goes_on = set(part[first[(cell[first] + shifts != cell[second]).any(axis=1)]].tolist())
    return [m for n, m in enumerate(parts) if len(m) > 1 and n not in goes_on]


def _bonds(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Connected pairs, both ways, and the cell of the second atom, shapes (P,), (P,), (P, 3)."""
    first, second, shifts = neighbor_list("ijS", atoms, natural_cutoffs(atoms, mult=BONDED))
    bonded = ~np.isin(atoms.numbers[first], IONS) & ~np.isin(atoms.numbers[second], IONS)
    return first[bonded], second[bonded], shifts[bonded]


def _graph(first: np.ndarray, second: np.ndarray, n_atoms: int) -> csr_array:
    return coo_array((np.ones(len(first)), (first, second)), shape=(n_atoms, n_atoms)).tocsr()
