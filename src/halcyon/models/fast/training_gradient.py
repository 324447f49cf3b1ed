"""Energies, their gradient by edge vectors, and features of a batch, as one function of autograd.

Forward, they are computed as in dynamics (`scalar_loops`), but that radial functions come from
their network: once for each length that there is, with their slopes. Backward, `training_loops`
give the gradients by what the loops took, and from these follow those by the model's weights
(`radial_network`, `training_weights`). Of a batch in several parts each is a thread's work, and
their gradients are summed in order.

    from halcyon.models.fast.training_gradient import evaluated

    evaluated.__doc__  # what it takes

Not for: reading a model, or laying out a batch (see `training_pass`).
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from halcyon.models.fast import scalar_loops, training_loops
from halcyon.models.fast.compiled import pool
from halcyon.models.fast.radial_network import RadialNetwork, Trace
from halcyon.models.fast.training_weights import LayerWeights


@dataclass(frozen=True)
class Reading:
    """How a model's weights are laid out."""

    channels: int
    geometry: tuple[Any, ...]
    """As `scalar_loops.evaluate` takes it."""
    embedding: float
    """Factor of the embedding's weights."""
    networks: list[RadialNetwork]
    layers: list[LayerWeights]


@dataclass(frozen=True)
class Part:
    """Some frames of a batch, for one thread: n atoms with J neighbours each."""

    atoms: slice
    edges: slice
    length: np.ndarray  # (n · J,), Å
    unit: np.ndarray  # (3, n · J), from sender to receiver
    which: np.ndarray  # (n · J,): number of each one's length, -1: beyond the cutoff
    sender: np.ndarray  # (n, J), counted from the part's first atom
    element: np.ndarray  # (n,): which of the batch's


@dataclass(frozen=True)
class Batch:
    """What the loops take of a batch."""

    parts: list[Part]
    basis: Tensor
    """Radial basis of its U lengths, and below it the slopes, (2 U, B)."""
    present: Tensor
    """Elements that there are, ascending: indices into the model's."""


