"""Farthest-point sampling: of many frames, those that differ most from the known and each other.

Frames of one structure are compared by the mean descriptor of each class of atoms, the classes
one after another. Means per class, since a frame needs a vector of fixed length that does not
change when equivalent atoms change places; per class rather than per element, since the carbons
of a molecule differ more from each other than either does in motion, and a mean over both hides
that one of them moved. In a liquid the classes are the elements, and both are the same.

    points = [fingerprint(values, classes) for values in descriptors]
    farthest(points, known, 5)  # [(index in points, distance), …], the farthest first

Not for: which frames may be taken at all, or how many of each structure (see `select`).
"""

from collections.abc import Sequence

import numpy as np
from skmatter.sample_selection import FPS

from halcyon.domain.environments import descriptor_scale


def fingerprint(descriptors: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """What a frame is compared by.

    Args:
        descriptors: of its atoms, shape (N, D).
        classes: class of each atom.

    Returns:
        Mean descriptor of each class, classes in order of their names, shape (classes × D,).
    """
    names = np.array(classes)
    values = np.asarray(descriptors, dtype=float)
    return np.concatenate([values[names == name].mean(axis=0) for name in sorted(set(classes))])


def farthest(
    points: Sequence[np.ndarray], known: Sequence[np.ndarray], number: int
) -> list[tuple[int, float | None]]:
    """Points in the order of farthest-point sampling that starts from the known ones.

    Each component is measured in its standard deviation over all points and known ones, as
    the scale of a model's descriptors is arbitrary.

    Args:
        points: each of shape (F,), F ≥ 2. Of equally far ones the first is taken.
        known: each of shape (F,). With none, sampling starts from the first of `points`.
        number: of points to take, at most all.

    Returns:
        For each point taken, its index in `points` and its distance, when it was taken, to the
        nearest of the known and taken, in standard deviations of a component; None for the first
        one where nothing was known.
    """
    if number == 0:
        return []
    # scikit-matter asks for two samples.
    if not len(known) and len(points) == 1:
        return [(0, None)]
    everything = np.stack([*known, *points])
    # Centred: it takes differences of squares, and small ones shall keep their digits.
    everything = (everything - everything.mean(axis=0)) / descriptor_scale(everything)
    begin = len(known)
    sampling = FPS(initialize=list(range(begin)) or 0, n_to_select=begin + number).fit(everything)
    squared = np.maximum(sampling.get_select_distance()[begin:], 0.0)
    taken = sampling.selected_idx_[begin:] - begin
    return [
        (int(i), float(distance) if np.isfinite(distance) else None)
        for i, distance in zip(taken, np.sqrt(squared), strict=True)
    ]
