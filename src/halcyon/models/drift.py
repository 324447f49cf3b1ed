"""How far a model's latent features of new frames lie from those of the frames it learned.

A model that transfers sees new frames as more of the same: features of each class of atoms keep
their mean, and stay close to one Gaussian cloud. Without that, predictions are extrapolations,
whatever the energies look like. For each class of atoms, features are projected on the principal
axes of the training frames, and two numbers are given:

- `shift`: distance between the two means, each axis in training standard deviations, divided by the
  square root of the number of axes: 0 for none, 1 for a standard deviation on every axis;
- `kurtosis`: Mardia's multivariate kurtosis, mean of (squared Mahalanobis distance)², divided by
  d(d + 2), its value for a Gaussian in d axes: 1 for a Gaussian, above for heavy tails or outliers,
  below for several clusters (K. V. Mardia, Biometrika 57, 519 (1970)). Each set of frames is
  measured by its own mean and covariance.

Not for: whether one prediction may be trusted at a step (see `signals`).

    known = by_class(train, evaluate(model, train).descriptors, classes)
    compared(known, by_class(frames, evaluate(model, frames).descriptors, classes))
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

SCHEMA = 1
MAX_AXES = 8
EXPLAINED = 0.99
"""Principal axes are taken until they explain so much of the variance, at most `MAX_AXES`."""
FEWEST_PER_AXIS = 5
"""Atoms per axis, below which covariances mean nothing: fewer axes are taken."""


def by_class(
    frames: Sequence[Atoms],
    descriptors: Sequence[np.ndarray],
    classes: Mapping[str, Sequence[str]],
) -> dict[str, np.ndarray]:
    """Descriptors of all atoms of a class, whatever frame they stand in.

    Args:
        frames: with `info["structure"]`.
        descriptors: of each frame, (N, D).
        classes: of each structure, the class of each atom.

    Returns:
        Shape (n, D) by class.
    """
    found: dict[str, list[np.ndarray]] = {}
    for atoms, features in zip(frames, descriptors, strict=True):
        for name, row in zip(classes[atoms.info["structure"]], features, strict=True):
            found.setdefault(name, []).append(row)
    return {name: np.array(rows, dtype=float) for name, rows in sorted(found.items())}


def compared(
    known: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Drift of each class that both have.

    Args:
        known: descriptors of training frames by class, each (n, D).
        new: the same of other frames.

    Returns:
        By class: `atoms` (of the new frames), `axes`, `shift`, `kurtosis_known` and
        `kurtosis_new`; a class with too few atoms, or whose features do not vary, has None.
    """
    return {name: _drift(known[name], new[name]) for name in known if name in new}


def _drift(known: np.ndarray, new: np.ndarray) -> dict[str, Any]:
    nothing = {"axes": 0, "shift": None, "kurtosis_known": None, "kurtosis_new": None}
    at_most = min(MAX_AXES, len(known) // FEWEST_PER_AXIS, len(new) // FEWEST_PER_AXIS)
    centred = known - known.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    # Rounding makes axes of features that do not vary at all.
    real = sizes > 1e-6 * max(np.abs(known).max() * np.sqrt(len(known)), 1e-12)
    if at_most < 1 or not real[0]:
        return nothing | {"atoms": len(new)}
    share = np.cumsum(sizes**2) / np.sum(sizes**2)
    n = min(at_most, 1 + int(np.searchsorted(share, EXPLAINED)), int(real.sum()))
    spread = sizes[:n] / np.sqrt(len(known) - 1)
    first = centred @ axes[:n].T / spread
    second = (new - known.mean(0)) @ axes[:n].T / spread
    return {
        "atoms": len(new),
        "axes": n,
        "shift": float(np.sqrt(np.mean(second.mean(0) ** 2))),
        "kurtosis_known": mardia_kurtosis(first),
        "kurtosis_new": mardia_kurtosis(second),
    }


def mardia_kurtosis(points: np.ndarray) -> float | None:
    """Mardia's kurtosis over its value for a Gaussian; None where the points do not span the axes.

    Args:
        points: (n, d).
    """
    n, d = points.shape
    centred = points - points.mean(0)
    covariance = centred.T @ centred / n
    if n <= d or np.linalg.cond(covariance) > 1e12:
        return None
    squared = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
    return float(np.mean(squared**2) / (d * (d + 2)))
