"""Signals that `signal_truth` compares: by how much an atom is unlike what the model learned.

Each is fitted to what is known of a model and returns, for described frames, a number per atom;
greater is worse. Only their order counts here.

    measure = SIGNALS["latent"](Known(train, validation, teacher))
    measure(frames)  # shape (N,)

Not for: thresholds, or signals in a run (see `halcyon.domain.signals`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist
from sklearn.mixture import GaussianMixture

from halcyon.config import XtbReference
from halcyon.domain.calibration import fit_normal
from halcyon.domain.environments import descriptor_scale, environment_classes, fit_environments
from halcyon.domain.states import State
from halcyon.labels.reference.xtb import Xtb
from halcyon.models.batched import BatchedMace
from signals.described import FRAMES_AT_ONCE, Described


@dataclass(frozen=True)
class Known:
    """What is known of a model when its domain is fitted.

    Attributes:
        train: frames that it learned.
        validation: labelled frames that it did not learn.
        teacher: frames that it was pre-trained on; None: from scratch.
        seed: of clusters and resampling.
    """

    train: Described
    validation: Described
    teacher: Described | None
    seed: int


Measure = Callable[[Described], np.ndarray]
"""Described frames → a number per atom, shape (N,)."""


def _by_class(
    train: Described,
    values: Callable[[Described], np.ndarray],
    fit: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    classes: Callable[[Described], np.ndarray] = lambda d: d.classes,
) -> Measure:
    """Fit something to each class's rows, and apply it to the same class's rows of other frames."""
    rows, names = values(train), classes(train)
    fitted = {name: fit(rows[names == name]) for name in np.unique(names)}

    def measure(frames: Described) -> np.ndarray:
        rows, names = values(frames), classes(frames)
        answer = np.full(len(rows), np.inf)  # a class that was never seen
        for name, of_class in fitted.items():
            if (here := names == name).any():
                answer[here] = of_class(rows[here])
        return answer

    return measure


def mahalanobis(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Distance from the mean in units of the (shrunk) covariance, as the product's `latent`."""
    mean, whiten = fit_normal(rows)
    return lambda new: np.linalg.norm((new - mean) @ whiten, axis=1)


