"""Mean lengths of bonds over labelled training frames.

    from halcyon.domain.bonds import mean_lengths

    mean_lengths(train, {"water": [(0, 1), (0, 2)]})["water"]  # each (i, j, mean length in Å)

Not for: which atoms are bonded (see `halcyon.systems.structures.bonds`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from halcyon.domain.intervals import Bond
from halcyon.errors import InputError


def mean_lengths(
    frames: Sequence[Atoms], bonded: Mapping[str, Sequence[tuple[int, int]]]
) -> dict[str, list[Bond]]:
    """Mean length of each bond, to the nearest image where a frame is periodic.

    Args:
        frames: with `info["structure"]`.
        bonded: bonded pairs of each structure.

    Returns:
        Per structure, (i, j, mean length in Å).

    Raises:
        InputError: a structure has no frame.
    """
    bonds = {}
    for name, pairs in bonded.items():
        distances = [
            frame.get_all_distances(mic=bool(frame.pbc.any()))
            for frame in frames
            if frame.info["structure"] == name
        ]
        if not distances:
            raise InputError(
                f"structure {name}: none of its training frames has a label. Why their "
                "calculations failed stands in the label files and in the summary"
            )
        mean = np.mean(distances, axis=0)
        bonds[name] = [(i, j, float(mean[i, j])) for i, j in pairs]
    return bonds
