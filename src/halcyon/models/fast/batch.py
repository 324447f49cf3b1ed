"""What the steps of a fast evaluation pass to each other.

Not for: batches of systems (see `halcyon.models.batched`).

    from halcyon.models.fast.batch import SortedAtoms

    SortedAtoms.__dataclass_fields__  # n_atoms, slices, element, embedding, radial, pair_kinds
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from halcyon.models.fast.radial_table import RadialTable

Matrices = TypeVar("Matrices")


@dataclass(frozen=True)
class SortedAtoms:
    """What stays the same while the same atoms, sorted by element, stand in the batch."""

    n_atoms: int
    slices: list[tuple[int, slice]]
    """Each element that occurs, as index into the model's, and the places of its atoms."""
    element: Tensor
    """(n_atoms,): as index into the model's."""
    embedding: Tensor
    """(n_atoms, 1, C): the features that the first layer gets."""
    radial: RadialTable
    """For each layer its radial functions; then the densities of those that divide by them."""
    pair_kinds: Tensor | None
    """(elements, elements), of the model: where in `radial` each pair is; None: all alike."""

    def receivers(self, by_receiver: Sequence[Matrices]) -> Sequence[tuple[Matrices, slice]]:
        """A layer's matrices "by receiver", with the atoms that they are for."""
        if len(by_receiver) == 1:
            return [(by_receiver[0], slice(None))]
        return [(by_receiver[element], places) for element, places in self.slices]


@dataclass(frozen=True)
class Edges:
    """What the layers read of neighbours: n atoms with J neighbours each, M harmonics."""

    sender: Tensor
    """(n, J)."""
    interval: Tensor
    """(n, J): in the radial tables; -1 beyond the cutoff."""
    place: Tensor
    """(n, J): in the interval, 0 to 1."""
    per_A: float
    """Intervals per Å."""
    harmonics: Tensor
    """(n · J, M)."""


@dataclass(frozen=True)
class EdgeGradient:
    """Gradients of the energy that all layers add to."""

    along: Tensor
    """(n, J): by distances, eV/Å."""
    around: Tensor
    """(n · J, M): by harmonics."""
