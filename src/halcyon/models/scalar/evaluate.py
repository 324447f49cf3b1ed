"""MACE models whose node features are scalars, evaluated with few and large operations.

MACE's forward pass makes a tensor product per edge, and autograd walks it back: for small systems
that is hundreds of small operations, for large ones a flood of memory. Where node features are
scalars (`max_L = 0`), an interaction is, per receiving atom n, a matrix product over neighbours j,

    A[n, m, lc] = Σ_j  Y_m(r_nj) · R_lc(|r_nj|) · h_jc ,

of which the blocks with m in l are kept (I. Batatia et al., NeurIPS 2022, eq. 8, for scalar h).

1. Of each edge vector, length and direction give the harmonics Y and, from a table, the radial
   functions R with their slopes. Neighbours are padded to a rectangle (n atoms × J neighbours).
2. In each layer, the neighbours' features h are mapped linearly and multiplied by R; one `bmm` with
   Y sums them over neighbours; the blocks that are kept are mixed linearly, contracted to squares,
   and mapped to the features of the next layer.
3. Readouts of the layers' features give the atoms' energies.
4. The gradient of their sum goes through the same steps in the opposite order, written out by
   hand: from readouts through layers to R and Y of each edge.
5. Slopes of R give the gradient along each edge vector, and harmonics the one across it.

    from halcyon.models.scalar.evaluate import ScalarMace

    from halcyon.models.scalar.evaluate import ScalarMace

    fast = ScalarMace.of(model)
    atoms = fast.prepared(elements)  # once, while the same atoms are in the batch
    node_energy, gradient, features = fast(atoms, vectors, sender)

Not for: training, models with `max_L` > 0, several heads, distances transformed by element, or a
pair repulsion. For these `ScalarMace.of` returns None, and the caller uses MACE's own forward.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halcyon.models.scalar import layers
from halcyon.models.scalar.layers import Layer, UnsuitableError
from halcyon.models.scalar.radial_table import RadialTable
from halcyon.models.scalar.solid_harmonics import SolidHarmonics


@dataclass(frozen=True)
class SortedAtoms:
    """What stays the same while the same atoms, sorted by element, stand in the batch."""

    n_atoms: int
    slices: list[tuple[int, slice]]
    """Each element that occurs, as index into the model's, and the places of its atoms."""
    embedding: Tensor
    """(n_atoms, C): the features that the first layer gets."""
    linear: list[Tensor]
    """For each layer (n_atoms, D): `Layer.linear` of each atom."""
    square: list[Tensor]
    """For each layer (M, n_atoms, D)."""
    one_hot: Tensor
    """(n_atoms, n_elements)."""


@dataclass(frozen=True)
class _Edges:
    """What the layers read of neighbours: n atoms with J neighbours each, M harmonics."""

    sender: Tensor  # (n·J,)
    harmonics: Tensor  # (n, M, J)
    radial: list[tuple[Tensor, Tensor]]  # for each layer values and slopes, (n·J, L·C)


@dataclass(frozen=True)
class _Trace:
    """What the gradient needs of a layer's evaluation."""

    sent: Tensor  # (n·J, L·C)
    message: Tensor  # (n, J, L·C): what arrived
    pull_back: Callable[[Tensor], Tensor]  # of the contraction: (n, D) → (M, n, D)
    features: Tensor  # (n, D): what came out


