"""MACE's forward pass for training by compiled loops: for models whose features are scalars.

A step of a small model is not arithmetic but the overhead of thousands of small tensor operations:
of e3nn's tensor products on each edge, and of autograd, which goes through them twice. Here the
model is one function of its weights to autograd (`training_gradient`). Energies and their gradient
by edge vectors come from the loops that dynamics take (`scalar_loops`), gradients by the weights
from loops of their own (`training_loops`); here a batch is laid out for them, and the gradient by
edge vectors becomes forces and virials. Weights stay where they are in the model, and get the
gradients that MACE's own forward would give them.

    from halcyon.models.fast.training_pass import TrainingPass

    forward = TrainingPass.of(model)
    if forward is not None:
        result = forward(model, batch, training=True)

Not for: dynamics (see `evaluate`), features of degree 1 or more, distance transforms, densities,
pair repulsion, and devices other than a CPU. For these `TrainingPass.of` returns None, and the
caller uses MACE's own forward.
"""

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from halcyon.models.fast import layers
from halcyon.models.fast.layers import UnsuitableError
from halcyon.models.fast.radial_network import RadialNetwork, radial_basis
from halcyon.models.fast.solid_harmonics import SolidHarmonics
from halcyon.models.fast.training_gradient import Batch, Part, Reading, evaluated
from halcyon.models.fast.training_weights import FIRST, LATER, LayerWeights, e3nn_factor

TOLERANCES = {torch.float64: layers.POLYNOMIAL_TOLERANCE, torch.float32: 1e-3}
"""Relative, of what a pass gives beside MACE's own."""
MADE_UP_ELEMENTS = 10
"""At most so many are compared: each pair of made-up atoms is an edge."""


@dataclass(frozen=True)
class _Edges:
    """A batch's atoms, each with J neighbours, some of which may be beyond the cutoff."""

    present: Tensor  # elements that there are, ascending: indices into the model's
    element: Tensor  # (n,): which of them
    sender: Tensor  # (n · J,)
    vectors: Tensor  # (3, n · J): from sender to receiver, Å
    bounds: list[int]  # first atom of each frame, and one past the last of all


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
        channels = layers.natural(model.interactions[0].node_feats_irreps)[1]
        degree = int(model.interactions[0].edge_attrs_irreps.lmax)
        exact = copy.deepcopy(model.spherical_harmonics).double()
        like = next(model.parameters()).detach()
        harmonics = SolidHarmonics(exact, degree, like=like)
        self._weights: WeakKeyDictionary[Any, list[Tensor]] = WeakKeyDictionary()
        self._reading = Reading(
            channels=channels,
            geometry=((degree + 1) ** 2, *harmonics.terms()),
            embedding=e3nn_factor(model.node_embedding.linear),
            networks=[RadialNetwork(block.conv_tp_weights) for block in model.interactions],
            layers=[
                LayerWeights(blocks, n_elements=len(model.atomic_numbers), channels=channels)
                for blocks in _blocks(model)
            ],
        )

    @classmethod
    def of(cls, model: Any) -> "TrainingPass | None":
        """Prepare for a model; None where only MACE's own forward can evaluate it.

        The pass is compared with MACE's own on made-up atoms, gradients by weights included.
        """
        learning = copy.deepcopy(model).requires_grad_(True)
        try:
            # Optimising e3nn's compiled code would take longer than these few calls.
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                made = cls(learning)
                _compare(learning, made)
        except UnsuitableError:
            return None
        return made

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
            edges = _edges(batch, float(model.r_max))
            length = torch.linalg.vector_norm(edges.vectors, dim=0)
            different, which = length.unique(return_inverse=True)
            which[length >= model.r_max] = -1
            laid_out = Batch(
                parts=_parts(edges, length, edges.vectors / length, which),
                basis=_basis(model.radial_embedding, different),
                present=edges.present,
            )
        n_frames, scaling = len(batch["n_atoms"]), model.scale_shift
        with torch.set_grad_enabled(training):
            weights = self._weights_of(model)
            of_atoms, by_vectors, features = evaluated(self._reading, laid_out, weights)
            of_atoms = of_atoms * scaling.scale + scaling.shift
            gradient = by_vectors * scaling.scale
            towards = gradient.view(3, len(edges.element), -1)
            forces = (-towards.sum(2)).index_add(1, edges.sender, gradient)
            energy = of_atoms.new_zeros(n_frames).index_add(0, batch["batch"], of_atoms)
            result = {"interaction_energy": energy, "forces": forces.T, "node_feats": features}
            if compute_virials:
                moments = torch.einsum("anj,bnj->nab", towards, edges.vectors.view_as(towards))
                whole = moments.new_zeros(n_frames, 3, 3).index_add(0, batch["batch"], moments)
                result["virials"] = -(whole + whole.mT) / 2
        return result

    def _weights_of(self, model: Any) -> list[Tensor]:
        """A model's weights in the order of `evaluated`, looked up once for each model."""
        if model not in self._weights:
            self._weights[model] = list(_parameters(model))
        return self._weights[model]


