"""The blocks of a MACE model with scalar node features, read off as plain matrices.

A block that is linear is applied to unit vectors, one that is quadratic to plus and minus the
unit vectors, and each reading is checked on random input: a block that does something else ends
the reading with `UnsuitableError`. Readings are made in float64.

    from halcyon.models.scalar import layers

    layers.check_parts(model)
    layers.readout(model.readouts[0], like=positions)

Not for: evaluating the model (see `evaluate`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-9  # of a reading, relative
KNOWN_MODELS = ("MACE", "ScaleShiftMACE")
RESIDUAL = "RealAgnosticResidualInteractionBlock"
KNOWN_INTERACTIONS = ("RealAgnosticInteractionBlock", RESIDUAL)
UNKNOWN_PARTS = ("pair_repulsion", "joint_embedding")


class UnsuitableError(Exception):
    """The model has a block that cannot be read as matrices."""


@dataclass(frozen=True)
class Layer:
    """One interaction and product, as matrices. C channels in, D out, M harmonics, L degrees.

    A list has an entry for each element, or a single one where it is the same for all.
    """

    up: Tensor
    """(C, L·C): what an atom sends, from the features that come in; once for each degree."""
    mix: list[Tensor]
    """By receiver, (M, C, D): all that is linear between sum and contraction."""
    linear: Tensor
    """(n_elements, D): the contraction is linear · A[0] + Σ_m square[m] · A[m]²."""
    square: Tensor
    """(n_elements, M, D)."""
    contraction: Callable[[Tensor, Tensor], Tensor] | None
    """MACE's own contraction, (n, D, M) and one-hot elements → (n, D), where `linear` and `square`
    do not describe it; else None."""
    out: Tensor
    """(D, D): the product's linear map."""
    skip: list[Tensor] | None
    """(C, D): from the features that come in to those that go out."""


