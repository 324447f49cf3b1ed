"""Radial functions of a MACE model with their slopes, and their gradients by the weights.

MACE has a small fully connected network of the length's radial basis. In a training, forces need
the slopes of its functions, and their gradients go back through both. The basis and its slopes are
two halves of the rows of one matrix: they go through the same layers, and only between layers the
slopes are multiplied by those of the activation.

    from halcyon.models.fast.radial_network import RadialNetwork

    block = model.interactions[0].conv_tp_weights
    network = RadialNetwork(block)
    weights = [layer.weight.detach() for layer in block.children()]
    functions, trace = network(basis_with_slopes, weights)
    gradients = network.pulled_back(trace, by_functions)

Not for: dynamics, where these functions are tables (see `radial_table`).
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halcyon.models.fast.kernels import compiled

Trace = list[tuple[Tensor, Tensor, Tensor, Tensor]]
"""Of each layer: its input, its matrix, what the activation got, and the sigmoid of its values."""


class RadialNetwork:
    """e3nn's fully connected network with SiLU, of a model's layer."""

    def __init__(self, network: Any) -> None:
        """Find its factors.

        Args:
            network: `conv_tp_weights` of an interaction; its weights are read at each call.
        """
        layers = [*network.children()]
        self.n_weights = len(layers)
        factors, factor = [], 1.0
        for layer in layers:
            out = 1.0 if layer.act is not None else math.sqrt(layer.var_out)
            factors.append(factor * out / math.sqrt(layer.h_in * layer.var_in))
            if layer.act is not None:
                factor = float(layer.act.cst) * math.sqrt(layer.var_out)
        self._factors = factors

    def __call__(self, basis: Tensor, weights: list[Tensor]) -> tuple[Tensor, Trace]:
        """Radial functions of a basis.

        Args:
            basis: of U lengths, and below it the slopes, (2 U, B).
            weights: matrices, as those of the network.

        Returns:
            Radial functions and their slopes, (2 U, D); and what `pulled_back` takes.
        """
        trace: Trace = []
        rows = basis
        for index, (weight, factor) in enumerate(zip(weights, self._factors, strict=True)):
            matrix = weight * factor
            mixed = rows @ matrix
            share = mixed[: len(mixed) // 2].sigmoid()
            trace.append((rows, matrix, mixed, share))
            if index < len(weights) - 1:
                rows = torch.empty_like(mixed)
                _activate(mixed.numpy(), share.numpy(), rows.numpy())
        return mixed, trace

    def pulled_back(self, trace: Trace, by_functions: Tensor) -> list[Tensor]:
        """Gradients by the weights.

        Args:
            trace: that of the call.
            by_functions: gradient by radial functions and slopes, (2 U, D).
        """
        gradients = []
        by_mixed = by_functions
        steps = list(zip(trace, self._factors, strict=True))
        for place in range(len(steps) - 1, -1, -1):
            (rows, matrix, *_), factor = steps[place]
            gradients.append((rows.T @ by_mixed) * factor)
            if place:
                by_mixed = by_mixed @ matrix.T
                _, _, mixed, share = trace[place - 1]
                _activate_back(mixed.numpy(), share.numpy(), by_mixed.numpy())
        return gradients[::-1]


@compiled
def radial_basis(lengths, waves, prefactor, cutoff, result):  # type: ignore[no-untyped-def]
    """MACE's Bessel functions with a smooth cutoff, and their slopes.

    Args:
        lengths: (U,), Å.
        waves: wave numbers (B,), 1/Å.
        prefactor: of all.
        cutoff: where they end, Å, and how fast: the power p of MACE's polynomial.
        result: (2 U, B).
    """
    r_max, p = cutoff
    n = len(lengths)
    for place in range(n):
        r = lengths[place]
        x = r / r_max
        envelope, falling = 0.0, 0.0
        if x < 1:
            power = x**p
            envelope = 1 - (p + 1) * (p + 2) / 2 * power
            envelope += p * (p + 2) * power * x - p * (p + 1) / 2 * power * x * x
            falling = -p * (p + 1) * (p + 2) / 2 * x ** (p - 1) * (1 - x) ** 2 / r_max
        for b in range(len(waves)):
            wave = prefactor * np.sin(waves[b] * r) / r
            slope = prefactor * waves[b] * np.cos(waves[b] * r) / r - wave / r
            result[place, b] = wave * envelope
            result[n + place, b] = slope * envelope + wave * falling


@compiled
def _activate(mixed, share, result):  # type: ignore[no-untyped-def]
    """SiLU of the first half of the rows; those below are multiplied by its slopes."""
    half, width = share.shape
    unity = mixed.dtype.type(1)
    for row in range(half):
        for c in range(width):
            x, part = mixed[row, c], share[row, c]
            result[row, c] = x * part
            result[half + row, c] = mixed[half + row, c] * part * (unity + x * (unity - part))


@compiled
def _activate_back(mixed, share, gradient):  # type: ignore[no-untyped-def]
    """The way back through `_activate`: the gradient by its result becomes that by `mixed`."""
    half, width = share.shape
    unity, two = mixed.dtype.type(1), mixed.dtype.type(2)
    for row in range(half):
        for c in range(width):
            x, part = mixed[row, c], share[row, c]
            rest = unity - part
            steep = part * (unity + x * rest)
            curved = part * rest * (two + x * (rest - part))
            by_slope = gradient[half + row, c]
            gradient[row, c] = gradient[row, c] * steep + by_slope * mixed[half + row, c] * curved
            gradient[half + row, c] = by_slope * steep
