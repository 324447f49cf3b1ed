"""A frame as the distances of its pairs of atoms: how much do two frames differ?

    import numpy as np
    from halcyon.systems.fingerprint import pair_distances, rms_difference

    others = np.stack([pair_distances(frame) for frame in frames])
    rms_difference(pair_distances(atoms), others)  # Å, one number for each frame

Neither translation nor rotation changes these distances; `sorted_pair_distances` do not depend on
the order of atoms either.

Not for: what the model sees in a frame (its descriptors, see `exploration.spread`), or whether two
frames are the same structure (`frames.structure_key`).
"""

import numpy as np
from ase import Atoms


def pair_distances(atoms: Atoms) -> np.ndarray:
    """Distances of all pairs of atoms, the shortest way over periodic boundaries.

    Returns:
        Shape (N(N-1)/2,), Å, in the order of the frame's atoms.
    """
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    return distances[np.triu_indices(len(atoms), k=1)]


def sorted_pair_distances(atoms: Atoms) -> np.ndarray:
    """Distances of all pairs of atoms, sorted within each pair of elements.

    Frames of the same composition have the same order of pairs of elements, whatever the order of
    their atoms.

    Returns:
        Shape (N(N-1)/2,), Å.
    """
    first, second = np.triu_indices(len(atoms), k=1)
    low, high = np.sort([atoms.numbers[first], atoms.numbers[second]], axis=0)
    distances = pair_distances(atoms)
    return distances[np.lexsort((distances, high, low))]


def rms_difference(distances: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Root mean square, over pairs of atoms, of the differences between frames.

    Args:
        distances: of one frame, shape (P,), Å.
        others: of other frames, shape (M, P), or of one, shape (P,), Å.

    Returns:
        Shape (M,), or a number, Å.
    """
    return np.asarray(np.sqrt(np.mean((others - distances) ** 2, axis=-1)))
