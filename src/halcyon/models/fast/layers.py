"""The blocks of a MACE model, read off as plain matrices, coupling coefficients and polynomials.

A block that is linear is applied to unit vectors, and each reading is checked on random input: a
block that does something else ends the reading with `UnsuitableError`. Readings are in float64.

Features of an atom are (K, C): components of degree 0, then three of degree 1 and so on, for each
of C channels. MACE has them packed, as e3nn does: for each degree, channels with components.

    from halcyon.models.fast import layers

    layers.check_parts(model)
    layers.readout(model.readouts[0], like=positions)

Not for: evaluating the model (see `evaluate`).
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halcyon.models.fast import polynomial
from halcyon.models.fast.polynomial import Polynomial

TOLERANCE = 1e-9  # of a reading, relative
POLYNOMIAL_TOLERANCE = 1e-5  # the same, where coefficients that are 0 but for rounding are left out
KNOWN_MODELS = ("MACE", "ScaleShiftMACE")
RESIDUAL = ("RealAgnosticResidualInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")
"""The skip connection goes past the product; in others it is part of the interaction."""
BY_DENSITY = (
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
)
"""Messages are divided by each atom's own density of neighbours; in others by a constant."""
KNOWN_INTERACTIONS = {"RealAgnosticInteractionBlock", *RESIDUAL, *BY_DENSITY}
KNOWN_TRANSFORMS = ("AgnesiTransform", "SoftTransform")


class UnsuitableError(Exception):
    """The model has a block that cannot be read."""


@dataclass(frozen=True)
class Convolution:
    """How an edge's harmonics couple what the neighbour sends. A path takes one degree to another.

    Rows of the sums over neighbours: by degree, then component, then path.
    """

    paths: np.ndarray
    """(paths, 4): first component that is sent and number of them; first row and one past the
    last, rows of one path side by side."""
    rows: np.ndarray
    """(rows,): where in the sums each of these rows is."""
    terms: np.ndarray
    """(T, 3): row, component from the path's first on, harmonic."""
    factors: np.ndarray
    """(T,)."""
    degrees: list[slice]
    """Rows of each degree in the sums, (2l + 1) · paths to this degree."""

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Paths, rows, terms and factors."""
        return self.paths, self.rows, self.terms, self.factors


@dataclass(frozen=True)
class Layer:
    """One interaction and product. C channels in, D out.

    A list "by receiver" has an entry for each element, or a single one where all have the same.
    """

    up: list[Tensor]
    """For each degree (C, C): what an atom sends, from its features."""
    convolution: Convolution
    mix: list[list[Tensor]]
    """By receiver, for each degree (paths · C, D): all that is linear between sum and product."""
    alike: list[Tensor] | None
    """By receiver, (M, C, D): the same for each row, where one path leads to each degree."""
    polynomial: Polynomial
    out: list[Tensor]
    """For each degree (D, D): the product's linear map."""
    skip: list[list[Tensor]] | None
    """By receiver, for each degree (C, D): from the features that come in to those that go out."""


@dataclass(frozen=True)
class Readout:
    """Energy of an atom from its features of degree 0: linear, or with one hidden layer of SiLU."""

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
    transform = getattr(embedding, "distance_transform", None)
    suitable = (
        type(model).__name__ in KNOWN_MODELS
        and not hasattr(model, "joint_embedding")
        and (transform is None or type(transform).__name__ in KNOWN_TRANSFORMS)
        and getattr(embedding, "apply_cutoff", True)
        and len(getattr(model, "heads", ["one"])) == 1
        and all(type(block).__name__ in KNOWN_INTERACTIONS for block in model.interactions)
        and all(getattr(block, "cueq_config", None) is None for block in model.interactions)
        and all(getattr(block, "oeq_config", None) is None for block in model.interactions)
        and len(model.readouts) in (1, len(model.interactions))
    )
    if not suitable:
        raise UnsuitableError


