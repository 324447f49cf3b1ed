"""Atomic properties as a second task of a training: readouts that learn them, and are dropped.

Charges, energies and sums of bond orders of atoms (`halcyon.teacher.atomic`) are read from the
invariant features of all layers of a MACE model by a small network beside it. The model's own
readouts do not know of it, and the model that is written has its ordinary shape; what stays of the
properties is what they made of the features.

    from halcyon.models.atomic import Properties
    from halcyon.teacher.atomic import add_properties

    add_properties(frames, "GFN2-xTB")
    properties = Properties.learn(frames, ["charges"])
    properties.of(frames[0])  # in standard deviations about the mean of the element

Not for: computing properties (see `halcyon.teacher.atomic`), or the training loop (see `learner`).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from halcyon.errors import InputError
from halcyon.models.batched import scalar_features

HIDDEN = 16
"""Width of the network's one hidden layer, that of MACE's own last readout."""
LEAST_VARIANCE = 1e-12
"""Of the features of an atom, far below what they have."""
LEAST_SPREAD = 1e-4
"""Of a property (e, eV or bonds): in a molecule like H2 it may be the same everywhere."""

MEASURES = {
    "charges": ("charges_mae_e", 1.0),
    "energies": ("atomic_energies_mae_meV", 1e3),
    "bond_orders": ("bond_orders_mae", 1.0),
}
"""Key of a `TrainingProgress` by property, and the factor from e, eV or bonds to its unit."""


@dataclass(frozen=True)
class Properties:
    """How properties are scaled.

    Attributes:
        names: as in `pretraining.atomic`.
        means: of each property, shape (P,), by atomic number.
        spreads: standard deviation of each property about these means, shape (P,).
    """

    names: tuple[str, ...]
    means: Mapping[int, np.ndarray]
    spreads: np.ndarray

    @classmethod
    def learn(cls, frames: Sequence[Atoms], names: Sequence[str]) -> "Properties":
        """Find the scales of the properties of frames.

        Args:
            frames: with `arrays["atomic_NAME"]`; frames may lack them.
            names: charges, energies, bond_orders.

        Raises:
            InputError: a property that no frame has.
        """
        refuse_missing(frames, names)
        numbers = np.concatenate([atoms.numbers for atoms in frames])
        values = np.concatenate([_columns(atoms, names) for atoms in frames])
        known = np.isfinite(values).all(axis=1)
        numbers, values = numbers[known], values[known]
        means = {int(z): values[numbers == z].mean(axis=0) for z in np.unique(numbers)}
        rest = values - np.array([means[int(z)] for z in numbers])
        return cls(tuple(names), means, np.maximum(rest.std(axis=0), LEAST_SPREAD))

    def of(self, atoms: Atoms) -> np.ndarray:
        """Properties of a frame's atoms in spreads, shape (N, P); NaN where they are unknown."""
        none = np.full(len(self.names), np.nan)
        means = np.array([self.means.get(int(z), none) for z in atoms.numbers])
        scaled: np.ndarray = (_columns(atoms, self.names) - means) / self.spreads
        return scaled


def refuse_missing(frames: Sequence[Atoms], names: Sequence[str], method: str = "") -> None:
    """Refuse frames without the properties that are to be learned.

    Args:
        frames: the teacher's.
        names: of the properties.
        method: the Hamiltonian that must have computed them; empty: any.

    Raises:
        InputError: no frame has a property, or some have those of another Hamiltonian, or none.
    """
    again = (
        "They were made with other settings: delete teacher/frames.parquet of the system, so that "
        "they are made anew, or set pretraining.atomic to []"
    )
    for name in names:
        if not any(f"atomic_{name}" in atoms.arrays for atoms in frames):
            raise InputError(
                f"pretraining.atomic = {list(names)}: none of the {len(frames)} frames has the "
                f"column atomic_{name}. {again}"
            )
    others = {str(atoms.info.get("atomic_method", "none")) for atoms in frames} - {method}
    if method and others:
        raise InputError(
            f"pretraining.atomic_method = {method}: the frames have atomic properties by "
            f"{', '.join(sorted(others))}. {again}"
        )


def _columns(atoms: Atoms, names: Sequence[str]) -> np.ndarray:
    """Properties of a frame's atoms, shape (N, P); NaN where the frame has none."""
    none = np.full(len(atoms), np.nan)
    return np.stack([atoms.arrays.get(f"atomic_{name}", none) for name in names], axis=1)


class AtomicReadout:
    """The network, its running average, and its part of the loss.

    Attributes:
        network: weights that the optimiser moves, beside those of the model.
        average: their running average.
        weight: of the loss.
    """

    def __init__(self, model: Any, properties: Properties, *, weight: float, seed: int) -> None:
        """Begin with random weights, which do not touch the random numbers of others.

        Args:
            model: the MACE model whose features are read; not changed.
            properties: what is learned.
            weight: of the loss.
            seed: of the weights.
        """
        like = next(model.parameters())
        self._scalars = scalar_features(model).to(like.device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = torch.nn.Sequential(
                # Features of MACE are of the order of 0.01 at first: nothing would be learned.
                torch.nn.LayerNorm(len(self._scalars), eps=LEAST_VARIANCE),
                torch.nn.Linear(len(self._scalars), HIDDEN),
                torch.nn.SiLU(),
                torch.nn.Linear(HIDDEN, len(properties.names)),
            )
        self.network = network.to(device=like.device, dtype=like.dtype)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.weight = weight
        self._properties = properties

    def loss(self, node_feats: Tensor, scaled: Tensor, known: Tensor) -> Tensor:
        """Weighted loss of a part of a batch: mean over properties of the mean absolute error.

        Args:
            node_feats: of the model's result, (n, F).
            scaled: what is learned, `Properties.of`, (n, P); NaN: unknown.
            known: number of atoms of the whole batch whose property is known, (P,).
        """
        # Filled before anything is computed: the gradient of a NaN is NaN, whatever its weight.
        target = torch.nan_to_num(scaled)
        error = (self.network(node_feats[:, self._scalars]) - target).abs()
        error = error * torch.isfinite(scaled)
        return self.weight * (error.sum(0) / known.clamp(min=1)).mean()

    @torch.no_grad()
    def errors(self, node_feats: Tensor, scaled: Tensor) -> Tensor:
        """Absolute errors of the averaged weights, (n, P), in e, eV or bonds; NaN: unknown."""
        error = (self.average(node_feats[:, self._scalars]) - scaled).abs().double()
        return error * torch.tensor(self._properties.spreads, device=error.device)

    def named(self, errors: Tensor) -> dict[str, float]:
        """Means of `errors` as a `TrainingProgress` names them; without what is known nowhere."""
        means = torch.nanmean(errors, dim=0).tolist()
        return {
            key: factor * mean
            for (key, factor), mean in zip(
                (MEASURES[name] for name in self._properties.names), means, strict=True
            )
            if np.isfinite(mean)
        }

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, for a checkpoint."""
        return {"network": self.network.state_dict(), "average": self.average.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
