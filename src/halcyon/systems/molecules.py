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


def number_of_molecules(atoms: Atoms) -> int:
    """Connected parts of a frame, over periodic boundaries, too.

    Two atoms are connected where they are closer than `BONDED` times the sum of their covalent
    radii. A part that is connected with its own image, as in a crystal, counts once.
    """
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BONDED))
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(atoms), len(atoms)))
    return int(connected_components(graph, directed=False)[0])
