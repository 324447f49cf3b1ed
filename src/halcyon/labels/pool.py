"""Campaigns in retrospect: frames of a published set in place of a campaign's own.

A set has labels for its own frames only, and dynamics never come upon one of them. So the seed is
drawn from the set, and each frame that selection would have labelled is replaced by the most
similar one of the set that has no record yet. How far that one is away stands in its `reason`.
Frames that are far from all of the set are left, and counted: they show what the set lacks, not
what the method can do.

Not for: looking labels up (`reference.dataset`), or choosing what is worth one (`select`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from halcyon.errors import InputError
from halcyon.frames import structure_key


def frames_like(pool: Sequence[Atoms], start: Atoms) -> list[Atoms]:
    """Frames of a structure, in its order of elements.

    Args:
        pool: with `info` keys charge and multiplicity.
        start: the start structure; a molecule's box is taken from it.

    Returns:
        Frames with the composition, charge, multiplicity and periodicity of `start`, with its
        `info`. Which of several atoms of an element is which is not known.
    """
    found = []
    places = np.argsort(start.numbers, kind="stable")
    for frame in pool:
        if (
            len(frame) != len(start)
            or any(frame.info[k] != start.info[k] for k in ("charge", "multiplicity"))
            or (frame.pbc != start.pbc).any()
            or (np.sort(frame.numbers) != start.numbers[places]).any()
        ):
            continue
        mine = start.copy()
        mine.info = dict(start.info)
        mine.positions[places] = frame.positions[np.argsort(frame.numbers, kind="stable")]
        if frame.pbc.any():
            mine.set_cell(frame.cell)
        found.append(mine)
    return found


def nearest(
    frames: Sequence[Atoms],
    pools: Mapping[str, Sequence[Atoms]],
    taken: set[str],
    *,
    max_difference: float = np.inf,
) -> list[Atoms]:
    """Replace frames by the most similar ones of a pool, each at most once.

    Frames are compared by their interatomic distances, sorted within each pair of elements: a
    root-mean-square difference, Å, that heeds neither rotation nor the order of atoms.

    Args:
        frames: with `info["structure"]`.
        pools: frames by structure, from `frames_like`.
        taken: keys that have a record already.
        max_difference: a frame that differs more from all that are not taken is left out, Å.

    Returns:
        A frame of the pool for each frame, with its `info` but for `atom` (the replaced frame's),
        and with key and reason of its own; fewer where the pool is far away, or used up.

    Raises:
        InputError: the pool has no frame of a structure at all.
    """
    taken = set(taken)
    prints: dict[str, tuple[np.ndarray, list[str]]] = {}
    found = []
    for frame in frames:
        structure = frame.info["structure"]
        pool = pools.get(structure, ())
        if not pool:
            raise InputError(f"structure {structure}: not in the data set (reference.files)")
        if structure not in prints:
            keys = [structure_key(one) for one in pool]
            prints[structure] = np.array([_distances(one) for one in pool]), keys
        all_distances, keys = prints[structure]
        away = np.sqrt(np.mean((all_distances - _distances(frame)) ** 2, axis=1))
        best = next((int(i) for i in np.argsort(away) if keys[i] not in taken), None)
        if best is None or away[best] > max_difference:
            continue
        taken.add(keys[best])
        chosen = pool[best].copy()
        chosen.info = {k: v for k, v in frame.info.items() if k not in ("atom", "energy")}
        chosen.info |= {"key": keys[best], "reason": f"nearest in the set: {away[best]:.3f} Å away"}
        found.append(chosen)
    return found


def _distances(atoms: Atoms) -> np.ndarray:
    """Interatomic distances sorted within each pair of elements, shape (N(N-1)/2,), Å."""
    one, other = np.triu_indices(len(atoms), k=1)
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))[one, other]
    low, high = np.sort([atoms.numbers[one], atoms.numbers[other]], axis=0)
    return distances[np.lexsort((distances, high, low))]
