"""How many molecules a frame has.

    from halcyon.systems.molecules import number_of_molecules

    number_of_molecules(atoms)  # 1

Not for: the bonds of a start structure or their orders (see `structures`).
"""

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from halcyon.systems.structures import BONDED

IONS = [3, 11, 12, 19, 20, 37, 38, 55, 56]
"""Alkali and alkaline earth metals: what touches their large ions is not bonded to them."""


def number_of_molecules(atoms: Atoms) -> int:
    """Connected parts of a frame, over periodic boundaries, too.

    Two atoms are connected where they are closer than `BONDED` times the sum of their covalent
    radii; ions of `IONS` never are. A part that is connected with its own image, as in a crystal,
    counts once.
    """
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BONDED))
    bonded = ~np.isin(atoms.numbers[first], IONS) & ~np.isin(atoms.numbers[second], IONS)
    first, second = first[bonded], second[bonded]
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(atoms), len(atoms)))
    return int(connected_components(graph, directed=False)[0])