def layer(interaction: Any, product: Any, *, n_elements: int, like: Tensor) -> Layer:
    """Read an interaction and its product, in float64.

    Args:
        interaction: MACE's block.
        product: MACE's block.
        n_elements: that the model knows.
        like: a tensor of the precision and on the device of the results.

    Raises:
        UnsuitableError: a block does something else.
    """
    elements = _identity(n_elements, like)
    coming, width = natural(interaction.node_feats_irreps)
    sent, sent_width = natural(interaction.conv_tp.irreps_in1)
    highest, single = natural(interaction.edge_attrs_irreps)
    degree, mixed_width = natural(interaction.irreps_out)
    going, out_width = natural(product.linear.irreps_out)
    if single != 1 or degree != highest or mixed_width != out_width:
        raise UnsuitableError
    convolution, paths_to = _convolution(interaction.conv_tp, sent, sent_width, degree, like)
    mix = _mixing(interaction, elements, [n * sent_width for n in paths_to])
    skip = None
    if type(interaction).__name__ in RESIDUAL and product.use_sc:
        skip = [
            _by_element(interaction.skip_tp, element, (coming, width), (going, out_width))
            for element in elements
        ]
    return Layer(
        up=_as(like, _linear(interaction.linear_up, (coming, width), (sent, sent_width), like)),
        convolution=convolution,
        mix=[_as(like, matrices) for matrices in mix],
        alike=[_by_row(like, matrices) for matrices in mix] if {*paths_to} == {1} else None,
        polynomial=_polynomial(product, (degree, out_width), (going, out_width), elements, like),
        out=_as(like, _linear(product.linear, (going, out_width), (going, out_width), like)),
        skip=None if skip is None else [_as(like, matrices) for matrices in skip],
    )


def readout(block: Any, like: Tensor) -> Readout:
    """Read a readout.

    Raises:
        UnsuitableError: it is neither linear nor MACE's usual one with SiLU.
    """
    name = type(block).__name__
    if name == "LinearReadoutBlock":
        degree, width = natural(block.linear.irreps_in)
        (first,) = _linear(block.linear, (degree, width), (0, 1), like)
        return Readout(first.to(like), None)
    if name != "NonLinearReadoutBlock":
        raise UnsuitableError
    first = block.linear_1(_identity(block.linear_1.irreps_in.dim, like))
    second = block.linear_2(_identity(block.linear_2.irreps_in.dim, like))[:, 0]
    probe = _random(8, first.shape[1], like)
    silu, activated = torch.nn.functional.silu(probe), block.non_linearity(probe)
    ratio = activated[0, 0] / silu[0, 0]
    check(activated, ratio * silu)
    return Readout(first.to(like), (ratio * second).to(like))


def radial_functions(model: Any, sender: int, receiver: int) -> list[Callable[[Tensor], Tensor]]:
    """Of distances (n, 1), Å, between atoms of two elements, as indices into the model's.

    Returns:
        For each interaction its weights, (n, paths · C); then, for each that divides by a
        density, what a neighbour adds to it, (n, 1).
    """
    embedding, interactions = model.radial_embedding, model.interactions
    transform = getattr(embedding, "distance_transform", None)
    attributes = _identity(len(model.atomic_numbers), model.atomic_numbers)[[sender, receiver]]

    def basis(lengths: Tensor) -> Tensor:
        inner = lengths
        if transform is not None:
            edges = torch.tensor([[0], [1]], device=lengths.device).expand(2, len(lengths))
            inner = transform(lengths, attributes, edges, model.atomic_numbers)
        waves: Tensor = embedding.bessel_fn(inner) * embedding.cutoff_fn(lengths)
        return waves

    def weights_of(interaction: Any) -> Callable[[Tensor], Tensor]:
        return lambda lengths: interaction.conv_tp_weights(basis(lengths))

    def density_of(interaction: Any) -> Callable[[Tensor], Tensor]:
        return lambda lengths: torch.tanh(interaction.density_fn(basis(lengths)) ** 2)

    dividing = [block for block in interactions if type(block).__name__ in BY_DENSITY]
    return [*map(weights_of, interactions), *map(density_of, dividing)]


