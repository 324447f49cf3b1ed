"""MACE models evaluated with their gradient written out: no autograd, and no small operations.

MACE's forward pass makes a tensor product per edge, and autograd walks it back: for small systems
that is hundreds of small operations, for large ones a flood of memory. Here, in each layer:

1. Neighbours' features h, mapped linearly, are multiplied by radial functions from a table and by
   coupled harmonics, and summed (`kernels.sum_messages`). Some models divide each atom's sum by
   its own density of neighbours.
2. The sums A are mixed linearly, one degree at a time.
3. The product over sums is a sparse polynomial (`polynomial`, `kernels.contract`).
4. A linear map, with a skip connection, gives the features of the next layer.

Readouts of the layers' features give the atoms' energies. The gradient of their sum goes through
the same steps in the opposite order, down to each edge: slopes of the radial functions give the
gradient along the edge's vector, and harmonics the one across it.

    from halcyon.models.fast.evaluate import FastMace

    fast = FastMace.of(model)
    atoms = fast.prepared(elements)  # once, while the same atoms are in the batch
    node_energy, gradient, features = fast(atoms, vectors, sender)

Not for: training, correlations above 3, several heads, or blocks that `layers` does not know. For
these `FastMace.of` returns None, and the caller uses MACE's own forward.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halcyon.models.fast import layers
from halcyon.models.fast.batch import EdgeGradient, Edges, SortedAtoms
from halcyon.models.fast.compiled import Compiled
from halcyon.models.fast.layers import Layer, UnsuitableError
from halcyon.models.fast.radial_table import interpolated
from halcyon.models.fast.radials import Radials
from halcyon.models.fast.repulsion import Repulsion
from halcyon.models.fast.scalar import ScalarMace, ScalarSystems
from halcyon.models.fast.solid_harmonics import SolidHarmonics
from halcyon.models.fast.tensor_steps import TensorSteps


@dataclass(frozen=True)
class _Share:
    """What is left of each atom's sum over neighbours, which is divided by 1 + their density."""

    part: Tensor  # (n,)
    slope: Tensor  # (n, J): of the density, by distances, 1/Å


@dataclass(frozen=True)
class _Trace:
    """What the gradient needs of a layer's evaluation."""

    sent: Tensor  # (n, K, C): what each atom sends
    share: _Share | None  # None: sums are not divided
    mixed: Tensor  # (n, M, D)
    slope: Tensor | None  # (n, M, D): gradient of the contraction where it has one component
    features: Tensor  # (n, K, D): what came out


