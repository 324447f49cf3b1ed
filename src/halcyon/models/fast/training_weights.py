"""A layer's weights as the loops of a training take them, and gradients by them on the way back.

e3nn keeps the weights of all maps flat, and multiplies them by factors when it uses them. The loops
take matrices with all factors in them: those of weights, couplings, and of the mean number of
neighbours that sums are divided by.

    from halcyon.models.fast.training_weights import LayerWeights

    blocks = model.interactions[0], model.products[0], model.readouts[0]
    weights = LayerWeights(blocks, n_elements=4, channels=4)
    parameters = [weight.detach() for weight in weights.parameters(blocks)]
    layer, readout = weights.filled(parameters, present)

Not for: radial functions (see `radial_network`), or other kinds of maps than those of MACE's
agnostic interactions between scalars.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halcyon.models.fast.contraction import polynomial_of
from halcyon.models.fast.layers import UnsuitableError
from halcyon.models.fast.polynomial import coefficients, path_weights

FIRST = "RealAgnosticInteractionBlock"
"""Mixes by the receiver's element, and has no skip connection."""
LATER = "RealAgnosticResidualInteractionBlock"


class LayerWeights:
    """Factors of a layer's maps. Its weights are given at each call."""

    def __init__(self, blocks: tuple[Any, Any, Any], *, n_elements: int, channels: int) -> None:
        """Find the factors.

        Args:
            blocks: interaction, product and readout, in float64 or float32.
            n_elements: that the model knows.
            channels: of all features.

        Raises:
            UnsuitableError: there are maps that this module is not for.
        """
        interaction, product, readout = blocks
        self.n_parameters = len(self.parameters(blocks))
        self._n_elements, self._channels = n_elements, channels
        self._is_first = type(interaction).__name__ == FIRST
        self._up = e3nn_factor(interaction.linear_up)
        self._out = e3nn_factor(product.linear)
        self._skip = 1.0 if self._is_first else e3nn_factor(interaction.skip_tp)
        self._by_degree = torch.tensor(
            _mixing_factors(interaction), dtype=interaction.linear_up.weight.dtype
        )[:, None, None]
        components = 2 * torch.arange(len(self._by_degree)) + 1
        self._degree_of_row = torch.repeat_interleave(components)
        self._readout = _readout_factors(readout)
        terms = polynomial_of(product.symmetric_contractions)
        if terms is None:
            raise UnsuitableError
        weights = path_weights(product.symmetric_contractions)
        self._terms, self._by_path = terms, terms.by_path.to(weights)
        fits = product.linear.weight.numel() == channels**2 and weights.shape[2] == channels
        if not fits or interaction.linear_up.weight.numel() != channels**2:
            raise UnsuitableError

    @staticmethod
    def parameters(blocks: tuple[Any, Any, Any]) -> list[Tensor]:
        """The weights of a layer's blocks, in the order of `filled` and `pulled_back`."""
        interaction, product, readout = blocks
        maps = (interaction.linear_up, interaction.linear, interaction.skip_tp, product.linear)
        contractions = product.symmetric_contractions.contractions
        return [
            *(block.weight for block in maps),
            *readout.parameters(),
            *(weight for block in contractions for weight in (block.weights_max, *block.weights)),
        ]

    def filled(
        self, parameters: Sequence[Tensor], present: Tensor
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Layer and readout as `scalar_loops.evaluate` takes them.

        Args:
            parameters: as `parameters` gives them, without a graph.
            present: indices of the elements that there are, of those that the model knows: the
                layer has only these.
        """
        up, linear, skip, out, *rest = parameters
        readout, paths = rest[: len(self._readout)], rest[len(self._readout) :]
        channels = self._channels
        linear = self._linear(linear)
        skip = self._by_element(skip).index_select(2, present)
        if self._is_first:
            mixes = torch.bmm(linear, skip.flatten(2)).view_as(skip)
            mix = mixes.permute(2, 0, 1, 3).index_select(1, self._degree_of_row)
            skips = linear.new_zeros(0, channels, channels)
        else:
            mix = linear.index_select(0, self._degree_of_row)[None]
            skips = skip[0].transpose(0, 1) * self._skip
        up = up.view(channels, channels) * self._up
        out = out.view(channels, channels) * self._out
        both_ways = [way for matrix in (up, mix, out, skips) for way in (matrix, matrix.mT)]
        by_term = coefficients(self._by_path, torch.cat(paths, dim=1).index_select(0, present))
        n_rows = len(self._degree_of_row)
        rows = torch.arange(n_rows)
        layer = (
            *(way.contiguous().numpy() for way in both_ways),
            torch.stack([self._degree_of_row, rows, rows], dim=1).numpy(),
            np.ones(n_rows, linear.numpy().dtype),
            (self._terms.pairs, self._terms.terms, by_term.contiguous().numpy()),
        )
        first, *second = (
            weight * factor for weight, factor in zip(readout, self._readout, strict=True)
        )
        vector = second[0] if second else first.new_zeros(0)
        return layer, (first.view(channels, -1).numpy(), vector.numpy())

    def pulled_back(
        self, parameters: Sequence[Tensor], present: Tensor, gradients: Sequence[np.ndarray]
    ) -> Iterator[Tensor]:
        """Gradients by the parameters.

        Args:
            parameters: as `filled` got them.
            present: as there.
            gradients: by what it gave: matrices to send, to mix, after the polynomial and to skip;
                coefficients; the readout's matrix and vector.
        """
        _, linear, skip, *_ = parameters
        by_up, by_mix, by_out, by_skip, by_term, by_first, by_second = map(
            torch.from_numpy, gradients
        )
        channels = self._channels
        by_degree = by_mix.new_zeros(len(by_mix), len(self._by_degree), channels, channels)
        by_degree.index_add_(1, self._degree_of_row, by_mix)
        skip = self._by_element(skip)
        by_skips = torch.zeros_like(skip)
        if self._is_first:
            by_mixes = by_degree.permute(1, 2, 0, 3).flatten(2)
            by_linear = torch.bmm(by_mixes, skip.index_select(2, present).flatten(2).mT)
            by_present = torch.bmm(self._linear(linear).mT, by_mixes)
            by_skips.index_copy_(2, present, by_present.unflatten(2, (len(present), channels)))
        else:
            by_linear = by_degree[0]
            by_skips.index_copy_(2, present, by_skip.transpose(0, 1)[None] * self._skip)
        yield by_up.flatten() * self._up
        yield (by_linear * self._by_degree).flatten()
        yield by_skips.flatten()
        yield by_out.flatten() * self._out
        for gradient, factor in zip((by_first, by_second), self._readout, strict=False):
            yield gradient.flatten() * factor
        by_present = self._by_path.T @ by_term
        by_paths = by_term.new_zeros(self._n_elements, *by_present.shape[1:])
        by_paths.index_copy_(0, present, by_present)
        sizes = [len(weight[0]) for weight in parameters[4 + len(self._readout) :]]
        yield from by_paths.split(sizes, dim=1)

    def _by_element(self, skip: Tensor) -> Tensor:
        """Weights by which the element decides, (degrees, C, elements, C)."""
        return skip.view(-1, self._channels, self._n_elements, self._channels)

    def _linear(self, weight: Tensor) -> Tensor:
        """Matrices of each degree, (degrees, C, C)."""
        return weight.view(-1, self._channels, self._channels) * self._by_degree


def e3nn_factor(block: Any) -> float:
    """What e3nn multiplies the weights of a map between scalars by."""
    (way,) = block.instructions
    return float(way.path_weight)


def _mixing_factors(interaction: Any) -> list[float]:
    """Of each degree, the factors of weights and couplings over the mean number of neighbours."""
    parts = [block.instructions for block in (interaction.conv_tp, interaction.linear)]
    if type(interaction).__name__ == FIRST:
        parts.append(interaction.skip_tp.instructions)
    if len({len(part) for part in parts}) != 1:
        raise UnsuitableError
    factors = []
    for order, ways in enumerate(zip(*parts, strict=True)):
        convolution, linear, *skip = [float(way.path_weight) for way in ways]
        coupled = math.sqrt(2 * order + 1) ** (1 + len(skip))
        neighbours = float(interaction.avg_num_neighbors)
        factors.append(convolution * linear * math.prod(skip) / coupled / neighbours)
    return factors


def _readout_factors(block: Any) -> list[float]:
    """Of a readout's matrix, and of its vector if it is not linear."""
    if type(block).__name__ == "LinearReadoutBlock":
        return [e3nn_factor(block.linear)]
    activation = float(block.non_linearity.acts[0].cst)
    return [e3nn_factor(block.linear_1), activation * e3nn_factor(block.linear_2)]