def natural(irreps: Any) -> tuple[int, int]:
    """Highest degree, and channels, of irreps such as 64x0e + 64x1o + 64x2e.

    Raises:
        UnsuitableError: they are others.
    """
    widths = {multiplicity for multiplicity, _ in irreps}
    kinds = [(irrep.l, irrep.p) for _, irrep in irreps]
    if len(widths) != 1 or kinds != [(order, (-1) ** order) for order in range(len(kinds))]:
        raise UnsuitableError
    return len(kinds) - 1, widths.pop()


def unpacked(packed: Tensor, widths: list[int]) -> list[Tensor]:
    """From e3nn's order, for each degree channels × components, to a list of (n, 2l + 1, C)."""
    sizes = [width * (2 * order + 1) for order, width in enumerate(widths)]
    if packed.shape[1] != sum(sizes):
        raise UnsuitableError
    return [
        part.view(len(packed), width, -1).transpose(1, 2)
        for part, width in zip(packed.split(sizes, dim=1), widths, strict=True)
    ]


def _convolution(
    conv_tp: Any, sent: int, width: int, degree: int, like: Tensor
) -> tuple[Convolution, list[int]]:
    """Coupling coefficients of the tensor product, and the number of paths to each degree."""
    ends = [irrep.l for _, irrep in conv_tp.irreps_out]  # of each path
    if any(multiplicity != width for multiplicity, _ in conv_tp.irreps_out):
        raise UnsuitableError
    if ends != sorted(ends) or conv_tp.weight_numel != width * len(ends):
        raise UnsuitableError
    paths_to = [ends.count(order) for order in range(degree + 1)]
    n_sent, n_harmonics = (sent + 1) ** 2, (degree + 1) ** 2
    widths = [width] * (sent + 1)

    def by_path(features: Tensor, harmonics: Tensor, weights: Tensor) -> list[Tensor]:
        """What each path gives, (n, 2l + 1, C); features are (n, K, C)."""
        packed = torch.cat(
            [
                features[:, order**2 : (order + 1) ** 2].transpose(1, 2).flatten(1)
                for order in range(len(widths))
            ],
            dim=1,
        )
        result = conv_tp(packed, harmonics, weights)
        sizes = [width * (2 * order + 1) for order in ends]
        return [
            part.view(len(packed), width, -1).transpose(1, 2) for part in result.split(sizes, dim=1)
        ]

    # Every component of degree by every harmonic.
    components = _identity(n_sent, like).repeat_interleave(n_harmonics, dim=0)
    harmonics = _identity(n_harmonics, like).repeat(n_sent, 1)
    ones = torch.ones(len(components), width * len(ends), dtype=torch.float64, device=like.device)
    read = by_path(components[:, :, None].expand(-1, -1, width), harmonics, ones)
    couplings = [
        part[:, :, 0].view(n_sent, n_harmonics, -1) for part in read
    ]  # (K, M, 2l + 1) each
    features = _random(5 * n_sent, width, like).view(5, n_sent, width)
    harmonics = _random(5, n_harmonics, like)
    weights = _random(5, width * len(ends), like)
    for result, coupling, weight in zip(
        by_path(features, harmonics, weights), couplings, weights.split(width, dim=1), strict=True
    ):
        by_hand = torch.einsum("nkc,nm,kmo->noc", features, harmonics, coupling)
        check(result, weight[:, None] * by_hand)

    return _laid_out(couplings, paths_to, like), paths_to