class FastMace:
    """A MACE model's energies and their gradient by edge vectors."""

    def __init__(self, model: Any) -> None:
        """Read the weights off a model. Use `of` where the model may not be suitable.

        Args:
            model: a MACE model; neither changed nor kept.

        Raises:
            UnsuitableError: the model is not one that this module is for.
        """
        layers.check_parts(model)
        exact = copy.deepcopy(model).double()
        like = next(model.parameters())
        n_elements = len(exact.atomic_numbers)
        self._layers = [
            layers.layer(interaction, product, n_elements=n_elements, like=like)
            for interaction, product in zip(exact.interactions, exact.products, strict=True)
        ]
        readouts = [layers.readout(block, like) for block in exact.readouts]
        # A single one belongs to the last layer.
        self._readouts = [None] * (len(self._layers) - len(readouts)) + readouts
        degree = int(exact.interactions[0].edge_attrs_irreps.lmax)
        self._harmonics = SolidHarmonics(exact.spherical_harmonics, degree, like=like)
        widths = [layer.up[0].shape[1] for layer in self._layers]
        self._radials = Radials(exact, widths=widths, like=like)
        self._repulsion: Repulsion | None = None
        if hasattr(exact, "pair_repulsion"):
            self._repulsion = Repulsion(
                exact.pair_repulsion_fn, exact.atomic_numbers, r_max=float(exact.r_max), like=like
            )
        one_hot = torch.eye(n_elements, dtype=torch.float64, device=like.device)
        self._embedding = exact.node_embedding(one_hot).to(like)
        scaling = getattr(exact, "scale_shift", None)
        self._scale = 1.0 if scaling is None else float(scaling.scale)
        self._shift = 0.0 if scaling is None else float(scaling.shift)
        self._steps: Compiled | TensorSteps = (
            Compiled() if like.device.type == "cpu" else TensorSteps(self._layers)
        )
        self._at_once: ScalarMace | None = None
        if self._repulsion is None and set(self._radials.densities) == {None}:
            self._at_once = ScalarMace.of(self._layers, self._readouts, self._harmonics)

    @classmethod
    def of(cls, model: Any) -> "FastMace | None":
        """Read a model as MACE loads it; None where only MACE's own forward can evaluate it."""
        # Optimising e3nn's compiled code would take longer than these few calls.
        with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            try:
                return cls(model)
            except UnsuitableError:
                return None

    def prepared(self, elements: Tensor) -> SortedAtoms | None:
        """Prepare for a batch's atoms.

        Args:
            elements: each atom's element as index into the model's, (n_atoms,), ascending.

        Returns:
            None if so many elements are together that tables of their pairs would be too large.
        """
        present, counts = torch.unique_consecutive(elements, return_counts=True)
        radials = self._radials.between(present.tolist())
        if radials is None:
            return None
        ends = counts.cumsum(0).tolist()
        begins = [0, *ends[:-1]]
        return SortedAtoms(
            n_atoms=len(elements),
            slices=[
                (element, slice(begin, end))
                for element, begin, end in zip(present.tolist(), begins, ends, strict=True)
            ],
            element=elements.contiguous(),
            embedding=self._embedding[elements][:, None].contiguous(),
            radial=radials[0],
            pair_kinds=radials[1],
        )

    @torch.no_grad()
    def __call__(
        self, atoms: SortedAtoms, vectors: Tensor, sender: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate.

        Args:
            atoms: as `prepared` returns them.
            vectors: from sender to receiver, (3, n_atoms · J), Å. J consecutive ones belong to
                each receiving atom. Those beyond the cutoff have no effect: they may fill up.
            sender: atom of each vector, (n_atoms · J,).

        Returns:
            Interaction energies of the atoms, (n_atoms,), eV; gradient of their sum by `vectors`,
            (3, n_atoms · J), eV/Å; features of degree 0 of all layers, (n_atoms, D).
        """
        alone = torch.get_num_threads() == 1
        if alone and self._at_once is not None and self._at_once.is_faster(atoms.n_atoms):
            energy, gradient, features = self._at_once(atoms, vectors, sender)
            return energy * self._scale + self._shift, gradient * self._scale, features
        # torch.linalg.vector_norm is 20 times slower along the first dimension.
        length = (vectors * vectors).sum(0).sqrt_()
        unit = vectors / length
        harmonics = self._harmonics(unit)
        rectangle = (atoms.n_atoms, -1)
        sender = sender.view(rectangle)
        kinds = None
        if atoms.pair_kinds is not None:
            kinds = atoms.pair_kinds[atoms.element[sender], atoms.element[:, None]].flatten()
        interval, place = atoms.radial.places(length, kinds)
        edges = Edges(
            sender,
            interval.view(rectangle),
            place.view(rectangle),
            atoms.radial.per_A,
            harmonics.T.contiguous(),
        )
        traces: list[_Trace] = []
        features = atoms.embedding
        for index in range(len(self._layers)):
            traces.append(self._layer(index, atoms, features, edges))
            features = traces[-1].features
        energy = torch.zeros_like(atoms.embedding[:, 0, 0])
        slopes: list[Tensor | None] = []
        for readout, trace in zip(self._readouts, traces, strict=True):
            slopes.append(None)
            if readout is not None:
                contribution, slopes[-1] = readout(trace.features[:, 0])
                energy += contribution

        along, around = self._back(atoms, edges, traces, slopes)
        if self._repulsion is not None:
            apart = length.view(rectangle)
            along += self._repulsion(atoms.element, sender, apart, energy).flatten()
        turned = self._harmonics.pulled_back(harmonics, around)
        # Turning a unit vector moves the vector's end by its length; there is no way outward.
        outward = (turned * unit).sum(0)
        gradient = (turned + unit * (along * length - outward)) / length
        return (
            energy * self._scale + self._shift,
            gradient * self._scale,
            torch.cat([trace.features[:, 0] for trace in traces], dim=1),
        )

    def of_systems(self, atoms: SortedAtoms | None, r_max: float) -> ScalarSystems | None:
        """Loops that evaluate whole systems at once, on one thread.

        Args:
            atoms: as `prepared` returns them.
            r_max: the model's cutoff, Å.

        Returns:
            None where only the steps one by one can do it, or where these are faster.
        """
        if atoms is None or self._at_once is None or not self._at_once.is_faster(atoms.n_atoms):
            return None
        return self._at_once.of_systems(atoms, r_max=r_max, scale=self._scale, shift=self._shift)

    def _layer(self, index: int, atoms: SortedAtoms, features: Tensor, edges: Edges) -> _Trace:
        """One layer: what it makes of `features` (n, K, C)."""
        layer = self._layers[index]
        sent = _by_degree(features, layer.up)
        summed = self._steps.sum_messages(layer, atoms.radial.cubics[index], edges, sent)
        share = self._share(index, atoms, edges)
        if share is not None:
            summed *= share.part[:, None, None]
        mixed = _mixed(summed, layer, atoms)
        contracted, slope = self._steps.contract(layer, mixed, atoms.element)
        result = _by_degree(contracted, layer.out)
        if layer.skip is not None:
            _add_by_element(result, features, layer.skip, atoms)
        return _Trace(sent, share, mixed, slope, result)

    def _share(self, index: int, atoms: SortedAtoms, edges: Edges) -> _Share | None:
        place = self._radials.densities[index]
        if place is None:
            return None
        cubics = atoms.radial.cubics[place]
        density, slope = interpolated(cubics, edges.interval, edges.place, edges.per_A)
        return _Share(1 / (1 + density.sum((1, 2, 3))), slope[:, :, 0, 0])

    def _back(
        self,
        atoms: SortedAtoms,
        edges: Edges,
        traces: list[_Trace],
        readout_slopes: list[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the energy by lengths (n · J,) and by harmonics (n · J, M)."""
        edge_gradient = EdgeGradient(
            along=torch.zeros_like(edges.place), around=torch.zeros_like(edges.harmonics)
        )
        gradient: Tensor | None = None  # by the features that a layer gave
        for index in reversed(range(len(traces))):
            layer, trace = self._layers[index], traces[index]
            slope = readout_slopes[index]
            if gradient is None:
                gradient = torch.zeros_like(trace.features)
            if slope is not None:
                gradient[:, 0] += slope
            by_values = _by_degree(gradient, [matrix.T for matrix in layer.out])
            if trace.slope is None:
                mixed = self._steps.contract_back(layer, trace.mixed, atoms.element, by_values)
            else:
                mixed = trace.slope.mul_(by_values)
            by_sum = _mixed_back(mixed, layer, atoms)
            if trace.share is not None:
                # What was divided is linear in what is mixed: the sums need not be kept.
                by_density = -trace.share.part * (mixed * trace.mixed).sum((1, 2))
                edge_gradient.along.add_(by_density[:, None] * trace.share.slope)
                by_sum *= trace.share.part[:, None, None]
            sent = self._steps.pull_back(
                layer,
                atoms.radial.cubics[index],
                edges,
                trace.sent,
                by_sum=by_sum,
                gradient=edge_gradient,
                collects=index > 0,
            )
            if sent is not None:
                before = _by_degree(sent, [matrix.T for matrix in layer.up])
                if layer.skip is not None:
                    back = [[matrix.T for matrix in matrices] for matrices in layer.skip]
                    _add_by_element(before, gradient, back, atoms)
                gradient = before
        return edge_gradient.along.flatten(), edge_gradient.around


def _by_degree(features: Tensor, matrices: list[Tensor]) -> Tensor:
    """Features (n, K, C) times the matrix (C, D) of each degree: (n, K, D)."""
    n, n_components, width = features.shape
    if n_components == 1:
        return (features.view(n, width) @ matrices[0])[:, None]
    result = features.new_empty(n, len(matrices) ** 2, matrices[0].shape[1])
    for degree, matrix in enumerate(matrices):
        part = slice(degree**2, (degree + 1) ** 2)
        result[:, part] = features[:, part] @ matrix
    return result


def _mixed(summed: Tensor, layer: Layer, atoms: SortedAtoms) -> Tensor:
    """Sums (n, rows, C) mixed to (n, M, D)."""
    n, width = len(summed), layer.mix[0][0].shape[1]
    result = summed.new_empty(n, len(layer.convolution.degrees) ** 2, width)
    if layer.alike is not None:
        for stack, places in atoms.receivers(layer.alike):
            result[places] = torch.bmm(summed[places].transpose(0, 1), stack).transpose(0, 1)
        return result
    for matrices, places in atoms.receivers(layer.mix):
        for degree, (matrix, rows) in enumerate(
            zip(matrices, layer.convolution.degrees, strict=True)
        ):
            part = summed[places, rows].reshape(-1, len(matrix)) @ matrix
            result[places, degree**2 : (degree + 1) ** 2] = part.view(-1, 2 * degree + 1, width)
    return result


def _mixed_back(mixed: Tensor, layer: Layer, atoms: SortedAtoms) -> Tensor:
    """From gradients by (n, M, D) to those by sums (n, rows, C)."""
    n_rows = len(layer.convolution.rows)
    width = layer.up[0].shape[1]
    result = mixed.new_empty(len(mixed), n_rows, width)
    if layer.alike is not None:
        for stack, places in atoms.receivers(layer.alike):
            back = torch.bmm(mixed[places].transpose(0, 1), stack.mT)
            result[places] = back.transpose(0, 1)
        return result
    for matrices, places in atoms.receivers(layer.mix):
        for degree, (matrix, rows) in enumerate(
            zip(matrices, layer.convolution.degrees, strict=True)
        ):
            part = mixed[places, degree**2 : (degree + 1) ** 2].reshape(-1, matrix.shape[1])
            result[places, rows] = (part @ matrix.T).view(-1, rows.stop - rows.start, width)
    return result


def _add_by_element(
    result: Tensor, features: Tensor, by_receiver: list[list[Tensor]], atoms: SortedAtoms
) -> None:
    """Add features (n, K, C) times the matrices of each atom's element."""
    for matrices, places in atoms.receivers(by_receiver):
        for degree, matrix in enumerate(matrices):
            part = slice(degree**2, (degree + 1) ** 2)
            result[places, part] += features[places, part] @ matrix
