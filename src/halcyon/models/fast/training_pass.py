"""MACE's forward pass for training, in few operations: for models whose features are scalars.

A step of a small model is not arithmetic but the overhead of thousands of small tensor operations:
of e3nn's tensor products on each edge, and of autograd, which goes through them twice. Here
positions are not part of autograd's graph. It gives the energy's gradient by the radial functions
and harmonics of each edge; how these change where an atom moves is written out. Weights stay where
they are in the model, and get the gradients that MACE's own forward would give them.

1. Radial functions are computed with their slopes, once for each length that there is, so that the
   gradient needs no way back through their network.
2. Times what the neighbours send they are summed with the harmonics, one product of matrices for
   each degree: neighbours lie in a rectangle (atoms, J), filled up by some that are too far away to
   matter.
3. Sums are mixed linearly; where the mixing depends on the receiver, atoms are in the order of
   their elements.
4. The product over sums is `contraction`'s polynomial.

    from halcyon.models.fast.training_pass import TrainingPass

    forward = TrainingPass.of(model)
    if forward is not None:
        result = forward(model, batch, training=True)

Not for: dynamics (see `evaluate`), features of degree 1 or more, distance transforms, densities,
pair repulsion, and devices other than a CPU. For these `TrainingPass.of` returns None, and the
caller uses MACE's own forward.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halcyon.models.fast import layers
from halcyon.models.fast.contraction import contracted_by, polynomial_of
from halcyon.models.fast.layers import UnsuitableError
from halcyon.models.fast.solid_harmonics import SolidHarmonics

MADE_UP_ELEMENTS = 10
"""At most so many are compared: each pair of made-up atoms is an edge."""
FIRST = "RealAgnosticInteractionBlock"
"""Mixes by the receiver's element, and has no skip connection."""
LATER = "RealAgnosticResidualInteractionBlock"


@dataclass(frozen=True)
class _Neighbours:
    """A batch's atoms in the order of their elements, each with J neighbours."""

    order: Tensor  # (n,): each one's place in the batch
    element: Tensor  # (n,), ascending
    slices: list[tuple[int, slice]]  # the elements that there are, and their atoms
    graph: Tensor  # (n,): number of each one's frame
    sender: Tensor  # (n · J,)
    vectors: Tensor  # (3, n · J): from sender to receiver, Å