def _laid_out(couplings: list[Tensor], paths_to: list[int], like: Tensor) -> Convolution:
    """Couplings (K, M, 2l + 1) of each path as sparse terms, and where its rows are in the sums."""
    begins = np.cumsum([0, *((2 * order + 1) * n for order, n in enumerate(paths_to))]).tolist()
    paths, rows, terms, factors = [], [], [], []  # type: ignore[var-annotated]
    for place, coupling in enumerate(couplings):
        order = (coupling.shape[2] - 1) // 2
        first, n_parts = _sent_degree(coupling)
        first_row = len(rows)
        for component in range(2 * order + 1):
            for k, m in torch.nonzero(coupling[:, :, component]).tolist():
                terms.append((len(rows), k - first, m))
                factors.append(float(coupling[k, m, component]))
            within = place - sum(paths_to[:order])
            rows.append(begins[order] + component * paths_to[order] + within)
        paths.append((first, n_parts, first_row, len(rows)))
    return Convolution(
        paths=np.array(paths, dtype=np.int64),
        rows=np.array(rows, dtype=np.int64),
        terms=np.array(terms, dtype=np.int64),
        factors=np.array(factors, dtype=np.float32 if like.dtype == torch.float32 else np.float64),
        degrees=[slice(begin, end) for begin, end in itertools.pairwise(begins)],
    )


def _sent_degree(coupling: Tensor) -> tuple[int, int]:
    """First component, and number of them, of the degree that a path (K, M, 2l + 1) takes."""
    used = torch.nonzero(coupling.abs().amax(dim=(1, 2)))[:, 0].tolist()
    degree = math.isqrt(used[0]) if used else 0
    if not used or math.isqrt(used[-1]) != degree:
        raise UnsuitableError
    return degree**2, 2 * degree + 1


def _mixing(interaction: Any, elements: Tensor, widths: list[int]) -> list[list[Tensor]]:
    """What an interaction does to sums over neighbours, but for a division by a density.

    Args:
        interaction: MACE's block.
        elements: one-hot, all that the model knows.
        widths: for each degree, channels of all paths to it.

    Returns:
        By receiver, for each degree (paths · C, D).
    """
    degree, out_width = natural(interaction.irreps_out)
    size = sum(width * (2 * order + 1) for order, width in enumerate(widths))
    by_density = type(interaction).__name__ in BY_DENSITY
    divisor = 1.0 if by_density else interaction.avg_num_neighbors
    alike: list[Tensor] = []
    begin = 0
    for order, width in enumerate(widths):
        units = elements.new_zeros(width, size)
        channels = torch.arange(width, device=elements.device)
        units[channels, begin + (2 * order + 1) * channels] = 1
        message = unpacked(interaction.linear(units), [out_width] * (degree + 1))[order]
        alike.append(message[:, 0] / divisor)
        begin += width * (2 * order + 1)
    by_receiver = [alike]
    depends_on_receiver = type(interaction).__name__ not in RESIDUAL
    if depends_on_receiver:
        both = (degree, out_width)
        by_receiver = [
            [
                matrix @ skip
                for matrix, skip in zip(
                    alike, _by_element(interaction.skip_tp, element, both, both), strict=True
                )
            ]
            for element in elements
        ]
    probe = _random(3, size, elements)
    message = interaction.linear(probe) / divisor
    if depends_on_receiver:
        message = interaction.skip_tp(message, elements[-1].expand(len(probe), -1))
    parts = zip(unpacked(probe, widths), by_receiver[-1], strict=True)
    by_hand = torch.cat([part @ matrix for part, matrix in parts], dim=1)
    check(interaction.reshape(message).transpose(1, 2), by_hand)
    return by_receiver


def _by_element(
    block: Callable[[Tensor, Tensor], Tensor],
    element: Tensor,
    inner: tuple[int, int],
    outer: tuple[int, int],
) -> list[Tensor]:
    """Matrices of a map that depends on the atom's element. See `_linear`."""
    return _linear(
        lambda packed: block(packed, element.expand(len(packed), -1)), inner, outer, element
    )


