"""What a model says of frames, atom by atom: all that signals read.

    train = described(model, frames, classes)
    train.descriptors.shape  # (atoms of all frames, D)

Not for: signals (see `distances`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.neighborlist import primitive_neighbor_list

from halcyon.models import mace
from halcyon.models.graphs import graphs, joined
from signals.systems import bonded_pairs

FRAMES_AT_ONCE = 64
CUTOFF_A = 4.0


@dataclass(frozen=True)
class Described:
    """Atoms of frames, N of all, one after another.

    Attributes:
        frames: F of them.
        model: that described them, as MACE loads it.
        classes: class of each atom, shape (N,).
        forces: the model's, eV/Å, shape (N, 3).
        node_energy: interaction energies, eV, shape (N,).
        descriptors: invariant features of all layers, shape (N, D).
    """

    frames: Sequence[Atoms]
    model: Any
    classes: np.ndarray
    forces: np.ndarray
    node_energy: np.ndarray
    descriptors: np.ndarray

    @cached_property
    def sizes(self) -> list[int]:
        """Atoms of each frame."""
        return [len(atoms) for atoms in self.frames]

    @cached_property
    def frame(self) -> np.ndarray:
        """Frame of each atom, shape (N,)."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @cached_property
    def errors(self) -> np.ndarray:
        """Length of the difference from the frames' own forces, eV/Å, shape (N,)."""
        reference = np.concatenate([atoms.arrays["forces"] for atoms in self.frames])
        return np.linalg.norm(self.forces - reference, axis=1)

    @cached_property
    def neighbours(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of atoms within the cutoff in both orders, shape (P,) each, and distances, Å."""
        parts, begin = [], 0
        for atoms in self.frames:
            i, j, r = primitive_neighbor_list(
                "ijd", atoms.pbc, atoms.cell.array, atoms.positions, CUTOFF_A
            )
            parts.append((i + begin, j + begin, r))
            begin += len(atoms)
        i, j, r = (np.concatenate(part) for part in zip(*parts, strict=True))
        return i, j, r

    @cached_property
    def bonded(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of atoms as near as bonded ones, in both orders, shape (P,) each."""
        parts, begin = [], 0
        for atoms in self.frames:
            i, j = bonded_pairs(atoms)
            parts.append((i + begin, j + begin))
            begin += len(atoms)
        i, j = (np.concatenate(part) for part in zip(*parts, strict=True))
        return i, j

    @cached_property
    def edge_gradient(self) -> np.ndarray:
        """Σ over neighbours of the length of the energy's gradient by the edge, eV/Å, (N,)."""
        parts = []
        for data in self._batches():
            data["shifts"] = data["shifts"].clone().requires_grad_(True)
            output = self.model(data, compute_force=False)
            energy = output["interaction_energy"].sum()
            gradient = torch.autograd.grad(energy, data["shifts"])[0].norm(dim=1)
            total = gradient.new_zeros(len(data["positions"]))
            for end in data["edge_index"]:
                total.index_add_(0, end, gradient)
            parts.append(total.double().numpy())
        return np.concatenate(parts)

    @cached_property
    def readout(self) -> np.ndarray:
        """Features that the energy is linear in, shape (N, K)."""
        like = next(self.model.parameters())
        return last_layer(self.model, torch.as_tensor(self.descriptors).to(like)).double().numpy()

    @cached_property
    def slopes(self) -> np.ndarray:
        """Gradient of the sum of a frame's features by each atom's position, (N, 3, K), 1/Å."""
        parts = []
        for data in self._batches():
            data["positions"] = data["positions"].clone().requires_grad_(True)
            output = self.model(data, compute_force=False)
            features = last_layer(self.model, output["node_feats"])
            slopes = [
                torch.autograd.grad(column.sum(), data["positions"], retain_graph=True)[0]
                for column in features.T
            ]
            parts.append(torch.stack(slopes, dim=2).double().numpy())
        return np.concatenate(parts)

    def _batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Inputs of MACE's forward, some frames at once."""
        e0s = dict.fromkeys((int(z) for z in self.model.atomic_numbers), 0.0)
        every = graphs([_labelled(atoms) for atoms in self.frames], self.model, e0s)
        for begin in range(0, len(every), FRAMES_AT_ONCE):
            yield joined(every[begin : begin + FRAMES_AT_ONCE])


def described(
    model: Any, frames: Sequence[Atoms], classes: Mapping[str, Sequence[str]]
) -> Described:
    """Evaluate a model on frames, at least one.

    Args:
        model: as `halcyon.models.mace.load` returns it.
        frames: with `info["structure"]`.
        classes: class of every atom, by structure.
    """
    predictions = mace.evaluate(model, frames)
    return Described(
        frames=frames,
        model=model,
        classes=np.concatenate([np.array(classes[a.info["structure"]]) for a in frames]),
        forces=np.concatenate(predictions.forces),
        node_energy=np.concatenate(predictions.node_energy),
        descriptors=np.concatenate(predictions.descriptors).astype(float),
    )


def last_layer(model: Any, node_features: torch.Tensor) -> torch.Tensor:
    """Features that a model's energy is linear in.

    Of a layer with a linear readout these are its invariant features, of one with a hidden layer
    that layer's activations. A frame's forces are minus their slopes times weights.

    Args:
        model: MACE with scalar node features.
        node_features: of all layers, shape (N, D).

    Returns:
        Shape (N, K).
    """
    parts, begin = [], 0
    for product, readout in zip(model.products, model.readouts, strict=True):
        size = product.linear.irreps_out.dim
        of_layer = node_features[:, begin : begin + size]
        begin += size
        if hasattr(readout, "linear_1"):
            of_layer = readout.non_linearity(readout.linear_1(of_layer))
        parts.append(of_layer)
    return torch.cat(parts, dim=1)


def _labelled(atoms: Atoms) -> Atoms:
    """A frame with labels of zero where it has none: graphs ask for some."""
    copy = atoms.copy()
    copy.info.setdefault("energy", 0.0)
    if "forces" not in copy.arrays:
        copy.arrays["forces"] = np.zeros((len(atoms), 3))
    return copy