def nearest(k: int, *, white: bool) -> Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Mean distance of the k nearest training atoms of the class."""

    def fit(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        mean, whiten = (
            fit_normal(rows) if white else (rows.mean(axis=0), np.diag(1 / descriptor_scale(rows)))
        )
        known = (rows - mean) @ whiten

        def measure(new: np.ndarray) -> np.ndarray:
            distance = cdist((new - mean) @ whiten, known)
            least = min(k, len(known))
            return np.partition(distance, least - 1, axis=1)[:, :least].mean(axis=1)

        return measure

    return fit


def mixture(seed: int) -> Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Minus the logarithm of a mixture of normal distributions; their number by BIC, up to 4."""

    def fit(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        mean, whiten = fit_normal(rows)
        white = (rows - mean) @ whiten
        models = [
            GaussianMixture(
                n, covariance_type="diag", reg_covar=0.05, random_state=seed, n_init=1
            ).fit(white)
            for n in range(1, min(4, len(rows) // 10) + 1)
        ]
        if not models:
            return lambda new: np.linalg.norm((new - mean) @ whiten, axis=1)
        best = min(models, key=lambda model: model.bic(white))
        return lambda new: -best.score_samples((new - mean) @ whiten)

    return fit


def outside_interval(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Signed distance outside the range of the training values, in widths: negative inside."""
    low, high = rows.min(), rows.max()
    width = max(high - low, 1e-9)
    return lambda new: np.maximum(low - new[:, 0], new[:, 0] - high) / width


def around(measure: Measure, how: str, *, bonded: bool) -> Measure:
    """A signal carried over to the atoms that it acts on: an atom's energy moves its neighbours.

    Args:
        measure: of the atom itself.
        how: `max`; `mean`, of itself and neighbours; `rms`, with weights that fall off smoothly.
        bonded: of bonded neighbours only, not of all within the cutoff.
    """

    def smoothed(frames: Described) -> np.ndarray:
        values = measure(frames)
        if bonded:
            i, j = frames.bonded
            weight = np.ones(len(i))
        else:
            i, j, r = frames.neighbours
            weight = (0.5 * (1 + np.cos(np.pi * r / 4.0))) if how == "rms" else np.ones(len(i))
        if how == "max":
            answer = values.copy()
            np.maximum.at(answer, i, values[j])
            return answer
        power = 2 if how == "rms" else 1
        total, weights = values**power, np.ones(len(values))
        np.add.at(total, i, weight * values[j] ** power)
        np.add.at(weights, i, weight)
        return (total / weights) ** (1 / power)

    return smoothed


def _rigidity(known: Known, ridge: float = 1e-6) -> np.ndarray:
    """Inverse of the last layer's curvature: K × K (F. Bigi et al., 2024; S. Chong et al.)."""
    return np.linalg.inv(_curvature(known.train, ridge))


def _curvature(frames: Described, ridge: float, weights: np.ndarray | None = None) -> np.ndarray:
    """Σ over frames of F Fᵀ/N² and over force components of J Jᵀ/3N, as in the loss."""
    features, slopes, sizes = frames.readout, frames.slopes, np.array(frames.sizes)
    weights = np.ones(len(sizes)) if weights is None else weights
    total = np.zeros((len(sizes), features.shape[1]))
    np.add.at(total, frames.frame, features)
    total /= sizes[:, None]
    flat = slopes.reshape(-1, slopes.shape[2])
    of_component = np.repeat(weights[frames.frame] / (3 * sizes[frames.frame]), 3)
    curvature = (total * weights[:, None]).T @ total + (flat * of_component[:, None]).T @ flat
    return curvature + ridge * np.trace(curvature) / len(curvature) * np.eye(len(curvature))


def rigidity(known: Known) -> Measure:
    """Standard deviation of the atom's energy, last layer only, up to a factor."""
    inverse = _rigidity(known)
    return lambda frames: np.sqrt(
        np.einsum("nk,kl,nl->n", frames.readout, inverse, frames.readout).clip(0)
    )


def force_rigidity(known: Known) -> Measure:
    """Standard deviation of the force on the atom, last layer only, up to a factor."""
    inverse = _rigidity(known)
    return lambda frames: np.sqrt(
        np.einsum("nak,kl,nal->n", frames.slopes, inverse, frames.slopes).clip(0)
    )


def principal_rigidity(number: int) -> Callable[[Known], Measure]:
    """`force_rigidity` in the directions that matter most: as many readouts would be evaluated.

    The directions are those of the labelled frames, learned or not.

    Args:
        number: of directions, of K.
    """

    def make(known: Known) -> Measure:
        white = np.linalg.cholesky(_rigidity(known))
        slopes = np.concatenate([known.train.slopes, known.validation.slopes]) @ white
        moments = np.einsum("nak,nal->kl", slopes, slopes)
        directions = white @ np.linalg.eigh(moments)[1][:, -number:]
        return lambda frames: np.sqrt(((frames.slopes @ directions) ** 2).sum(axis=(1, 2)))

    return make


HEADS = 8
"""Readouts of an ensemble."""


def heads(known: Known, ridge: float = 1e-4) -> np.ndarray:
    """Changes of the readout's weights, fitted to resampled frames' residuals, (HEADS, K).

    Ridge regression of what the model leaves, energies and forces weighted as in the loss, on
    frames drawn with replacement.
    """
    random = np.random.default_rng(known.seed)
    train = known.train
    sizes = np.array(train.sizes)
    reference = np.concatenate([atoms.arrays["forces"] for atoms in train.frames])
    residual = (reference - train.forces).ravel()
    flat = -train.slopes.reshape(-1, train.slopes.shape[2])
    changes = []
    for _ in range(HEADS):
        drawn = np.bincount(random.integers(len(sizes), size=len(sizes)), minlength=len(sizes))
        weights = drawn.astype(float)
        of_component = np.repeat(weights[train.frame] / (3 * sizes[train.frame]), 3)
        curvature = _curvature(train, ridge, weights)
        changes.append(np.linalg.solve(curvature, flat.T @ (of_component * residual)))
    return np.array(changes)


def ensemble_energy(known: Known) -> Measure:
    """Spread of the atom's energy over the readouts of `heads`."""
    weights = heads(known)
    return lambda frames: (frames.readout @ weights.T).std(axis=1)


def ensemble_force(known: Known) -> Measure:
    """Spread of the atom's force over the readouts of `heads`."""
    weights = heads(known)

    def measure(frames: Described) -> np.ndarray:
        forces = np.einsum("nak,mk->mna", frames.slopes, weights)
        return np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))

    return measure


def pair_novelty(known: Known, width_A: float = 0.05) -> Measure:
    """How rare an atom's rarest distance to a neighbour was in training; geometry only."""

    def distances(frames: Described) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        i, j, r = frames.neighbours
        names = np.char.add(np.char.add(frames.classes[i], "|"), frames.classes[j])
        return i, names, r

    _, names, r = distances(known.train)
    table = {name: np.sort(r[names == name]) for name in np.unique(names)}
    number = len(known.train.frames)

    def measure(frames: Described) -> np.ndarray:
        i, names, r = distances(frames)
        seen = np.zeros(len(r))
        for name in np.unique(names):
            if name in table:
                here = names == name
                known_r = table[name]
                seen[here] = np.searchsorted(known_r, r[here] + width_A) - np.searchsorted(
                    known_r, r[here] - width_A
                )
        # Near the cutoff a distance matters little, and the tables end there.
        rare = -np.log((seen + 0.1) / number) * (1 - (r / 4.0) ** 4).clip(0)
        answer = np.full(len(frames.classes), -np.inf)
        np.maximum.at(answer, i, rare)
        return answer

    return measure


def committee(others: Sequence[Any]) -> Measure:
    """Standard deviation over models of the force on each atom, eV/Å.

    Args:
        others: models of the same recipe, as MACE loads them.
    """
    members = [BatchedMace(other) for other in others]

    def measure(frames: Described) -> np.ndarray:
        batches = [
            State.of(
                frames.frames[begin : begin + FRAMES_AT_ONCE],
                device=members[0].device,
                dtype=members[0].dtype,
            )
            for begin in range(0, len(frames.frames), FRAMES_AT_ONCE)
        ]
        of_members = [
            torch.cat([member(batch)["forces"] for batch in batches]).double().numpy()
            for member in members
        ]
        forces = np.stack([frames.forces, *of_members])
        return np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))

    return measure