def _linear(
    block: Callable[[Tensor], Tensor], inner: tuple[int, int], outer: tuple[int, int], like: Tensor
) -> list[Tensor]:
    """An equivariant linear map's matrices, for each degree that both sides have.

    Args:
        block: of packed features (n, ·).
        inner: highest degree and channels of what goes in.
        outer: the same of what comes out.
        like: on the device of the block.
    """
    (degree, width), (out_degree, out_width) = inner, outer
    widths, out_widths = [width] * (degree + 1), [out_width] * (out_degree + 1)
    size = width * (degree + 1) ** 2
    channels = torch.arange(width, device=like.device)
    matrices = []
    for order in range(min(degree, out_degree) + 1):
        units = torch.zeros(width, size, dtype=torch.float64, device=like.device)
        units[channels, width * order**2 + (2 * order + 1) * channels] = 1
        matrices.append(unpacked(block(units), out_widths)[order][:, 0].contiguous())
    probe = _random(3, size, like)
    by_block = unpacked(block(probe), out_widths)
    for result, part, matrix in zip(by_block, unpacked(probe, widths), matrices, strict=False):
        check(result, part @ matrix)
    for part in by_block[len(matrices) :]:
        check(part, torch.zeros_like(part))
    return matrices


def _polynomial(
    product: Any, inner: tuple[int, int], outer: tuple[int, int], elements: Tensor, like: Tensor
) -> Polynomial:
    """The product's contraction of (n, M, D) to (n, K, D), with coefficients of every element."""
    agnostic = getattr(product, "use_agnostic_product", False)
    kinds = torch.ones_like(elements[:1, :1]) if agnostic else elements
    terms = contraction(product.symmetric_contractions, inner, outer, kinds)
    coefficients = terms.coefficients.expand(len(elements), -1, -1)
    return replace(terms, coefficients=coefficients.to(like).contiguous())


def contraction(
    block: Any, inner: tuple[int, int], outer: tuple[int, int], elements: Tensor
) -> Polynomial:
    """Read MACE's symmetric contraction.

    Args:
        block: in float64.
        inner: highest degree and channels of what goes in.
        outer: the same of what comes out.
        elements: one-hot, all that the block knows.

    Raises:
        UnsuitableError: it does something else, or has a correlation above 3.
    """
    (degree, width), (out_degree, out_width) = inner, outer
    terms = polynomial.read(block)
    if terms is None or terms.n_components != (out_degree + 1) ** 2:
        raise UnsuitableError
    probe = _random(len(elements) * (degree + 1) ** 2, width, elements)
    probe = probe.view(len(elements), (degree + 1) ** 2, width)
    by_block = unpacked(
        block(probe.transpose(1, 2).contiguous(), elements), [out_width] * (out_degree + 1)
    )
    order = torch.arange(len(elements), device=elements.device)
    by_hand = terms.values(probe, order, terms.coefficients)
    check(torch.cat(by_block, dim=1), by_hand, POLYNOMIAL_TOLERANCE)
    return terms


def check(by_block: Tensor, by_hand: Tensor, tolerance: float = TOLERANCE) -> None:
    """Compare what a block gives with what its reading gives.

    Raises:
        UnsuitableError: they differ.
    """
    greatest = float(by_block.detach().abs().max())
    if (
        by_block.shape != by_hand.shape
        or not math.isfinite(greatest)  # weights of a training that diverged
        or not torch.allclose(by_block, by_hand, rtol=0, atol=tolerance * (1 + greatest))
    ):
        raise UnsuitableError


def _as(like: Tensor, matrices: list[Tensor]) -> list[Tensor]:
    return [matrix.to(like).contiguous() for matrix in matrices]


def _by_row(like: Tensor, matrices: list[Tensor]) -> Tensor:
    """Each degree's matrix for every component."""
    rows = [m.expand(2 * order + 1, -1, -1) for order, m in enumerate(matrices)]
    return torch.cat(rows).to(like).contiguous()


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=torch.float64, device=like.device)


def _random(rows: int, columns: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(columns)
    random = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    return random.to(like.device)
