"""The evaluation of a model with scalar features in few compiled calls: for few small systems.

Steps as in `evaluate`, but from an edge's vector to its gradient nothing leaves compiled loops. For
some replicas of a molecule, half of the time is otherwise spent between the steps.

    from halcyon.models.fast.scalar import FEW, NARROW

    NARROW, FEW  # channels, and atoms times channels: up to one of them `FastMace` takes this way

Not for: features of degree 1 or more, and devices other than a CPU: for these `ScalarMace.of`
returns None. Densities, pair repulsion and many atoms are the caller's to leave to the steps one by
one. It is one thread's work: others may have other systems at the same time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halcyon.models.fast import scalar_loops
from halcyon.models.fast.batch import SortedAtoms
from halcyon.models.fast.compiled import arrays
from halcyon.models.fast.layers import Layer, Readout
from halcyon.models.fast.neighbours import neighbours
from halcyon.models.fast.solid_harmonics import SolidHarmonics

NARROW = 16
"""Up to so many channels these loops are faster at any number of atoms."""
FEW = 4096
"""Atoms times channels. Of wider models, products of matrices for more are faster by BLAS."""


class ScalarMace:
    """Energies and their gradient by edge vectors, of a model that `evaluate.FastMace` has read."""

    def __init__(
        self, layers: Sequence[Layer], readouts: Sequence[Readout | None], harmonics: SolidHarmonics
    ) -> None:
        """Lay out a model's matrices for the loops. Use `of` where it may not be suitable.

        Args:
            layers: all with features of degree 0 alone, and as many channels.
            readouts: of each layer; None: it has none.
            harmonics: of the edges.
        """
        self._layers = tuple(_arrays(layer) for layer in layers)
        self._readouts = tuple(_of_readout(readout, layers[0]) for readout in readouts)
        self._harmonics = harmonics.terms()
        self._n_harmonics = (harmonics.degree + 1) ** 2
        self._channels = len(layers[0].up[0])

    @classmethod
    def of(
        cls,
        layers: Sequence[Layer],
        readouts: Sequence[Readout | None],
        harmonics: SolidHarmonics,
    ) -> "ScalarMace | None":
        """Lay out a model; None where it is not one that the loops are for."""
        widths = {size for layer in layers for matrix in layer.up for size in matrix.shape}
        suitable = (
            len(widths) == 1
            and layers[0].up[0].device.type == "cpu"
            and all(
                len(layer.up) == len(layer.out) == layer.polynomial.n_components == 1
                and layer.alike is not None
                and layer.out[0].shape == layer.up[0].shape
                for layer in layers
            )
        )
        return cls(layers, readouts, harmonics) if suitable else None

    def is_faster(self, n_atoms: int) -> bool:
        """Whether the loops are faster for so many atoms than the steps one by one."""
        return self._channels <= NARROW or n_atoms * self._channels <= FEW

    def __call__(
        self, atoms: SortedAtoms, vectors: Tensor, sender: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate, as `evaluate.FastMace` does, without scale and shift of the energies."""
        n = atoms.n_atoms
        energy = vectors.new_zeros(n)
        gradient = torch.empty_like(vectors)
        features = vectors.new_empty(n, len(self._layers) * self._channels)
        elements, *model = self._inputs(atoms)
        scalar_loops.evaluate(
            (vectors.numpy(), sender.view(n, -1).numpy(), *elements),
            *model,
            (energy.numpy(), gradient.numpy(), features.numpy()),
        )
        return energy, gradient, features

    def of_systems(
        self, atoms: SortedAtoms, *, r_max: float, scale: float, shift: float
    ) -> "ScalarSystems":
        """Prepare for molecules or cells with these atoms.

        Args:
            atoms: all of them, sorted.
            r_max: cutoff, Å.
            scale: of atoms' energies.
            shift: of them, after it, eV.
        """
        n_features = len(self._layers) * self._channels
        return ScalarSystems(self._inputs(atoms), r_max, (scale, shift), n_features=n_features)

    def _inputs(self, atoms: SortedAtoms) -> tuple[Any, ...]:
        """What the loops read of the model and of atoms: see `scalar_loops.evaluate`."""
        kinds = np.empty((0, 0), np.int64)
        if atoms.pair_kinds is not None:
            kinds = atoms.pair_kinds.numpy()
        tables = tuple(cubics.numpy() for cubics in atoms.radial.cubics[: len(self._layers)])
        per_A = atoms.embedding.new_tensor(atoms.radial.per_A).item()
        return (
            (atoms.element.numpy(), kinds),
            (tables, per_A, atoms.radial.intervals),
            (self._n_harmonics, *self._harmonics),
            self._layers,
            self._readouts,
            atoms.embedding[:, 0].numpy(),
        )


