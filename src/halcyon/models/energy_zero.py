"""The energies of the elements: the zero that a model counts energies from.

    from halcyon.models.energy_zero import fit_e0s

    fit_e0s(frames)  # eV, by atomic number

Labels of a campaign may lie far from each other, where replicas went astray. The fits here are
robust, so that such labels do not move the energies of all others. Where bonds break, the energies
are those of free atoms instead (`labels.free_atoms`), and nothing is fitted.

Not for: interaction energies, which a training fits (see `learner`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms

from halcyon.models import mace

HUBER = (1.345, 5.0)
"""Robust standard deviations from which on an energy's error counts by its absolute value: first
few, which tells frames gone astray from others; then, with the deviation that was found so, as many
as nearly all others have, so that these are averaged."""
NORMAL_MEDIAN = 0.6745
"""Median of the absolute value of a normal variable, in standard deviations."""
LEAST_E0_ERROR_EV = 1e-6
"""Changes of elements' energies, and errors of an atom, under which nothing is weighed anew."""
MOST_FITS = 100


def fit_e0s(frames: Sequence[Atoms], known: Mapping[int, float] | None = None) -> dict[int, float]:
    """Energies of the elements that explain the frames' total energies best.

    A robust minimum-norm fit of energies per atom to compositions (P. J. Huber, Robust Statistics,
    1981): squares of errors, and of those beyond five robust standard deviations absolute values.
    Frames that replicas went astray to would move all others otherwise. It is defined even where
    all frames have one composition, and only the sum over a frame has a meaning.

    Args:
        frames: frames with `info["energy"]`, eV.
        known: energies of elements that are not fitted, those of their free atoms, eV, by atomic
            number.

    Returns:
        Energy of each element that occurs or is known, eV, by atomic number.
    """
    return _fit_e0s(frames, np.array([atoms.info["energy"] for atoms in frames]), known or {})


def unexplained_e0s(
    model: Any, frames: Sequence[Atoms], known: Mapping[int, float] | None = None
) -> dict[int, float]:
    """Energies of elements, eV, fitted to total energies minus the model's interaction energies.

    Those of `known` are taken as they are, as in `fit_e0s`.
    """
    inner = [nodes.sum() for nodes in mace.evaluate(model, frames).node_energy]
    unexplained = np.array([atoms.info["energy"] for atoms in frames]) - inner
    return _fit_e0s(frames, unexplained, known or {})


def move_energy_zero(
    model: Any, frames: Sequence[Atoms], known: Mapping[int, float] | None = None
) -> dict[int, float]:
    """Set the elements' energies of a model to `unexplained_e0s`, so that it has no offset.

    Interaction energies, and with them node energies and forces, stay as they are. An element
    without a frame that is not in `known` gets 0 eV.

    Returns:
        The energies of the elements that occur or are known, eV.
    """
    e0s = unexplained_e0s(model, frames, known)
    table = model.atomic_energies_fn.atomic_energies
    values = [e0s.get(int(z), 0.0) for z in model.atomic_numbers]
    table.copy_(torch.tensor(values, dtype=table.dtype, device=table.device).expand_as(table))
    return e0s


def _fit_e0s(
    frames: Sequence[Atoms], energies: np.ndarray, known: Mapping[int, float]
) -> dict[int, float]:
    """Huber's estimates, by weighted least squares again and again; errors are per atom."""
    elements = sorted({int(z) for atoms in frames for z in atoms.numbers} - known.keys())
    if not elements:
        return dict(known)
    energies = np.asarray(energies) - [
        sum(known.get(int(z), 0.0) for z in atoms.numbers) for atoms in frames
    ]
    composition = np.array([[np.sum(atoms.numbers == z) for z in elements] for atoms in frames])
    sizes = np.array([len(atoms) for atoms in frames])
    shares, per_atom = composition / sizes[:, None], energies / sizes

    def fitted(weights: np.ndarray) -> np.ndarray:
        root = np.sqrt(weights)
        return np.linalg.lstsq(shares * root[:, None], per_atom * root, rcond=None)[0]

    solution, spread = fitted(np.ones(len(sizes))), np.inf
    for limit in HUBER:
        for _ in range(MOST_FITS):
            off = np.abs(per_atom - shares @ solution)
            if limit == HUBER[0]:
                spread = max(float(np.median(off)) / NORMAL_MEDIAN, LEAST_E0_ERROR_EV)
            before = solution
            solution = fitted(np.minimum(1.0, limit * spread / np.maximum(off, LEAST_E0_ERROR_EV)))
            if np.abs(solution - before).max() < LEAST_E0_ERROR_EV:
                break
    return dict(known) | dict(zip(elements, solution.tolist(), strict=True))