def second_opinion(method: str) -> Measure:
    """Difference of the force on each atom from tight binding's, eV/Å; infinite where that fails.

    Args:
        method: e.g. `GFN1-xTB`.
    """
    reference = Xtb(XtbReference(backend="xtb", method=method))

    def measure(frames: Described) -> np.ndarray:
        forces = [
            np.full((len(atoms), 3), np.inf) if record.forces is None else record.forces
            for atoms, record in zip(
                frames.frames, reference.label(frames.frames, Path(), 1), strict=True
            )
        ]
        return np.linalg.norm(frames.forces - np.concatenate(forces), axis=1)

    return measure


def scaled(measure: Measure, known: Known) -> Measure:
    """A signal times each class's mean error per unit of it, on held-out frames."""
    held_out = known.validation
    values, errors, names = measure(held_out), held_out.errors, held_out.classes
    overall = errors.mean() / values.mean()
    factor = {
        name: errors[names == name].mean() / values[names == name].mean()
        for name in np.unique(names)
    }

    return lambda frames: (
        measure(frames) * np.array([factor.get(name, overall) for name in frames.classes])
    )


def elements(frames: Described) -> np.ndarray:
    """Symbol of each atom."""
    return np.concatenate([np.array(atoms.get_chemical_symbols()) for atoms in frames.frames])


def environments(known: Known) -> Measure:
    """`latent` with clusters of each element's descriptors as classes; the nearest counts."""
    names = elements(known.train)
    fitted = fit_environments([names.tolist()], [known.train.descriptors], seed=known.seed)

    def classes(frames: Described) -> np.ndarray:
        return np.array(environment_classes(fitted, elements(frames).tolist(), frames.descriptors))

    return _by_class(known.train, lambda d: d.descriptors, mahalanobis, classes)


