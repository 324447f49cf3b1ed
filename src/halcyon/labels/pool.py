"""Campaigns in retrospect: frames of a published set in place of a campaign's own.

A set has labels for its own frames only, and dynamics never visit exactly one of them. So the seed
is drawn from the set, and each frame that selection would have labelled is replaced by the most
similar frame of the set that has no record yet. How far away that one is stands in its `reason`.
Selected frames that are far from all of the set are left out, and counted: they show what the set
lacks, not what the method can do.

A set may list its atoms in another order than the start structure. Where bonds must hold (`kind:
molecule` and `kind: liquid`), the graph of bonds tells which atom is which, and frames with other
bonds are left out.

Not for: looking labels up (`reference.dataset`), or choosing frames worth a label
(`exploration.selection`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from halcyon.errors import InputError
from halcyon.frames import structure_key
from halcyon.systems.fingerprint import rms_difference, sorted_pair_distances
from halcyon.systems.graphs import Bonds, matching_order


def frames_like(pool: Sequence[Atoms], start: Atoms, bonds: Bonds | None = None) -> list[Atoms]:
    """Frames of a structure, in its order of atoms.

    Args:
        pool: with `info` keys charge and multiplicity.
        start: the start structure; a molecule's box is taken from it.
        bonds: pairs of its bonded atoms. None: bonds may break, and atoms are put in its order of
            elements only; which of several atoms of an element is which is then not known.

    Returns:
        Frames with the composition, charge, multiplicity, periodicity and, if they count, the
        bonds of `start`, with its `info`.
    """
    frames = []
    for published, order in ordered(pool, start, bonds):
        if order is not None:
            frame = start.copy()
            frame.info = dict(start.info)
            frame.positions = published.positions[order]
            if published.pbc.any():
                frame.set_cell(published.cell)
            frames.append(frame)
    return frames


def bonded_otherwise(pool: Sequence[Atoms], start: Atoms, bonds: Bonds) -> list[Atoms]:
    """Frames of the pool that `frames_like` leaves out for their bonds alone.

    They are other isomers, or a bond of theirs is broken.

    Args:
        pool: see `frames_like`.
        start: see `frames_like`.
        bonds: see `frames_like`.
    """
    return [published for published, order in ordered(pool, start, bonds) if order is None]


def bonds_in_words(numbers: Sequence[int] | np.ndarray, bonds: Bonds) -> str:
    """How many bonds of which elements there are, e.g. `2 H-O`.

    Args:
        numbers: atomic numbers.
        bonds: pairs of bonded atoms.
    """
    counts = Counter("-".join(sorted(chemical_symbols[numbers[k]] for k in pair)) for pair in bonds)
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "none"


def ordered(
    pool: Sequence[Atoms], start: Atoms, bonds: Bonds | None
) -> Iterator[tuple[Atoms, np.ndarray | None]]:
    """Frames with the composition and state of a structure, each with its order of atoms.

    The order is None where no order gives the structure's bonds.

    Args:
        pool: see `frames_like`.
        start: see `frames_like`.
        bonds: see `frames_like`.
    """
    places = np.argsort(np.argsort(start.numbers, kind="stable"))
    known: list[np.ndarray] = []  # frames of a set have few orders of atoms
    for published in pool:
        if (
            len(published) != len(start)
            or any(published.info[k] != start.info[k] for k in ("charge", "multiplicity"))
            or (published.pbc != start.pbc).any()
            or (np.sort(published.numbers) != np.sort(start.numbers)).any()
        ):
            continue
        if bonds is None:
            yield published, np.argsort(published.numbers, kind="stable")[places]
            continue
        order = matching_order(start.numbers, bonds, published, known=known)
        if order is not None and not any((order == other).all() for other in known):
            known.append(order)
        yield published, order


@dataclass(frozen=True)
class PublishedSet:
    """A published set as a campaign in retrospect uses it.

    Attributes:
        pools: frames by structure, from `frames_like`.
        max_difference_A: frames that differ more than this from all of the set are left out, Å.
    """

    pools: Mapping[str, Sequence[Atoms]]
    max_difference_A: float

    def nearest(
        self, frames: Sequence[Atoms], labelled: Sequence[Atoms], *, again: bool = False
    ) -> list[Atoms]:
        """The most similar frames of the set in place of these; see the function `nearest`.

        Args:
            frames: with `info["structure"]`.
            labelled: frames that have a record already, with `info["key"]`.
            again: see the function.
        """
        taken = {frame.info["key"] for frame in labelled}
        return nearest(frames, self.pools, taken, max_difference=self.max_difference_A, again=again)


def nearest(
    frames: Sequence[Atoms],
    pools: Mapping[str, Sequence[Atoms]],
    taken: set[str],
    *,
    max_difference: float = np.inf,
    again: bool = False,
) -> list[Atoms]:
    """Replace frames by the most similar ones of a pool, each at most once.

    Frames are compared by their interatomic distances; neither rotation nor the order of atoms
    counts (`fingerprint.sorted_pair_distances`).

    Args:
        frames: with `info["structure"]`.
        pools: frames by structure, from `frames_like`.
        taken: keys that have a record already.
        max_difference: a frame that differs more than this from every frame of the pool that is
            not taken is left out, Å.
        again: whether a frame of the pool may stand for several of these frames, where none is
            left that does not.

    Returns:
        For each frame a frame of the pool, with key and reason of its own and the rest of the
        `info` of the frame that it replaces, but for `atom`. There are fewer where the pool is far
        away, or used up.

    Raises:
        InputError: the pool has no frame of a structure at all.
    """
    before, taken = set(taken), set(taken)
    by_structure: dict[str, tuple[np.ndarray, list[str]]] = {}
    replacements = []
    for frame in frames:
        structure = frame.info["structure"]
        pool = pools.get(structure, ())
        if not pool:
            raise InputError(f"structure {structure}: not in the data set (reference.files)")
        if structure not in by_structure:
            by_structure[structure] = (
                np.array([sorted_pair_distances(published) for published in pool]),
                [structure_key(published) for published in pool],
            )
        distances, keys = by_structure[structure]
        differences = rms_difference(sorted_pair_distances(frame), distances)
        order = [int(i) for i in np.argsort(differences) if differences[i] <= max_difference]
        allowed = [i for i in order if keys[i] not in taken]
        if not allowed and again:
            allowed = [i for i in order if keys[i] not in before]
        if not allowed:
            continue
        best = allowed[0]
        taken.add(keys[best])
        chosen = pool[best].copy()
        chosen.info = {k: v for k, v in frame.info.items() if k not in ("atom", "energy")}
        chosen.info |= {
            "key": keys[best],
            "reason": f"nearest in the set: {differences[best]:.3f} Å away",
        }
        replacements.append(chosen)
    return replacements