class ScalarSystems:
    """Evaluates molecules or cells from their positions on, in three compiled calls."""

    def __init__(
        self,
        inputs: tuple[Any, ...],
        r_max: float,
        units: tuple[float, float],
        *,
        n_features: int,
    ) -> None:
        """Take what does not change from step to step.

        Args:
            inputs: of `scalar_loops.evaluate`: elements, then all from the table on.
            r_max: cutoff, Å.
            units: factor and shift of atoms' energies.
            n_features: of an atom.
        """
        (self._elements, *self._model), self._r_max = inputs, r_max
        self._units, self._n_features = units, n_features

    def __call__(
        self, positions: Tensor, cells: Tensor, places: tuple[np.ndarray, np.ndarray]
    ) -> dict[str, Tensor]:
        """Evaluate: energies without those of the elements, else as `batched.BatchedMace`.

        Args:
            positions: (n, 3), Å, in the systems' own order.
            cells: vectors in rows, (S, 3, 3), Å; zeros: not periodic.
            places: first atom of each system, and one past the last of all, (S + 1,); the place of
                each atom among the sorted ones, (n,).
        """
        answer = {
            "energy": positions.new_empty(len(cells)),
            "forces": torch.empty_like(positions),
            "node_energy": positions.new_empty(len(positions), dtype=torch.float64),
            "descriptors": positions.new_empty(len(positions), self._n_features),
        }
        # Three compiled functions: around them, a fourth would have all optimised a second time.
        coordinates = positions.numpy()
        n, dtype = len(coordinates), coordinates.dtype
        vectors, sender = neighbours(coordinates, cells.numpy(), places, self._r_max)
        energy, gradient = np.zeros(n, dtype), np.empty_like(vectors)
        features = np.empty((n, self._n_features), dtype)
        scalar_loops.evaluate(
            (vectors, sender.reshape(n, -1), *self._elements),
            *self._model,
            (energy, gradient, features),
        )
        results = tuple(values.numpy() for values in answer.values())
        scalar_loops.of_systems(
            coordinates, places, (gradient, sender), (energy, features, *self._units), results
        )
        return answer


def _arrays(layer: Layer) -> tuple[Any, ...]:
    """A layer for the loops: see `scalar_loops.evaluate`."""
    convolution, polynomial = layer.convolution, layer.polynomial
    alike = torch.stack(layer.alike or [])  # (receivers, M, C, D)
    channels = alike.shape[2]
    skip = alike.new_zeros(0, channels, channels)
    if layer.skip is not None:
        skip = torch.stack([matrices[0] for matrices in layer.skip])
    # Each row of the sums is one harmonic, times a factor.
    rows = np.zeros((len(convolution.rows), 3), np.int64)  # path, row of the sums, harmonic
    for path, (_, _, first, end) in enumerate(convolution.paths.tolist()):
        rows[first:end, 0] = path
    rows[:, 1] = convolution.rows
    rows[convolution.terms[:, 0], 2] = convolution.terms[:, 2]
    factors = np.zeros(len(rows), convolution.factors.dtype)
    factors[convolution.terms[:, 0]] = convolution.factors
    both_ways = [(matrix, matrix.mT) for matrix in (layer.up[0], alike, layer.out[0], skip)]
    return (
        *(way.contiguous().numpy() for pair in both_ways for way in pair),
        rows,
        factors,
        arrays(polynomial),
    )


def _of_readout(readout: Readout | None, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (D, H) and vector (H,): of a linear readout H is 1 and the vector empty; or none."""
    like = layer.out[0]
    if readout is None:
        return like.new_empty(len(like), 0).numpy(), like.new_empty(0).numpy()
    second = like.new_empty(0) if readout.second is None else readout.second
    return readout.first.contiguous().numpy(), second.contiguous().numpy()
