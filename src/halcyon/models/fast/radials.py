"""The radial functions of a MACE model, as tables that are made for the elements of a batch.

Where a model transforms distances by the radii of the two elements (Agnesi and soft transforms of
foundation models), every pair of elements has a table of its own. A model may know 89 elements; a
batch has few, and only their pairs are tabulated.

    from halcyon.models.fast.radials import Radials

    channels = [16, 16]
    radials = Radials(model.double(), widths=channels, like=positions)
    table, kinds = radials.between([0, 2])

Not for: what a table is (see `radial_table`).
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from halcyon.models.fast import layers
from halcyon.models.fast.radial_table import RadialFunctions, RadialTable

MOST_BYTES = 2**31
"""Of the tables of all pairs of a batch's elements."""


class Radials:
    """Radial tables of a model, by which elements there are."""

    def __init__(self, model: Any, *, widths: Sequence[int], like: Tensor) -> None:
        """Keep what functions are made of.

        Args:
            model: in float64; it is kept.
            widths: channels that each layer is sent.
            like: a tensor of the precision and on the device of the tables.

        Raises:
            UnsuitableError: a transform tells who sends and who receives.
        """
        self._model = model
        self._like = like
        dividing = [type(i).__name__ in layers.BY_DENSITY for i in model.interactions]
        self._widths = [*widths, *[1] * sum(dividing)]
        places = itertools.count(len(widths))
        self.densities = [next(places) if divides else None for divides in dividing]
        """For each layer, which function of a table is its density; None: it has none."""
        self._transform = getattr(model.radial_embedding, "distance_transform", None)
        if self._transform is not None:
            _check_symmetric(self._transform, model.atomic_numbers)
        self._known: dict[tuple[int, ...], tuple[RadialTable, Tensor | None] | None] = {}

    def between(self, elements: Sequence[int]) -> tuple[RadialTable, Tensor | None] | None:
        """The table for all pairs of some elements.

        Args:
            elements: indices into the model's, ascending.

        Returns:
            The table; and (elements, elements) of the model: the kind of each pair in it, None
            where all are alike. None if the table would be too large.
        """
        key = (0,) if self._transform is None else tuple(elements)
        if key not in self._known:
            self._known[key] = self._tabulated(key)
        return self._known[key]

    def _tabulated(self, elements: tuple[int, ...]) -> tuple[RadialTable, Tensor | None] | None:
        pairs = list(itertools.combinations_with_replacement(elements, 2))
        functions = [layers.radial_functions(self._model, *pair) for pair in pairs]
        with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            table = self._table(functions[:1])
            if table.bytes * len(pairs) > MOST_BYTES:
                return None
            if len(pairs) > 1:
                table = self._table(functions)
        if self._transform is None:
            return table, None
        n = len(self._model.atomic_numbers)
        kinds = torch.zeros(n, n, dtype=torch.long, device=self._like.device)
        for kind, (first, second) in enumerate(pairs):
            kinds[first, second] = kinds[second, first] = kind
        return table, kinds

    def _table(self, functions: RadialFunctions) -> RadialTable:
        return RadialTable(
            functions, widths=self._widths, r_max=float(self._model.r_max), like=self._like
        )


def _check_symmetric(transform: Any, numbers: Tensor) -> None:
    """Every pair of elements both ways round."""
    n = len(numbers)
    elements = torch.arange(n, device=numbers.device)
    edges = torch.stack([elements.repeat_interleave(n), elements.repeat(n)])
    generator = torch.Generator().manual_seed(n)
    lengths = 0.5 + 4 * torch.rand(n * n, 1, dtype=torch.float64, generator=generator)
    lengths = lengths.to(numbers.device)
    one_hot = torch.eye(n, dtype=torch.float64, device=numbers.device)
    there = transform(lengths, one_hot, edges, numbers)
    layers.check(there, transform(lengths, one_hot, edges.flip(0), numbers))
