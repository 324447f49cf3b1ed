"""What the steps of a fast evaluation pass to each other.

Not for: batches of systems (see `halcyon.models.batched`).

    from halcyon.models.fast.batch import SortedAtoms

    SortedAtoms.__dataclass_fields__  # n_atoms, slices, element, embedding
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from halcyon.models.fast.layers import Layer

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


class Steps(Protocol):
    """The steps of a layer that take its time, on a kind of device."""

    def sum_messages(self, layer: Layer, cubics: Tensor, edges: Edges, sent: Tensor) -> Tensor:
        """Sums over neighbours, (n, rows, C), of what each atom sends, (n, K, C)."""

    def pull_back(
        self,
        layer: Layer,
        cubics: Tensor,
        edges: Edges,
        sent: Tensor,
        *,
        by_sum: Tensor,
        gradient: EdgeGradient,
        collects: bool,
    ) -> Tensor | None:
        """The way back through `sum_messages`: adds to `gradient`.

        Returns:
            The gradient by `sent` where `collects` asks for it.
        """

    def contract(
        self, layer: Layer, mixed: Tensor, element: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The polynomial (n, K, D) of (n, M, D), and its gradient where that costs nothing."""

    def contract_back(
        self, layer: Layer, mixed: Tensor, element: Tensor, by_values: Tensor
    ) -> Tensor:
        """From the gradient by `contract`'s values to that by `mixed`."""