class TrainingPass:
    """Interaction energies, forces and virials of a batch, differentiable by the weights."""

    def __init__(self, model: Any) -> None:
        """Find out how a model's weights are laid out. Use `of` where it may not be suitable.

        Args:
            model: a MACE model on a CPU; its weights are read anew at each call.

        Raises:
            UnsuitableError: the model is not one that this module is for.
        """
        layers.check_parts(model)
        embedding = model.radial_embedding
        names = [type(block).__name__ for block in model.interactions]
        suitable = (
            type(model).__name__ == "ScaleShiftMACE"
            and next(model.parameters()).device.type == "cpu"
            and not hasattr(model, "pair_repulsion")
            and not hasattr(embedding, "distance_transform")
            and type(embedding.bessel_fn).__name__ == "BesselBasis"
            and not embedding.bessel_fn.bessel_weights.requires_grad
            and names == [FIRST] + [LATER] * (len(names) - 1)
            and all(layers.natural(i.node_feats_irreps)[0] == 0 for i in model.interactions)
            and all(layers.natural(p.linear.irreps_out)[0] == 0 for p in model.products)
            and len(model.readouts) == len(model.interactions)
            and not any(getattr(p, "use_agnostic_product", False) for p in model.products)
            and all(_is_plain(block) for block in model.interactions)
        )
        if not suitable:
            raise UnsuitableError
        degree = int(model.interactions[0].edge_attrs_irreps.lmax)
        self._components = [2 * order + 1 for order in range(degree + 1)]
        self._rows = torch.repeat_interleave(torch.tensor(self._components))
        self._polynomials = [
            polynomial_of(product.symmetric_contractions) for product in model.products
        ]
        if None in self._polynomials:
            raise UnsuitableError
        self._exact_mixing = [self._scales(block) for block in model.interactions]
        self._exact_harmonics = copy.deepcopy(model.spherical_harmonics).double()
        self._like_weights_of(model)

    def _like_weights_of(self, model: Any) -> "TrainingPass":
        """Take over the precision of a model with weights of the same shapes."""
        like = next(model.parameters()).detach()
        self._harmonics = SolidHarmonics(
            self._exact_harmonics, len(self._components) - 1, like=like
        )
        self._mixing = [scales.to(like) for scales in self._exact_mixing]
        return self

    @classmethod
    def of(cls, model: Any) -> "TrainingPass | None":
        """Prepare for a model; None where only MACE's own forward can evaluate it.

        The pass is compared with MACE's own on made-up atoms, gradients by weights included.
        """
        exact = copy.deepcopy(model).double().requires_grad_(True)
        try:
            # Optimising e3nn's compiled code would take longer than these few calls.
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                made = cls(exact)
                _compare(exact, made)
        except UnsuitableError:
            return None
        return made._like_weights_of(model)

    def __call__(
        self,
        model: Any,
        batch: Mapping[str, Tensor],
        *,
        training: bool,
        compute_virials: bool = False,
    ) -> dict[str, Tensor]:
        """Evaluate a batch.

        Args:
            model: that this was made `of`, or one with other weights.
            batch: as `graphs.joined` returns it.
            training: whether forces shall be differentiable by the weights.
            compute_virials: whether virials are wanted.

        Returns:
            `interaction_energy` (n_frames,), eV; `forces` (n_atoms, 3), eV/Å; `node_feats`
            (n_atoms, D); and `virials` (n_frames, 3, 3), eV, if they are wanted.
        """
        with torch.no_grad():
            atoms = _neighbours(batch, float(model.r_max))
            length = (atoms.vectors * atoms.vectors).sum(0).sqrt_()
            unit = atoms.vectors / length
            harmonics = self._harmonics(unit)
            different, which = length.unique(return_inverse=True)
            basis = _basis(model.radial_embedding, different[:, None])
        around = harmonics.T.reshape(len(atoms.order), -1, len(harmonics)).requires_grad_(True)
        with torch.enable_grad():
            radial, slopes = self._radial(model, basis, which)
            for part in radial:
                if not part.requires_grad:  # of weights that do not learn
                    part.requires_grad_(True)
            of_atoms, features = self._energies(model, atoms, radial, around)
            n_frames = len(batch["n_atoms"])
            energy = of_atoms.new_zeros(n_frames).index_add(0, atoms.graph, of_atoms)
            by_harmonics, *by_radial = torch.autograd.grad(
                energy.sum(), [around, *radial], create_graph=training, retain_graph=training
            )
        with torch.set_grad_enabled(training):
            along = sum((by * slope).sum(1) for by, slope in zip(by_radial, slopes, strict=True))
            turned = self._harmonics.pulled_back(harmonics, by_harmonics.flatten(0, 1))
            outward = (turned * unit).sum(0)
            gradient = (turned + unit * (along * length - outward)) / length
            towards = gradient.view(3, len(atoms.order), -1)
            forces = (-towards.sum(2)).index_add(1, atoms.sender, gradient)
            back = torch.empty_like(atoms.order)
            back[atoms.order] = torch.arange(len(back))
            result = {
                "interaction_energy": energy,
                "forces": forces.T.index_select(0, back),
                "node_feats": features.index_select(0, back),
            }
            if compute_virials:
                vectors = atoms.vectors.view(3, len(atoms.order), -1)
                moments = torch.einsum("anj,bnj->nab", towards, vectors)
                whole = moments.new_zeros(n_frames, 3, 3).index_add(0, atoms.graph, moments)
                result["virials"] = -(whole + whole.mT) / 2
        return result

    def _radial(
        self, model: Any, basis: tuple[Tensor, Tensor], which: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """For each layer its radial functions of all edges, and their slopes, (n · J, degrees · C).

        They are computed once for each length that there is: an edge has that of its way back.
        """
        values, slopes = [], []
        for interaction in model.interactions:
            value, slope = _radial(interaction.conv_tp_weights, *basis)
            values.append(value.index_select(0, which))
            slopes.append(slope.index_select(0, which))
        return values, slopes

    def _energies(
        self, model: Any, atoms: _Neighbours, radial: list[Tensor], around: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Interaction energies (n,), and features of all layers (n, D)."""
        n, n_elements = len(atoms.order), len(model.atomic_numbers)
        embedding = model.node_embedding.linear
        features = (embedding.weight.view(n_elements, -1) * _scale(embedding))[atoms.element]
        harmonics = around.transpose(1, 2).split(self._components, dim=1)
        energy, every = around.new_zeros(n), []
        blocks = zip(
            model.interactions,
            model.products,
            model.readouts,
            self._polynomials,
            self._mixing,
            radial,
            strict=True,
        )
        for interaction, product, readout, terms, scales, weights in blocks:
            channels = features.shape[1]
            sent = features @ (
                interaction.linear_up.weight.view(channels, -1) * _scale(interaction.linear_up)
            )
            arriving = sent.index_select(0, atoms.sender).view(n, -1, 1, channels)
            messages = (weights.view(n, -1, len(harmonics), channels) * arriving).unbind(2)
            summed = torch.cat(
                [
                    torch.bmm(part, message)
                    for part, message in zip(harmonics, messages, strict=True)
                ],
                dim=1,
            )
            mixed = self._mixed(interaction, summed, atoms, scales)
            product_out = contracted_by(terms, product.symmetric_contractions, mixed, atoms.element)
            out = product.linear.weight.view(product_out.shape[2], -1) * _scale(product.linear)
            new = product_out[:, 0] @ out
            if type(interaction).__name__ == LATER:
                new = new + _by_element(interaction.skip_tp, features, atoms.element, n_elements)
            features = new
            every.append(features)
            energy = energy + _readout(readout, features)
        scaling = model.scale_shift
        return energy * scaling.scale + scaling.shift, torch.cat(every, dim=1)

    def _mixed(
        self, interaction: Any, summed: Tensor, atoms: _Neighbours, scales: Tensor
    ) -> Tensor:
        """Sums (n, M, C) mixed to (n, M, D)."""
        channels = summed.shape[2]
        linear = interaction.linear.weight.view(len(scales), channels, -1) * scales
        rows = summed.transpose(0, 1)
        if type(interaction).__name__ == LATER:
            mixed = torch.bmm(rows, linear.index_select(0, self._rows))
            return mixed.transpose(0, 1).contiguous()
        inner = linear.shape[2]
        skip = interaction.skip_tp.weight.view(len(scales), inner, -1)
        both = torch.bmm(linear, skip).index_select(0, self._rows)
        by_element = both.view(len(self._rows), channels, -1, inner).unbind(2)
        parts = [torch.bmm(rows[:, part], by_element[element]) for element, part in atoms.slices]
        return torch.cat(parts, dim=1).transpose(0, 1).contiguous()

    def _scales(self, interaction: Any) -> Tensor:
        """Of each degree, the factors of weights and couplings over the mean number of neighbours.

        Returns:
            (degrees, 1, 1).
        """
        parts = [block.instructions for block in (interaction.conv_tp, interaction.linear)]
        if type(interaction).__name__ == FIRST:
            parts.append(interaction.skip_tp.instructions)
        if any(len(part) != len(self._components) for part in parts):
            raise UnsuitableError
        scales = []
        for order, ways in enumerate(zip(*parts, strict=True)):
            convolution, linear, *skip = [float(way.path_weight) for way in ways]
            coupled = math.sqrt(2 * order + 1) ** (1 + len(skip))
            scales.append(convolution * linear * math.prod(skip) / coupled)
        every = torch.tensor(scales, dtype=torch.float64) / float(interaction.avg_num_neighbors)
        return every[:, None, None]


def _is_plain(interaction: Any) -> bool:
    """Whether an interaction's maps are e3nn's own, without adapters beside their weights."""
    kinds = {
        "linear_up": "Linear",
        "linear": "Linear",
        "skip_tp": "FullyConnectedTensorProduct",
        "conv_tp": "TensorProduct",
        "conv_tp_weights": "FullyConnectedNet",
    }
    return all(type(getattr(interaction, name)).__name__ == kind for name, kind in kinds.items())


def _neighbours(batch: Mapping[str, Tensor], r_max: float) -> _Neighbours:
    """Sort a batch's atoms by element, and its edges into a rectangle."""
    element = batch["node_attrs"].argmax(1)
    order = torch.argsort(element, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    sender, receiver = rank[batch["edge_index"]]
    n, positions = len(order), batch["positions"]
    by_receiver = torch.argsort(receiver, stable=True)
    receiver = receiver[by_receiver]
    counts = torch.bincount(receiver, minlength=n)
    widest = max(1, int(counts.max()))
    begins = counts.cumsum(0) - counts
    place = receiver * widest + torch.arange(len(receiver)) - begins[receiver]
    senders = torch.arange(n).repeat_interleave(widest)
    senders[place] = sender[by_receiver]
    ends = batch["edge_index"][:, by_receiver]
    vectors = positions.new_zeros(n * widest, 3)
    vectors[:, 0] = 2 * r_max  # beyond the cutoff, where nothing is there
    vectors[place] = positions[ends[1]] - positions[ends[0]] + batch["shifts"][by_receiver]
    present, numbers = torch.unique_consecutive(element[order], return_counts=True)
    stops = numbers.cumsum(0)
    return _Neighbours(
        order=order,
        element=element[order],
        slices=[
            (kind, slice(stop - number, stop))
            for kind, number, stop in zip(
                present.tolist(), numbers.tolist(), stops.tolist(), strict=True
            )
        ],
        graph=batch["batch"][order],
        sender=senders,
        vectors=vectors.T.contiguous(),
    )


def _basis(embedding: Any, length: Tensor) -> tuple[Tensor, Tensor]:
    """The radial basis of lengths (E, 1), Å, and its slopes, (E, B) each."""
    bessel, cutoff = embedding.bessel_fn, embedding.cutoff_fn
    p = int(cutoff.p)
    phase = bessel.bessel_weights * length
    wave = bessel.prefactor * torch.sin(phase) / length
    slope = bessel.prefactor * bessel.bessel_weights * torch.cos(phase) / length - wave / length
    x = length / cutoff.r_max
    inside = (length < cutoff.r_max).to(length)
    envelope = cutoff(length)
    falling = -p * (p + 1) * (p + 2) / 2 * x ** (p - 1) * (1 - x) ** 2 / cutoff.r_max * inside
    return wave * envelope, slope * envelope + wave * falling


def _radial(network: Any, basis: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """e3nn's fully connected network of the basis (U, B), and its slope by the length."""
    factor, both = 1.0, torch.cat([basis, slope])
    for layer in network.children():
        out = 1.0 if layer.act is not None else math.sqrt(layer.var_out)
        both = both @ (layer.weight * (factor * out / math.sqrt(layer.h_in * layer.var_in)))
        if layer.act is not None:
            both = _Silu.apply(both)
            factor = float(layer.act.cst) * math.sqrt(layer.var_out)
    values, slopes = both.chunk(2)
    return values, slopes


class _Silu(torch.autograd.Function):
    """SiLU of the first half of the rows; in the other half are their derivatives by something."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        values, slopes = both.chunk(2)
        derivative = torch.ops.aten.silu_backward(slopes, values)
        return torch.cat([torch.nn.functional.silu(values), derivative])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (both,) = ctx.saved_tensors
        values, slopes = both.chunk(2)
        by_values, by_slopes = gradients[0].chunk(2)
        part = torch.sigmoid(values)
        rest = 1 - part
        # Second derivative: s (1 - s) (2 + x (1 - 2 s)).
        curvature = (rest - part).mul_(values).add_(2).mul_(rest).mul_(part)
        curvature.mul_(slopes).mul_(by_slopes)
        curvature.add_(torch.ops.aten.silu_backward(by_values, values))
        return torch.cat([curvature, torch.ops.aten.silu_backward(by_slopes, values)])


def _by_element(block: Any, features: Tensor, element: Tensor, n_elements: int) -> Tensor:
    """A map of scalars (n, C) that depends on the atom's element."""
    width = features.shape[1]
    weights = block.weight.view(width, -1) * _scale(block)  # (C, elements · D)
    of_all = (features @ weights).view(len(features) * n_elements, -1)
    own = torch.arange(len(features)) * n_elements + element
    return of_all.index_select(0, own)


def _readout(block: Any, features: Tensor) -> Tensor:
    """Energies (n,) that a readout gives."""
    if type(block).__name__ == "LinearReadoutBlock":
        return features @ (block.linear.weight * _scale(block.linear))
    width = features.shape[1]
    first = block.linear_1.weight.view(width, -1) * _scale(block.linear_1)
    hidden = torch.nn.functional.silu(features @ first)
    factor = float(block.non_linearity.acts[0].cst) * _scale(block.linear_2)
    return hidden @ (block.linear_2.weight * factor)


def _scale(block: Any) -> float:
    """What e3nn multiplies the weights of a map between scalars by."""
    (way,) = block.instructions
    return float(way.path_weight)


def _compare(model: Any, forward: TrainingPass) -> None:
    """Refuse a model for which the pass gives other numbers than MACE's own forward.

    Raises:
        UnsuitableError: they differ.
    """
    batch = _made_up(model)
    generator = torch.Generator().manual_seed(1)
    atoms, frames = len(batch["positions"]), len(batch["n_atoms"])
    direction = torch.randn(atoms, 3, dtype=torch.float64, generator=generator)
    strain = torch.randn(frames, 3, 3, dtype=torch.float64, generator=generator)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    every = []
    for result in (
        model(batch, training=True, compute_virials=True),
        forward(model, batch, training=True, compute_virials=True),
    ):
        names = ("interaction_energy", "forces", "virials", "node_feats")
        values = [result[name] for name in names]
        loss = values[0].sum() + (direction * values[1]).sum() + (strain * values[2]).sum()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        every.append((values, gradients))
    (values, gradients), (own_values, own_gradients) = every
    for value, own in zip(values, own_values, strict=True):
        layers.check(value, own, layers.POLYNOMIAL_TOLERANCE)
    for gradient, own in zip(gradients, own_gradients, strict=True):
        if (gradient is None) != (own is None):
            raise UnsuitableError
        if gradient is not None and own is not None:
            layers.check(gradient, own, layers.POLYNOMIAL_TOLERANCE)


def _made_up(model: Any) -> dict[str, Tensor]:
    """Two frames of random atoms, some without neighbours, of elements that a model knows."""
    generator = torch.Generator().manual_seed(2)
    r_max, n_elements = float(model.r_max), len(model.atomic_numbers)
    n = 2 * min(n_elements, MADE_UP_ELEMENTS) + 3
    element = torch.arange(2 * n) % n_elements
    spots = torch.rand(2 * n, 3, dtype=torch.float64, generator=generator) * 0.8 * r_max
    spots[n - 1] += 9 * r_max
    frame = torch.arange(2 * n) // n
    apart = torch.linalg.vector_norm(spots[:, None] - spots, dim=2)
    near = (frame[:, None] == frame) & (apart < r_max) & ~torch.eye(2 * n, dtype=torch.bool)
    edges = torch.nonzero(near).T
    none = torch.zeros(edges.shape[1], 3, dtype=torch.float64)
    return {
        "positions": spots,
        "node_attrs": torch.eye(n_elements, dtype=torch.float64)[element],
        "edge_index": edges,
        "shifts": none,
        "unit_shifts": none,
        "cell": torch.zeros(6, 3, dtype=torch.float64),
        "batch": frame,
        "ptr": torch.tensor([0, n, 2 * n]),
        "head": torch.zeros(2, dtype=torch.long),
        "n_atoms": torch.tensor([n, n]),
    }