class ScalarMace:
    """A MACE model with scalar node features: energies and their gradient by edge vectors."""

    def __init__(self, model: Any) -> None:
        """Read the weights off a model. Use `of` where the model may not be suitable.

        Args:
            model: a MACE model; not changed, and kept only for contractions of a correlation
                above 2.

        Raises:
            UnsuitableError: the model is not one that this module is for.
        """
        layers.check_parts(model)
        exact = copy.deepcopy(model).double()
        like = next(model.parameters())
        n_elements = len(exact.atomic_numbers)
        self._layers = [
            layers.layer(interaction, product, own=own, n_elements=n_elements, like=like)
            for interaction, product, own in zip(
                exact.interactions, exact.products, model.products, strict=True
            )
        ]
        readouts = [layers.readout(block, like) for block in exact.readouts]
        # A single one belongs to the last layer.
        self._readouts = [None] * (len(self._layers) - len(readouts)) + readouts
        degree = int(exact.interactions[0].edge_attrs_irreps.lmax)
        self._harmonics = SolidHarmonics(exact.spherical_harmonics, degree, like=like)
        self._radial = RadialTable(
            [
                layers.radial_function(exact.radial_embedding, interaction)
                for interaction in exact.interactions
            ],
            r_max=float(exact.r_max),
            like=like,
        )
        one_hot = torch.eye(n_elements, dtype=torch.float64, device=like.device)
        self._embedding = exact.node_embedding(one_hot).to(like)
        scaling = getattr(exact, "scale_shift", None)
        self._scale = 1.0 if scaling is None else float(scaling.scale)
        self._shift = 0.0 if scaling is None else float(scaling.shift)
        # Rows of A[n, (m, l)] that are kept: of each harmonic, the row of its own degree.
        self._blocks = torch.tensor(
            [
                m * (degree + 1) + order
                for m, order in enumerate(layers.degrees_of_harmonics(degree))
            ],
            device=like.device,
        )

    @classmethod
    def of(cls, model: Any) -> "ScalarMace | None":
        """Read a model as MACE loads it; None where only MACE's own forward can evaluate it."""
        # Optimising e3nn's compiled code would take longer than these few calls.
        with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            try:
                return cls(model)
            except UnsuitableError:
                return None

    def prepared(self, elements: Tensor) -> SortedAtoms:
        """Prepare for a batch's atoms.

        Args:
            elements: each atom's element as index into the model's, (n_atoms,), ascending.
        """
        present, counts = torch.unique_consecutive(elements, return_counts=True)
        ends = counts.cumsum(0).tolist()
        begins = [0, *ends[:-1]]
        # Contractions left to MACE have no weights here.
        readable = [layer if layer.contraction is None else None for layer in self._layers]
        nothing = self._embedding.new_zeros(0)
        return SortedAtoms(
            n_atoms=len(elements),
            slices=[
                (element, slice(begin, end))
                for element, begin, end in zip(present.tolist(), begins, ends, strict=True)
            ],
            embedding=self._embedding[elements],
            linear=[nothing if layer is None else layer.linear[elements] for layer in readable],
            square=[
                nothing if layer is None else layer.square[elements].transpose(0, 1).contiguous()
                for layer in readable
            ],
            one_hot=torch.nn.functional.one_hot(elements, len(self._embedding)).to(self._embedding),
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
            (3, n_atoms · J), eV/Å; features of all layers, (n_atoms, D).
        """
        # torch.linalg.vector_norm is 20 times slower along the first dimension.
        length = (vectors * vectors).sum(0).sqrt_()
        unit = vectors / length
        harmonics = self._harmonics(unit)
        by_atom = harmonics.view(len(harmonics), atoms.n_atoms, -1).transpose(0, 1)
        edges = _Edges(sender, by_atom, self._radial(length))

        traces: list[_Trace] = []
        features = atoms.embedding
        for index in range(len(self._layers)):
            traces.append(self._layer(index, atoms, features, edges))
            features = traces[-1].features
        energy = torch.zeros_like(atoms.embedding[:, 0])
        slopes: list[Tensor | None] = []
        for readout, trace in zip(self._readouts, traces, strict=True):
            slopes.append(None)
            if readout is not None:
                contribution, slopes[-1] = readout(trace.features)
                energy += contribution

        along, around = self._back(atoms, edges, traces, slopes)
        turned = self._harmonics.pulled_back(harmonics, around.flatten(0, 1))
        # Turning a unit vector moves the vector's end by its length; there is no way outward.
        outward = (turned * unit).sum(0)
        gradient = (turned + unit * (along * length - outward)) / length
        return (
            energy * self._scale + self._shift,
            gradient * self._scale,
            torch.cat([trace.features for trace in traces], dim=1),
        )

    def _layer(self, index: int, atoms: SortedAtoms, features: Tensor, edges: _Edges) -> _Trace:
        """One layer: what it makes of `features` (n, C)."""
        values, _ = edges.radial[index]
        layer = self._layers[index]
        sent = (features @ layer.up).index_select(0, edges.sender)
        message = (values * sent).view(atoms.n_atoms, -1, values.shape[1])
        summed = torch.bmm(edges.harmonics, message)  # (n, M, L·C)
        blocks = summed.view(atoms.n_atoms, -1, layer.up.shape[1] // self._n_degrees)
        blocks = blocks.index_select(1, self._blocks)  # (n, M, C)
        mixed = _by_element(blocks.transpose(0, 1), layer.mix, atoms)  # (M, n, D)
        contracted, pull_back = _contracted(layer, atoms, index, mixed)
        result = contracted @ layer.out
        if layer.skip is not None:
            result += _by_element(features, layer.skip, atoms)
        return _Trace(sent, message, pull_back, result)

    def _back(
        self,
        atoms: SortedAtoms,
        edges: _Edges,
        traces: list[_Trace],
        readout_slopes: list[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the energy by lengths (n·J,) and by harmonics (n, J, M)."""
        n, n_harmonics, _ = edges.harmonics.shape
        along = edges.harmonics.new_zeros(len(edges.sender))
        around = torch.zeros_like(edges.harmonics.mT, memory_format=torch.contiguous_format)
        gradient: Tensor | None = None  # by the features that a layer gave
        for index in reversed(range(len(traces))):
            layer, trace = self._layers[index], traces[index]
            values, slopes = edges.radial[index]
            slope = readout_slopes[index]
            if slope is not None:
                gradient = slope if gradient is None else gradient + slope
            assert gradient is not None  # noqa: S101  # the last layer has a readout
            mixed = trace.pull_back(gradient @ layer.out.T)
            blocks = _by_element(mixed, [matrix.mT for matrix in layer.mix], atoms).transpose(0, 1)
            # All other places than those of a harmonic's own degree are 0.
            summed = blocks.new_zeros(n, n_harmonics * self._n_degrees, blocks.shape[2])
            summed.index_copy_(1, self._blocks, blocks)
            summed = summed.view(n, n_harmonics, -1)
            message = torch.bmm(edges.harmonics.mT, summed).view_as(values)
            along += torch.linalg.vecdot(message * trace.sent, slopes)
            around += torch.bmm(trace.message, summed.mT)
            if index > 0:
                sent = values.new_zeros(n, values.shape[1])
                sent.index_add_(0, edges.sender, message.mul_(values))
                before = sent @ layer.up.T
                if layer.skip is not None:
                    before += _by_element(gradient, [matrix.T for matrix in layer.skip], atoms)
                gradient = before
        return along, around

    @property
    def _n_degrees(self) -> int:
        return self._harmonics.degree + 1


def _by_element(rows: Tensor, matrices: list[Tensor], atoms: SortedAtoms) -> Tensor:
    """Rows (n, C) or (M, n, C) times the matrix of each atom's element, (C, D) or (M, C, D)."""
    product = torch.mm if rows.dim() == matrices[0].dim() == 2 else torch.bmm
    if len(matrices) == 1:
        return product(rows, matrices[0])
    parts = [product(rows[..., part, :], matrices[element]) for element, part in atoms.slices]
    return torch.cat(parts, dim=-2)


def _contracted(
    layer: Layer, atoms: SortedAtoms, index: int, mixed: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The contraction (n, D) of `mixed` (M, n, D), and how gradients go back through it."""
    if layer.contraction is None:
        linear = atoms.linear[index]
        scaled = mixed * atoms.square[index]

        def pull_back(gradient: Tensor) -> Tensor:
            by_mixed = scaled * (2 * gradient)
            by_mixed[0].addcmul_(linear, gradient)
            return by_mixed

        return (scaled * mixed).sum(0).addcmul_(linear, mixed[0]), pull_back
    with torch.enable_grad():
        inner = mixed.permute(1, 2, 0).contiguous().requires_grad_(True)
        result = layer.contraction(inner, atoms.one_hot)

    def traced_back(gradient: Tensor) -> Tensor:
        return torch.autograd.grad(result, inner, gradient)[0].permute(2, 0, 1)

    return result.detach(), traced_back
