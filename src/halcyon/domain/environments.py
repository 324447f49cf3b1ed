"""Classes of atoms whose surroundings change: clusters of a model's descriptors per element.

    import numpy as np
    from halcyon.domain.environments import environment_classes, fit_environments

    descriptors = np.random.default_rng(1).normal(size=(50, 3, 8))
    environments = fit_environments([["O", "H", "H"]] * 50, descriptors, seed=1)
    environment_classes(environments, ["O", "H", "H"], descriptors[0])  # e.g. O/0, H/1, H/0

Not for: classes that are fixed per atom (see `halcyon.systems.structures.atom_classes`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster import vq

from halcyon.errors import InputError

ENVIRONMENTS_AT_MOST = 4
"""Clusters per element."""
ENVIRONMENT_VALUES = 30
"""Training atoms of the smallest cluster: the range of fewer says little."""
SMALLEST_SCALE = 1e-3
"""Least scale of a descriptor, as a part of the greatest one of its element or class."""


@dataclass(frozen=True, kw_only=True)
class Environments:
    """Clusters of one element's descriptors.

    Attributes:
        scale: unit of each descriptor, D values.
        centroids: of each cluster, the largest cluster first, in the descriptors' own units.
    """

    scale: list[float]
    centroids: list[list[float]]


def fit_environments(
    elements: Sequence[Sequence[str]], descriptors: Sequence[np.ndarray], *, seed: int
) -> dict[str, Environments]:
    """Clusters of each element's descriptors on the training structures, by k-means.

    There are as many clusters as leave `ENVIRONMENT_VALUES` training atoms to the smallest, at
    most `ENVIRONMENTS_AT_MOST`.

    Args:
        elements: per frame, symbol of each atom.
        descriptors: per frame, shape (N, D).
        seed: of the first guess of the centroids.
    """
    symbols = np.concatenate([np.asarray(names) for names in elements])
    values = np.concatenate(list(descriptors)).astype(float)
    environments = {}
    for element in sorted(set(symbols.tolist())):
        rows = values[symbols == element]
        scale = descriptor_scale(rows)
        for number in range(ENVIRONMENTS_AT_MOST, 0, -1):
            random = np.random.default_rng(seed)
            centroids, _ = vq.kmeans2(rows / scale, number, iter=50, minit="++", rng=random)
            sizes = np.bincount(vq.vq(rows / scale, centroids)[0], minlength=number)
            if number == 1 or sizes.min() >= ENVIRONMENT_VALUES:
                break
        centroids = centroids[np.argsort(-sizes, kind="stable")] * scale
        environments[element] = Environments(scale=scale.tolist(), centroids=centroids.tolist())
    return environments


def descriptor_scale(descriptors: np.ndarray) -> np.ndarray:
    """Standard deviation of each descriptor; never zero, shape (D,)."""
    deviation = descriptors.std(axis=0)
    greatest = float(deviation.max())
    return np.maximum(deviation, SMALLEST_SCALE * greatest if greatest > 0 else 1.0)


def environment_classes(
    environments: dict[str, Environments], elements: Sequence[str], descriptors: np.ndarray
) -> list[str]:
    """Class of each atom of a frame: its element and the nearest of that element's centroids.

    Args:
        environments: from `fit_environments`.
        elements: symbol of each atom.
        descriptors: shape (N, D).

    Raises:
        InputError: an element without training structures.
    """
    names = []
    for element, values in zip(elements, descriptors, strict=True):
        if element not in environments:
            raise no_training_frames([element])
        of_element = environments[element]
        difference = (np.array(of_element.centroids) - values) / of_element.scale
        names.append(f"{element}/{int((difference**2).sum(axis=1).argmin())}")
    return names


def no_training_frames(classes: Sequence[str]) -> InputError:
    """Error for classes of atoms that no labelled training frame has."""
    return InputError(
        f"domain: no labelled training structure has atoms of class {', '.join(classes)}; "
        "raise seed_labels.train, or see why those labels failed in the summary"
    )