@dataclass(frozen=True)
class Readout:
    """Energy of an atom from its features: linear, or with one hidden layer of SiLU."""

    first: Tensor
    """(D, H)."""
    second: Tensor | None
    """(H,), the activation's normalisation included; None: `first`, with H = 1, is all."""

    def __call__(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (n,) and their gradient (n, D) by the features."""
        hidden = features @ self.first
        if self.second is None:
            return hidden[:, 0], self.first.T.expand_as(features)
        energy = torch.nn.functional.silu(hidden) @ self.second
        inner = torch.ops.aten.silu_backward(self.second.expand_as(hidden), hidden)
        return energy, inner @ self.first.T


def check_parts(model: Any) -> None:
    """Refuse models with parts that are not known here.

    Raises:
        UnsuitableError: there is such a part.
    """
    embedding = getattr(model, "radial_embedding", None)
    suitable = (
        type(model).__name__ in KNOWN_MODELS
        and not any(hasattr(model, part) for part in UNKNOWN_PARTS)
        and not hasattr(embedding, "distance_transform")
        and getattr(embedding, "apply_cutoff", True)
        and len(getattr(model, "heads", ["one"])) == 1
        and all(type(block).__name__ in KNOWN_INTERACTIONS for block in model.interactions)
        and all(getattr(block, "cueq_config", None) is None for block in model.interactions)
        and all(getattr(block, "oeq_config", None) is None for block in model.interactions)
        and all(product.linear.irreps_out.lmax == 0 for product in model.products)
        and len(model.readouts) in (1, len(model.interactions))
    )
    if not suitable:
        raise UnsuitableError


def layer(interaction: Any, product: Any, *, own: Any, n_elements: int, like: Tensor) -> Layer:
    """Read an interaction and its product, in float64.

    Args:
        interaction: MACE's block.
        product: MACE's block.
        own: the product in the model's own precision: a contraction that cannot be read is left
            to it.
        n_elements: that the model knows.
        like: a tensor of the precision and on the device of the results.

    Raises:
        UnsuitableError: a block does something else.
    """
    elements = _identity(n_elements, like)
    features = _identity(interaction.node_feats_irreps.dim, like)
    up = interaction.linear_up(features)
    degree = int(interaction.edge_attrs_irreps.lmax)
    if [irrep.dim for irrep in interaction.edge_attrs_irreps] != list(range(1, 2 * degree + 2, 2)):
        raise UnsuitableError
    residual = type(interaction).__name__ == RESIDUAL
    scale = _convolution_scale(interaction.conv_tp, up.shape[1], degree, like)
    mix = [
        scale[:, None, None] * _mixing(interaction, element, up.shape[1], degree)
        for element in (elements[:1] if residual else elements.split(1))
    ]
    contraction = _contraction(product)
    width, n = mix[0].shape[2], (degree + 1) ** 2
    readings = [_quadratic(contraction, element, width, n) for element in elements]
    weights = [reading for reading in readings if reading is not None]
    readable = len(weights) == len(readings)
    if not readable:
        weights = [(elements[0], elements)]  # of no meaning: MACE's own contraction is used
    skip = None
    if residual and product.use_sc:
        skip = [
            interaction.skip_tp(features, element.expand(len(features), -1)) for element in elements
        ]
    return Layer(
        up=up.repeat(1, degree + 1).to(like),
        mix=[matrix.to(like) for matrix in mix],
        linear=torch.stack([linear for linear, _ in weights]).to(like),
        square=torch.stack([square for _, square in weights]).to(like),
        contraction=None if readable else _contraction(own),
        out=product.linear(_identity(width, like)).to(like),
        skip=None if skip is None else [matrix.to(like) for matrix in skip],
    )


def readout(block: Any, like: Tensor) -> Readout:
    """Read a readout.

    Raises:
        UnsuitableError: it is neither linear nor MACE's usual one with SiLU.
    """
    name = type(block).__name__
    if name == "LinearReadoutBlock":
        first = block.linear(_identity(block.linear.irreps_in.dim, like))
        return Readout(first.to(like), None)
    if name != "NonLinearReadoutBlock":
        raise UnsuitableError
    first = block.linear_1(_identity(block.linear_1.irreps_in.dim, like))
    second = block.linear_2(_identity(block.linear_2.irreps_in.dim, like))[:, 0]
    probe = _random(8, first.shape[1], like)
    silu, activated = torch.nn.functional.silu(probe), block.non_linearity(probe)
    ratio = activated[0, 0] / silu[0, 0]
    _check(activated, ratio * silu)
    return Readout(first.to(like), (ratio * second).to(like))


def radial_function(embedding: Any, interaction: Any) -> Callable[[Tensor], Tensor]:
    """An interaction's weights (n, L·C) as function of distances (n, 1), Å."""

    def function(lengths: Tensor) -> Tensor:
        basis = embedding.bessel_fn(lengths) * embedding.cutoff_fn(lengths)
        weights: Tensor = interaction.conv_tp_weights(basis)
        return weights

    return function


def _convolution_scale(conv_tp: Any, width: int, degree: int, like: Tensor) -> Tensor:
    """Constants (M,) of the tensor product, which must be h · w · Y but for them."""
    n = (degree + 1) ** 2
    if conv_tp.weight_numel != width * (degree + 1):
        raise UnsuitableError
    ones = torch.ones(n, width * (degree + 1), dtype=torch.float64, device=like.device)
    product = conv_tp(ones[:, :width], _identity(n, like), ones)
    scale = _unpacked(product, width, degree)[:, :, 0].diagonal().clone()
    features, harmonics = _random(5, width, like), _random(5, n, like)
    weights = _random(5, width * (degree + 1), like)
    degrees = torch.tensor(degrees_of_harmonics(degree), device=like.device)
    by_hand = (
        features[:, None]
        * weights.view(5, degree + 1, width)[:, degrees]
        * (scale * harmonics)[:, :, None]
    )
    _check(_unpacked(conv_tp(features, harmonics, weights), width, degree), by_hand)
    return scale


def degrees_of_harmonics(degree: int) -> list[int]:
    """Degree of each harmonic in e3nn's order: 0, 1, 1, 1, 2 and so on."""
    return [order for order in range(degree + 1) for _ in range(2 * order + 1)]


def _unpacked(packed: Tensor, width: int, degree: int) -> Tensor:
    """From e3nn's order of columns, for each degree channels × harmonics, to (n, M, C)."""
    sizes = [width * (2 * order + 1) for order in range(degree + 1)]
    if packed.shape[1] != sum(sizes):
        raise UnsuitableError
    parts = [part.view(len(packed), width, -1) for part in packed.split(sizes, dim=1)]
    return torch.cat(parts, dim=2).transpose(1, 2)


def _mixing(interaction: Any, element: Tensor, width: int, degree: int) -> Tensor:
    """What an interaction does to sums over neighbours, (M, C, D)."""

    def mixed(packed: Tensor) -> Tensor:
        message = interaction.linear(packed) / interaction.avg_num_neighbors
        if type(interaction).__name__ != RESIDUAL:
            message = interaction.skip_tp(message, element.expand(len(packed), -1))
        reshaped: Tensor = interaction.reshape(message)
        return reshaped.transpose(1, 2)  # (n, M, D)

    size = width * (degree + 1) ** 2
    channels = torch.arange(width, device=element.device)
    matrices, begin = [], 0
    for order in range(degree + 1):
        n = 2 * order + 1
        units = element.new_zeros(width, size)
        units[channels, begin + n * channels] = 1
        matrices += [mixed(units)[:, order**2]] * n
        begin += n * width
    matrix = torch.stack(matrices)
    probe = _random(3, size, element)
    by_hand = torch.einsum("nmc,mcd->nmd", _unpacked(probe, width, degree), matrix)
    _check(mixed(probe), by_hand)
    return matrix


def _contraction(product: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def contracted(mixed: Tensor, one_hot: Tensor) -> Tensor:
        if getattr(product, "use_agnostic_product", False):
            one_hot = torch.ones_like(one_hot[:, :1])
        result: Tensor = product.symmetric_contractions(mixed, one_hot)
        return result

    return contracted


def _quadratic(
    contraction: Callable[[Tensor, Tensor], Tensor], element: Tensor, width: int, n: int
) -> tuple[Tensor, Tensor] | None:
    """Weights (D,) and (M, D) of a contraction to squares; None: it is not one."""
    units = _identity(n, element)[:, None].repeat(1, width, 1)
    one_hot = element.expand(n, -1)
    plus, minus = contraction(units, one_hot), contraction(-units, one_hot)
    linear, square = (plus[0] - minus[0]) / 2, (plus + minus) / 2
    probe = _random(4, width * n, element).view(4, width, n)
    by_hand = linear * probe[:, :, 0] + torch.einsum("ncm,mc->nc", probe**2, square)
    try:
        _check(contraction(probe, element.expand(4, -1)), by_hand)
    except UnsuitableError:
        return None
    return linear, square


def _check(by_block: Tensor, by_hand: Tensor) -> None:
    """Raise `UnsuitableError` unless a block gives what its reading gives."""
    if by_block.shape != by_hand.shape or not torch.allclose(
        by_block, by_hand, rtol=0, atol=TOLERANCE * (1 + float(by_block.abs().max()))
    ):
        raise UnsuitableError


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=torch.float64, device=like.device)


def _random(rows: int, columns: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(columns)
    random = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    return random.to(like.device)