def bond_stretch(known: Known) -> Measure:
    """Greatest deviation of a bonded distance from its mean in training, Å."""

    def lengths(frames: Described) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        i, j = frames.bonded
        positions = np.concatenate([atoms.positions for atoms in frames.frames])
        names = np.char.add(np.char.add(frames.classes[i], "|"), frames.classes[j])
        return i, names, np.linalg.norm(positions[i] - positions[j], axis=1)

    _, names, r = lengths(known.train)
    means = {name: r[names == name].mean() for name in np.unique(names)}

    def measure(frames: Described) -> np.ndarray:
        i, names, r = lengths(frames)
        answer = np.zeros(len(frames.classes))
        expected = np.array([means.get(name, np.inf) for name in names])
        np.maximum.at(answer, i, np.minimum(np.abs(r - expected), 9.0))
        return answer

    return measure


def _descriptors(frames: Described) -> np.ndarray:
    return frames.descriptors


def _layer(number: int) -> Callable[[Described], np.ndarray]:
    def values(frames: Described) -> np.ndarray:
        half = frames.descriptors.shape[1] // 2
        return frames.descriptors[:, number * half : (number + 1) * half]

    return values


def _energies(frames: Described) -> np.ndarray:
    return frames.node_energy[:, None]


def latent(known: Known) -> Measure:
    """Mahalanobis distance of the descriptor to its class in training."""
    return _by_class(known.train, _descriptors, mahalanobis)


def product(first: Measure, second: Measure) -> Measure:
    """Two signals multiplied: large where both are."""
    return lambda frames: first(frames) * second(frames)


def nearest_of(k: int, *, white: bool = True) -> Callable[[Known], Measure]:
    """Distance of the k nearest training atoms of a class."""
    return lambda known: _by_class(known.train, _descriptors, nearest(k, white=white))


def guard(known: Known) -> Measure:
    """Distance of the atom's energy outside its range on labels and the teacher's frames."""
    if known.teacher is None:
        raise ValueError("a model from scratch has no guard")
    rows = [_energies(known.train), _energies(known.teacher)]
    names = np.concatenate([known.train.classes, known.teacher.classes])
    pooled = np.concatenate(rows)
    fitted = {name: outside_interval(pooled[names == name]) for name in np.unique(names)}

    def measure(frames: Described) -> np.ndarray:
        answer = np.full(len(frames.classes), np.inf)
        for name, of_class in fitted.items():
            if (here := frames.classes == name).any():
                answer[here] = of_class(_energies(frames)[here])
        return answer

    return measure


SIGNALS: dict[str, Callable[[Known], Measure]] = {
    "node_energy": lambda k: _by_class(k.train, _energies, outside_interval),
    "guard": guard,
    "force_magnitude": lambda _: lambda frames: np.linalg.norm(frames.forces, axis=1),
    "edge_gradient": lambda _: lambda frames: frames.edge_gradient,
    "bond_stretch": bond_stretch,
    "pair_novelty": pair_novelty,
    "latent": latent,
    "latent_scaled": lambda k: scaled(latent(k), k),
    "latent_environment": environments,
    "latent_layer1": lambda k: _by_class(k.train, _layer(0), mahalanobis),
    "latent_layer2": lambda k: _by_class(k.train, _layer(1), mahalanobis),
    "latent_readout": lambda k: _by_class(k.train, lambda d: d.readout, mahalanobis),
    "latent_max_bonded": lambda k: around(latent(k), "max", bonded=True),
    "latent_mean_bonded": lambda k: around(latent(k), "mean", bonded=True),
    "latent_max": lambda k: around(latent(k), "max", bonded=False),
    "latent_mean": lambda k: around(latent(k), "mean", bonded=False),
    "latent_rms": lambda k: around(latent(k), "rms", bonded=False),
    "nearest1": nearest_of(1),
    "nearest5": nearest_of(5),
    "nearest1_plain": nearest_of(1, white=False),
    "nearest1_scaled": lambda k: scaled(nearest_of(1)(k), k),
    "mixture": lambda k: _by_class(k.train, _descriptors, mixture(k.seed)),
    "rigidity_energy": rigidity,
    "rigidity_force": force_rigidity,
    "rigidity_force_4": principal_rigidity(4),
    "rigidity_force_8": principal_rigidity(8),
    "heads_energy": ensemble_energy,
    "heads_force": ensemble_force,
    "latent_rigidity": lambda k: product(scaled(latent(k), k), force_rigidity(k)),
    "latent_heads": lambda k: product(scaled(latent(k), k), ensemble_force(k)),
}
"""Every signal that needs the model alone; from the cheapest ideas to the dearest."""
