"""Farthest-point sampling: the frames that differ most from learned ones and from each other.

Frames of one structure are compared by the mean descriptor of each class of atoms, the classes one
after another. A mean over a class gives every frame a vector of the same length, which does not
change when equivalent atoms change places. A mean over all atoms of an element would hide much: the
carbons of a molecule differ more from each other than either changes in motion. In a liquid the
classes are the elements.

    from halcyon.exploration.spread import farthest, fingerprint
    from halcyon.models.mace import evaluate

    descriptors = evaluate("m.model", frames).descriptors
    points = [fingerprint(values, classes["water"]) for values in descriptors]
    farthest(points[10:], points[:10], 5)  # [(index, distance), …], the farthest first

Not for: which frames may be taken, or how many of each structure (see `selection`).
"""

from collections.abc import Sequence

import numpy as np

from halcyon.domain.environments import descriptor_scale


def fingerprint(descriptors: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Mean descriptors by which a frame is compared with others.

    Args:
        descriptors: of the frame's atoms, shape (N, D).
        classes: class of each atom.

    Returns:
        Mean descriptor of each class, classes in order of their names, shape (classes × D,).
    """
    names = np.array(classes)
    values = np.asarray(descriptors, dtype=float)
    return np.concatenate([values[names == name].mean(axis=0) for name in sorted(set(classes))])


def farthest(
    points: Sequence[np.ndarray], learned: Sequence[np.ndarray], number: int
) -> list[tuple[int, float | None]]:
    """Points in the order of farthest-point sampling that starts from learned ones.

    Each component is measured in its standard deviation over all points and learned ones, since
    the scale of a model's descriptors is arbitrary.

    Args:
        points: each of shape (F,), F ≥ 2. The first of equally far points is taken.
        learned: each of shape (F,). Without any, sampling starts from the first of `points`.
        number: of points to take, at most all.

    Returns:
        For each point taken, its index in `points` and its distance to the nearest of the points
        that were learned or taken before it, in standard deviations of a component. The distance
        is None for the first point if nothing was learned.
    """
    if number == 0:
        return []
    # scikit-matter needs two samples at least.
    if not len(learned) and len(points) == 1:
        return [(0, None)]
    everything = np.stack([*learned, *points])
    # Centred, since scikit-matter takes differences of squares, of which small ones lose digits.
    everything = (everything - everything.mean(axis=0)) / descriptor_scale(everything)
    begin = len(learned)
    from skmatter.sample_selection import FPS

    sampling = FPS(initialize=list(range(begin)) or 0, n_to_select=begin + number).fit(everything)
    squared = np.maximum(sampling.get_select_distance()[begin:], 0.0)
    taken = sampling.selected_idx_[begin:] - begin
    return [
        (int(i), float(distance) if np.isfinite(distance) else None)
        for i, distance in zip(taken, np.sqrt(squared), strict=True)
    ]