def evaluated(
    reading: Reading, batch: Batch, parameters: Iterable[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate a batch, differentiable once by the parameters.

    Args:
        reading: of the model.
        batch: what is evaluated.
        parameters: the embedding's, and of each layer those of the radial network and of
            `LayerWeights`.

    Returns:
        Energies of atoms (n,), without scale and shift; the gradient of their sum by edge vectors
        (3, n · J); features (n, layers · C).
    """
    results: tuple[Tensor, Tensor, Tensor] = _Evaluated.apply(reading, batch, *parameters)
    return results


class _Evaluated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reading: Reading, batch: Batch, *parameters: Tensor) -> Any:
        parts, basis = batch.parts, batch.basis
        ctx.parts = parts
        ctx.model = model = _Model(reading, batch, [weight.detach() for weight in parameters])
        n, width = sum(len(part.element) for part in parts), parts[0].sender.shape[1]
        energies = basis.new_zeros(n)
        gradient = basis.new_empty(3, n * width)
        features = basis.new_empty(n, len(model.layers) * reading.channels)

        def work(part: Part) -> None:
            inside = energies.numpy()[part.atoms], features.numpy()[part.atoms]
            gradient[:, part.edges] = torch.from_numpy(_forward(part, model, *inside))

        _each(work, parts)
        return energies, gradient, features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_results: Tensor) -> Any:
        by_energies, direction, by_features = (given.contiguous().numpy() for given in by_results)

        def work(part: Part) -> list[np.ndarray]:
            along = np.ascontiguousarray(direction[:, part.edges])
            inside = by_energies[part.atoms], along, by_features[part.atoms]
            return _backward(part, ctx.model, inside)

        gradients = [sum(of_parts) for of_parts in zip(*_each(work, ctx.parts), strict=True)]
        return None, None, *ctx.model.pulled_back(gradients)


class _Model:
    """A model's weights as the loops take them, and the way back to its parameters."""

    def __init__(self, reading: Reading, batch: Batch, parameters: list[Tensor]) -> None:
        self.reading, self._present = reading, batch.present
        self._by_element = parameters[0].view(-1, reading.channels)
        present = self._by_element.index_select(0, batch.present)
        self.embedding = (present * reading.embedding).numpy()
        self.layers: list[tuple[Any, ...]] = []
        self.readouts: list[tuple[Any, ...]] = []
        self.tables: list[np.ndarray] = []
        self._traces: list[Trace] = []
        self._of_layers: list[list[Tensor]] = []
        rest = iter(parameters[1:])
        for network, weights in zip(reading.networks, reading.layers, strict=True):
            functions, trace = network(batch.basis, list(itertools.islice(rest, network.n_weights)))
            self.tables.append(_table(functions, reading.channels))
            self._traces.append(trace)
            of_layer = list(itertools.islice(rest, weights.n_parameters))
            self._of_layers.append(of_layer)
            layer, readout = weights.filled(of_layer, batch.present)
            self.layers.append(layer)
            self.readouts.append(readout)

    def pulled_back(self, gradients: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """Gradients by the parameters, from those that `_backward` gives."""
        by_embedding, *rest = gradients
        by_element = torch.zeros_like(self._by_element)
        by_element.index_copy_(
            0, self._present, torch.from_numpy(by_embedding) * self.reading.embedding
        )
        yield by_element.flatten()
        per_layer = len(rest) // len(self.layers)
        for index, (network, weights) in enumerate(
            zip(self.reading.networks, self.reading.layers, strict=True)
        ):
            by_table, *by_layer = rest[index * per_layer : (index + 1) * per_layer]
            values, slopes = torch.from_numpy(by_table).unbind(2)
            by_functions = torch.cat([values.flatten(1), slopes.flatten(1)])
            yield from network.pulled_back(self._traces[index], by_functions)
            yield from weights.pulled_back(self._of_layers[index], self._present, by_layer)


def _table(functions: Tensor, channels: int) -> np.ndarray:
    """Radial functions and slopes (2 U, degrees · C) where the loops find them: as cubics."""
    values, slopes = functions.view(len(functions), -1, channels).chunk(2)
    nothing = torch.zeros_like(values)
    return torch.stack([values, slopes, nothing, nothing], dim=2).numpy()


def _each(work: Callable[[Part], Any], parts: list[Part]) -> list[Any]:
    """What the work gives of each part; of several, each on a thread."""
    return list((map if len(parts) == 1 else pool(len(parts)).map)(work, parts))


def _forward(part: Part, model: _Model, energies: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Evaluate a part: adds to energies, fills features, and gives the gradient (3, n · J)."""
    n, channels = len(part.element), model.embedding.shape[1]
    columns = scalar_loops.harmonics_of(part.unit, model.reading.geometry)
    harmonics = columns.T.copy()
    edges = (part.sender, part.which, np.zeros_like(part.length), harmonics, part.element)
    before = model.embedding[part.element]
    traces, readout_slopes = [], []
    for index, layer in enumerate(model.layers):
        rows = (n, layer[2].shape[1], channels)
        trace = np.empty_like(before), np.empty(rows, before.dtype)
        after, slopes = np.empty_like(before), np.zeros_like(before)
        scalar_loops.forward(layer, model.tables[index], edges, before, (*trace, after))
        scalar_loops.read(model.readouts[index], after, energies, slopes)
        features[:, index * channels : (index + 1) * channels] = after
        traces.append(trace)
        readout_slopes.append(slopes)
        before = after
    along, around = np.zeros_like(part.length), np.zeros_like(harmonics)
    by_after = np.zeros_like(before)
    for index in reversed(range(len(model.layers))):
        by_after += readout_slopes[index]
        by_before = np.zeros_like(by_after)
        tables = model.tables[index], 1.0
        results = along, around, by_before, index > 0
        scalar_loops.backward(
            model.layers[index], tables, edges, (*traces[index], by_after), results
        )
        by_after = by_before
    gradient = np.empty_like(part.unit)
    scalar_loops.edge_gradient(
        (part.length, part.unit), columns, model.reading.geometry, (along, around), gradient
    )
    return gradient


def _backward(
    part: Part, model: _Model, by_results: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> list[np.ndarray]:
    """Gradients of a part: by the embedding, and of each layer by radial functions and weights."""
    by_energies, direction, by_features = by_results
    n, channels = len(part.element), model.embedding.shape[1]
    n_rows, dtype = len(model.layers[0][8]), model.embedding.dtype
    geometry = model.reading.geometry
    columns = scalar_loops.harmonics_of(part.unit, geometry)
    speed, harmonics = training_loops.moving((part.length, part.unit), direction, columns, geometry)
    edges = (part.sender, part.which, harmonics, speed, part.element)
    before = np.zeros((n, 2, channels), dtype)
    before[:, 0] = model.embedding[part.element]
    features, traces = [before], []
    for layer, table in zip(model.layers, model.tables, strict=True):
        sent, values, after = (np.empty((n, 2, channels), dtype) for _ in range(3))
        rows = [np.empty((n, 2, n_rows, channels), dtype) for _ in range(3)]
        traces.append((sent, *rows, values))
        training_loops.forward(layer, table, edges, features[-1], traces[-1], after)
        features.append(after)

    by_layers: list[np.ndarray] = []
    by_after = np.zeros((n, 2, channels), dtype)
    for index in reversed(range(len(model.layers))):
        layer, table, readout = model.layers[index], model.tables[index], model.readouts[index]
        by_readout = tuple(np.zeros_like(matrix) for matrix in readout)
        after = features[index + 1]
        training_loops.read_back(readout, after, by_energies, by_after, by_readout)
        by_after[:, 1] += by_features[:, index * channels : (index + 1) * channels]
        by_before = np.zeros_like(by_after)
        inputs = features[index], traces[index], by_after
        by_weights = (
            *(np.zeros_like(layer[place]) for place in (0, 2, 4, 6)),
            np.zeros_like(layer[-1][2]),
            np.zeros((len(table), table.shape[1], 2, channels), dtype),
        )
        training_loops.backward(layer, table, edges, inputs, by_before, by_weights)
        by_layers = [by_weights[-1], *by_weights[:-1], *by_readout, *by_layers]
        by_after = by_before
    by_embedding = np.zeros_like(model.embedding)
    np.add.at(by_embedding, part.element, by_after[:, 1])
    return [by_embedding, *by_layers]
