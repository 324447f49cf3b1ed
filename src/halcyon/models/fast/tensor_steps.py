"""The steps of a layer in plain tensor operations: on any device.

Large intermediate results go through memory, which a GPU has the bandwidth for. Atoms are taken in
parts that fit.

    from halcyon.models.fast.tensor_steps import TensorSteps

    values, _ = TensorSteps([layer]).contract(layer, mixed, element)

Not for: speed on a CPU (see `compiled`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halcyon.models.fast.batch import EdgeGradient, Edges
from halcyon.models.fast.layers import Convolution, Layer
from halcyon.models.fast.radial_table import interpolated

NUMBERS_AT_ONCE = 2**27  # of the largest intermediate result


@dataclass(frozen=True)
class _Path:
    """A path of a convolution, as a dense block."""

    parts: slice  # of what is sent
    rows: Tensor  # (R,): of the sums
    coupling: Tensor  # (R · parts, M)


class TensorSteps:
    """The same steps as `compiled.Compiled` takes, on any device."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Lay out couplings as dense blocks.

        Args:
            layers: those that will be evaluated.
        """
        self._paths = {id(layer): _dense(layer.convolution, like=layer.up[0]) for layer in layers}

    def sum_messages(self, layer: Layer, cubics: Tensor, edges: Edges, sent: Tensor) -> Tensor:
        """Sums over neighbours, (n, rows, C), of what each atom sends, (n, K, C)."""
        channels = sent.shape[2]
        summed = sent.new_empty(len(sent), len(layer.convolution.rows), channels)
        for atoms in _in_parts(edges.sender.shape, cubics[0].numel()):
            neighbours = sent[edges.sender[atoms]]  # (n, J, K, C)
            radial, _ = interpolated(
                cubics, edges.interval[atoms], edges.place[atoms], edges.per_A
            )  # (n, J, paths, C)
            for index, path in enumerate(self._paths[id(layer)]):
                messages = radial[:, :, index, None] * neighbours[:, :, path.parts]
                weights = self._weights(path, edges, atoms)
                summed[atoms, path.rows] = weights.flatten(2) @ messages.flatten(1, 2)
        return summed

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
        """The way back through `sum_messages`: adds to `gradient`."""
        by_sent = torch.zeros_like(sent) if collects else None
        around = gradient.around.view(*edges.sender.shape, -1)
        for atoms in _in_parts(edges.sender.shape, cubics[0].numel()):
            sender = edges.sender[atoms]
            neighbours = sent[sender]
            radial, slope = interpolated(
                cubics, edges.interval[atoms], edges.place[atoms], edges.per_A
            )
            by_neighbours = torch.zeros_like(neighbours)
            for index, path in enumerate(self._paths[id(layer)]):
                part = neighbours[:, :, path.parts]
                messages = radial[:, :, index, None] * part  # (n, J, parts, C)
                weights = self._weights(path, edges, atoms)  # (n, R, J, parts)
                by_rows = by_sum[atoms][:, path.rows]
                by_messages = (weights.flatten(2).mT @ by_rows).view_as(messages)
                by_weights = (by_rows @ messages.flatten(1, 2).mT).view_as(weights)
                around[atoms] += by_weights.permute(0, 2, 1, 3).flatten(2) @ path.coupling
                gradient.along[atoms] += ((by_messages * part).sum(2) * slope[:, :, index]).sum(2)
                by_neighbours[:, :, path.parts] += by_messages * radial[:, :, index, None]
            if by_sent is not None:
                by_sent.index_add_(0, sender.flatten(), by_neighbours.flatten(0, 1))
        return by_sent

    def contract(
        self, layer: Layer, mixed: Tensor, element: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The polynomial (n, K, D) of (n, M, D), without its gradient."""
        polynomial = layer.polynomial
        values = [
            polynomial.values(mixed[atoms], element[atoms], polynomial.coefficients)
            for atoms in _in_parts(mixed.shape, len(polynomial.terms) * mixed.shape[2])
        ]
        return torch.cat(values), None

    def contract_back(
        self, layer: Layer, mixed: Tensor, element: Tensor, by_values: Tensor
    ) -> Tensor:
        """From the gradient by `contract`'s values to that by `mixed`."""
        polynomial = layer.polynomial
        return torch.cat(
            [
                polynomial.gradient(mixed[atoms], element[atoms], by_values[atoms])
                for atoms in _in_parts(mixed.shape, 4 * len(polynomial.terms) * mixed.shape[2])
            ]
        )

    @staticmethod
    def _weights(path: _Path, edges: Edges, atoms: slice) -> Tensor:
        """How each edge couples what is sent to rows, (n, R, J, parts)."""
        harmonics = edges.harmonics.view(*edges.sender.shape, -1)[atoms]
        weights = (harmonics @ path.coupling.T).unflatten(2, (len(path.rows), -1))
        return weights.permute(0, 2, 1, 3)


def _dense(convolution: Convolution, like: Tensor) -> list[_Path]:
    n_harmonics = int(convolution.terms[:, 2].max()) + 1
    n_harmonics = max(n_harmonics, len(convolution.degrees) ** 2)
    paths = []
    for first, n_parts, first_row, end_row in convolution.paths.tolist():
        dense = np.zeros((end_row - first_row, n_parts, n_harmonics))
        within = (convolution.terms[:, 0] >= first_row) & (convolution.terms[:, 0] < end_row)
        row, part, harmonic = convolution.terms[within].T
        dense[row - first_row, part, harmonic] = convolution.factors[within]
        paths.append(
            _Path(
                parts=slice(first, first + n_parts),
                rows=torch.from_numpy(convolution.rows[first_row:end_row]).to(like.device),
                coupling=torch.from_numpy(dense).flatten(0, 1).to(like),
            )
        )
    return paths


def _in_parts(shape: Sequence[int], numbers: int) -> Iterator[slice]:
    """Ranges of atoms, with `numbers` for each of an atom's neighbours or for each atom."""
    n_atoms = shape[0]
    of_atom = numbers * (shape[1] if len(shape) == 2 else 1)
    size = max(1, NUMBERS_AT_ONCE // max(1, of_atom))
    for begin in range(0, n_atoms, size):
        yield slice(begin, min(begin + size, n_atoms))