def _blocks(model: Any) -> list[tuple[Any, Any, Any]]:
    """Interaction, product and readout of each layer."""
    return list(zip(model.interactions, model.products, model.readouts, strict=True))


def _parameters(model: Any) -> Iterator[Tensor]:
    """All weights of a model, in the order of `evaluated`."""
    yield model.node_embedding.linear.weight
    for blocks in _blocks(model):
        yield from (layer.weight for layer in blocks[0].conv_tp_weights.children())
        yield from LayerWeights.parameters(blocks)


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


def _edges(batch: Mapping[str, Tensor], r_max: float) -> _Edges:
    """Sort a batch's edges into a rectangle."""
    present, element = batch["node_attrs"].argmax(1).unique(return_inverse=True)
    positions, n = batch["positions"], len(batch["batch"])
    by_receiver = torch.argsort(batch["edge_index"][1], stable=True)
    sender, receiver = batch["edge_index"][:, by_receiver]
    counts = torch.bincount(receiver, minlength=n)
    widest = max(1, int(counts.max()))
    begins = counts.cumsum(0) - counts
    place = receiver * widest + torch.arange(len(receiver)) - begins[receiver]
    senders = torch.arange(n).repeat_interleave(widest)
    senders[place] = sender
    vectors = positions.new_zeros(n * widest, 3)
    vectors[:, 0] = 2 * r_max  # beyond the cutoff, where nothing is there
    vectors[place] = positions[receiver] - positions[sender] + batch["shifts"][by_receiver]
    return _Edges(present, element, senders, vectors.T.contiguous(), batch["ptr"].tolist())


def _parts(edges: _Edges, length: Tensor, unit: Tensor, which: Tensor) -> list[Part]:
    """A batch's frames, as many parts as PyTorch is to use threads."""
    n_frames, n = len(edges.bounds) - 1, len(edges.element)
    number = min(torch.get_num_threads(), n_frames)
    firsts = [edges.bounds[n_frames * part // number] for part in range(number + 1)]
    widest = len(edges.sender) // n
    parts = []
    for first, end in itertools.pairwise(firsts):
        inside = slice(first * widest, end * widest)
        parts.append(
            Part(
                atoms=slice(first, end),
                edges=inside,
                length=length[inside].numpy(),
                unit=unit[:, inside].contiguous().numpy(),
                which=which[inside].numpy(),
                sender=(edges.sender[inside].view(-1, widest) - first).numpy(),
                element=edges.element[first:end].numpy(),
            )
        )
    return parts


def _basis(embedding: Any, lengths: Tensor) -> Tensor:
    """The radial basis of U lengths, Å, and below it the slopes, (2 U, B)."""
    bessel, cutoff = embedding.bessel_fn, embedding.cutoff_fn
    waves = bessel.bessel_weights.detach()
    result = lengths.new_empty(2 * len(lengths), len(waves))
    limits = (float(cutoff.r_max), int(cutoff.p))
    radial_basis(lengths.numpy(), waves.numpy(), float(bessel.prefactor), limits, result.numpy())
    return result


def _compare(model: Any, forward: TrainingPass) -> None:
    """Refuse a model for which the pass gives other numbers than MACE's own forward.

    Raises:
        UnsuitableError: they differ.
    """
    like = next(model.parameters())
    batch = {
        name: part.to(like) if part.is_floating_point() else part
        for name, part in _made_up(model).items()
    }
    tolerance = TOLERANCES[like.dtype]
    generator = torch.Generator().manual_seed(1)
    atoms, frames = len(batch["positions"]), len(batch["n_atoms"])
    direction = torch.randn(atoms, 3, dtype=like.dtype, generator=generator)
    strain = torch.randn(frames, 3, 3, dtype=like.dtype, generator=generator)
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
        layers.check(value, own, tolerance)
    for gradient, own in zip(gradients, own_gradients, strict=True):
        if (gradient is None) != (own is None):
            raise UnsuitableError
        if gradient is not None and own is not None:
            layers.check(gradient, own, tolerance)


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
