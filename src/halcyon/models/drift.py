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

    from halcyon.models.drift import by_class, compared
    from halcyon.models.mace import evaluate

    learned = by_class(train, evaluate("m.model", train).descriptors, classes)
    compared(learned, by_class(frames, evaluate("m.model", frames).descriptors, classes))

Not for: whether one prediction may be trusted at a step (see `halcyon.domain.signals`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from halcyon.verdict.forms import File, Form

MAX_AXES = 8
EXPLAINED = 0.99
"""Principal axes are taken until they explain this part of the variance, at most `MAX_AXES`."""
FEWEST_PER_AXIS = 5
"""With fewer atoms for each axis covariances mean nothing: fewer axes are taken."""


class ClassDrift(Form):
    """Drift of the features of one class of atoms.

    Attributes:
        atoms: number of atoms of the class in the new frames.
        axes: number of principal axes that were compared; 0: too few atoms, or features that do
            not vary, and no numbers.
        shift: distance between the two means, see the module.
        kurtosis_known: Mardia's kurtosis of the training frames over its value for a Gaussian.
        kurtosis_new: that of the new frames.
    """

    atoms: int
    axes: int
    shift: float | None
    kurtosis_known: float | None
    kurtosis_new: float | None


class Drift(File):
    """`drift.json`: drift of the features of frames that a model did not learn.

    Attributes:
        frames: number of new frames.
        before: drift by class in the model that was fine-tuned; None: there was none.
        after: drift by class in the model that was made of it.
    """

    frames: int
    before: dict[str, ClassDrift] | None
    after: dict[str, ClassDrift]


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
    rows_of: dict[str, list[np.ndarray]] = {}
    for atoms, features in zip(frames, descriptors, strict=True):
        for name, row in zip(classes[atoms.info["structure"]], features, strict=True):
            rows_of.setdefault(name, []).append(row)
    return {name: np.array(rows, dtype=float) for name, rows in sorted(rows_of.items())}


def compared(
    learned: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
) -> dict[str, ClassDrift]:
    """Drift of each class that both have.

    Args:
        learned: descriptors of training frames by class, each (n, D).
        new: descriptors of other frames by class.
    """
    return {name: _drift(learned[name], new[name]) for name in learned if name in new}


def _drift(learned: np.ndarray, new: np.ndarray) -> ClassDrift:
    at_most = min(MAX_AXES, len(learned) // FEWEST_PER_AXIS, len(new) // FEWEST_PER_AXIS)
    centred = learned - learned.mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    # Rounding makes axes of features that do not vary at all.
    varies = sizes > 1e-6 * max(np.abs(learned).max() * np.sqrt(len(learned)), 1e-12)
    if at_most < 1 or not varies[0]:
        return ClassDrift(
            atoms=len(new), axes=0, shift=None, kurtosis_known=None, kurtosis_new=None
        )
    share = np.cumsum(sizes**2) / np.sum(sizes**2)
    n = min(at_most, 1 + int(np.searchsorted(share, EXPLAINED)), int(varies.sum()))
    spread = sizes[:n] / np.sqrt(len(learned) - 1)
    first = centred @ axes[:n].T / spread
    second = (new - learned.mean(0)) @ axes[:n].T / spread
    return ClassDrift(
        atoms=len(new),
        axes=n,
        shift=float(np.sqrt(np.mean(second.mean(0) ** 2))),
        kurtosis_known=mardia_kurtosis(first),
        kurtosis_new=mardia_kurtosis(second),
    )


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
