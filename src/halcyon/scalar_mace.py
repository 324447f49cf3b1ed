"""MACE models whose node features are scalars, evaluated with few and large operations.

MACE's forward pass makes a tensor product per edge, and autograd walks it back: for small systems
that is time for hundreds of small operations, for large ones a flood of memory. Where node
features are scalars (`max_L = 0`), an interaction is, per receiving atom n, a matrix product over
its neighbours j,

    A[n, m, lc] = Σ_j  Y_m(r_nj) · R_lc(|r_nj|) · h_jc ,

of which the blocks with m in l are kept (I. Batatia et al., NeurIPS 2022, eq. 8, with scalar h).
Neighbours are padded to a rectangle, so that it is one `bmm`; the radial network R comes from a
table; and the gradient is written out below, in the opposite order of the same steps.

The weights are read off the model's own blocks by applying them to unit vectors, and each reading
is checked on random input: a block that is not what we take it for makes `ScalarMace.of` return
None, and the caller uses MACE's own forward.

Not for: training, models with `max_L` > 0, several heads, distances transformed by element, or a
pair repulsion: for these, `ScalarMace.of` returns None.

    fast = ScalarMace.of(model)
    plan = fast.plan(kinds)  # once, while the same atoms stand in the batch
    node_energy, gradient, descriptors = fast(plan, vectors, sender)
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halcyon.radial_table import RadialTable

PROBE_TOLERANCE = 1e-9  # relative; readings are made in float64
KNOWN_MODELS = ("MACE", "ScaleShiftMACE")
KNOWN_INTERACTIONS = ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock")
UNKNOWN_PARTS = ("pair_repulsion", "joint_embedding")


class _Unsuitable(Exception):
    """The model is not of the kind that this module evaluates."""


@dataclass(frozen=True)
class Plan:
    """What stays the same while the same atoms, sorted by element, stand in the batch."""

    n_atoms: int
    slices: list[tuple[int, slice]]
    """Each element that occurs, as index into the model's, and where its atoms stand."""
    layers: list["_Weights"]
    one_hot: Tensor
    """(n_atoms, n_elements), for contractions that only MACE knows."""


@dataclass(frozen=True)
class _Weights:
    """A layer's weights that depend on the element, laid out for a batch's atoms."""

    linear: Tensor  # (n_atoms, C): B[n, c] = linear · A[n, m=0, c] + Σ_m square · A[n, m, c]²
    square: Tensor  # (M, n_atoms, C)


@dataclass(frozen=True)
class _Layer:
    """One interaction and product, as matrices. C channels in, D out, M harmonics, L degrees.

    A quantity by element is a list; it has one entry where it is the same for all.
    """

    up: Tensor
    """(C, L·C): `linear_up` of the features that come in, once for each degree."""
    mix: list[Tensor]
    """By receiving element, (M, C, D): all that is linear between sum and contraction."""
    linear: Tensor
    """(n_elements, D), of the contraction; see `_Weights`."""
    square: Tensor
    """(n_elements, M, D)."""
    contraction: Callable[[Tensor, Tensor], Tensor] | None
    """MACE's own contraction, (n, D, M) and one-hot elements → (n, D); None: the two above."""
    out: Tensor
    """(D, D): the product's linear map."""
    skip: list[Tensor] | None
    """By element, (C, D): from the features that come in to those that go out."""


@dataclass(frozen=True)
class _Readout:
    """Energy of an atom from its features: linear, or with one hidden layer of SiLU."""

    first: Tensor  # (D, H)
    second: Tensor | None  # (H,), the activation's normalisation included; None: `first` is all

    def __call__(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (n,) and their gradient by the features (n, D)."""
        hidden = features @ self.first
        if self.second is None:
            return hidden[:, 0], self.first.T.expand_as(features)
        energy = torch.nn.functional.silu(hidden) @ self.second
        inner = torch.ops.aten.silu_backward(self.second.expand_as(hidden), hidden)
        return energy, inner @ self.first.T


class SolidHarmonics:
    """Real solid harmonics up to a degree, and gradients, by recursion.

    The gradient of a solid harmonic of degree l is a combination of those of degree l − 1; and
    being homogeneous it is its own gradient times r over l (Euler). So one set of constants gives
    both: ∂_a S_lm = Σ_k c[a, m, k] S_(l−1)k and S_lm = Σ_a x_a ∂_a S_lm / l.
    """

    def __init__(self, reference: Callable[[Tensor], Tensor], degree: int, like: Tensor) -> None:
        """Find the constants of a set of harmonics.

        Args:
            reference: spherical harmonics (n, (degree + 1)²) of directions (n, 3), in float64:
                their order and normalisation become ours.
            degree: the highest.
            like: a tensor of the wanted precision and device.
        """
        points = _random(64, 3).to(like.device)
        points.requires_grad_(True)
        self.degree = degree
        self._ascend: list[Tensor] = []
        n_lower = degree**2
        gradient = torch.zeros(3, n_lower, (degree + 1) ** 2, dtype=torch.float64)
        with torch.enable_grad():
            length = points.norm(dim=1, keepdim=True)
            surface = reference(points / length)
            solid = [surface[:, l * l : (l + 1) ** 2] * length**l for l in range(degree + 1)]
            for l in range(1, degree + 1):
                slopes = torch.stack(
                    [
                        torch.autograd.grad(one.sum(), points, retain_graph=True)[0]
                        for one in solid[l].unbind(1)
                    ],
                    dim=1,
                )  # (n, 2l+1, 3)
                lower = solid[l - 1].detach()
                fitted = torch.linalg.lstsq(lower, slopes.flatten(1)).solution
                _check(lower @ fitted, slopes.flatten(1), "spherical harmonics")
                constants = fitted.view(2 * l - 1, 2 * l + 1, 3).permute(2, 1, 0)
                self._ascend.append((constants.transpose(0, 1).flatten(1) / l).to(like))
                gradient[:, (l - 1) ** 2 : l * l, l * l : (l + 1) ** 2] = constants.transpose(1, 2)
        self._first = float(surface[0, 0])
        self._gradient = gradient.flatten(0, 1).to(like)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Solid harmonics ((degree + 1)², n) of vectors (3, n)."""
        n = vectors.shape[1]
        values = vectors.new_empty(((self.degree + 1) ** 2, n))
        values[0] = self._first
        for l, matrix in enumerate(self._ascend, start=1):
            lower = values[(l - 1) ** 2 : l * l]
            torch.mm(
                matrix,
                (vectors[:, None] * lower).view(-1, n),
                out=values[l * l : (l + 1) ** 2],
            )
        return values

    def pulled_back(self, values: Tensor, gradient: Tensor) -> Tensor:
        """Gradient (3, n) by the vectors, from that by the harmonics (n, (degree + 1)²)."""
        n_lower, n = self.degree**2, values.shape[1]
        inner = (self._gradient @ gradient.T).view(3, n_lower, n)
        return (inner * values[:n_lower]).sum(1)


class ScalarMace:
    """A MACE model with scalar node features: energies and their gradient by edge vectors."""

    def __init__(self, model: Any) -> None:
        """Read the weights off a model. Use `of`, unless you know that it is suitable.

        Args:
            model: a MACE model; neither changed nor kept, but for contractions of a correlation
                above 2.

        Raises:
            _Unsuitable: it is none of those that this module is for.
        """
        _check_parts(model)
        exact = copy.deepcopy(model).double()
        like = next(model.parameters())
        self._harmonics = SolidHarmonics(
            exact.spherical_harmonics, exact.spherical_harmonics._lmax, like
        )
        self._embedding = exact.node_embedding(_identity(len(exact.atomic_numbers), like)).to(like)
        self._layers = [
            _layer(interaction, product, own, exact, like)
            for interaction, product, own in zip(
                exact.interactions, exact.products, model.products, strict=True
            )
        ]
        self._radial = RadialTable(
            [_radial_function(exact, interaction) for interaction in exact.interactions],
            r_max=float(exact.r_max),
            like=like,
        )
        self._readouts = [_readout(readout, like) for readout in exact.readouts]
        scaling = getattr(exact, "scale_shift", None)
        self._scale, self._shift = 1.0, 0.0
        if scaling is not None:
            self._scale, self._shift = float(scaling.scale), float(scaling.shift)
        # Degree of each harmonic, and the row of A[n, (m, l)] that is kept of it.
        degrees = [l for l in range(self._harmonics.degree + 1) for _ in range(2 * l + 1)]
        n_degrees = self._harmonics.degree + 1
        self._blocks = torch.tensor(
            [m * n_degrees + l for m, l in enumerate(degrees)], device=like.device
        )

    @classmethod
    def of(cls, model: Any) -> "ScalarMace | None":
        """For a model as MACE loads it; None where only MACE's own forward will do."""
        try:
            # Optimising e3nn's compiled code would take longer than these few calls.
            with torch.no_grad(), torch.jit.optimized_execution(False):
                return cls(model)
        except _Unsuitable:
            return None

    def plan(self, kinds: Tensor) -> Plan:
        """Prepare for a batch's atoms.

        Args:
            kinds: each atom's element as index into the model's, (n_atoms,), ascending.
        """
        present, counts = torch.unique_consecutive(kinds, return_counts=True)
        ends = counts.cumsum(0).tolist()
        begins = [0, *ends[:-1]]
        return Plan(
            n_atoms=len(kinds),
            slices=[
                (kind, slice(begin, end))
                for kind, begin, end in zip(present.tolist(), begins, ends, strict=True)
            ],
            layers=[
                _Weights(layer.linear[kinds], layer.square[kinds].transpose(0, 1).contiguous())
                for layer in self._layers
            ],
            one_hot=torch.nn.functional.one_hot(kinds, len(self._embedding)).to(self._embedding),
        )

    @torch.no_grad()
    def __call__(self, plan: Plan, vectors: Tensor, sender: Tensor) -> tuple[Tensor, ...]:
        """Evaluate.

        Args:
            plan: of the atoms.
            vectors: from sender to receiver, (3, n_atoms · J), Å. J consecutive ones belong to
                each receiving atom. Those beyond the cutoff have no effect: they may fill up.
            sender: atom of each vector, (n_atoms · J,).

        Returns:
            Interaction energies of the atoms, (n_atoms,), eV; gradient of their sum by `vectors`,
            (3, n_atoms · J), eV/Å; features of all layers, (n_atoms, D).
        """
        n = plan.n_atoms
        length = (vectors * vectors).sum(0).sqrt_()  # vector_norm is 20 times slower along 0
        unit = vectors / length
        harmonics = self._harmonics(unit)
        by_atom = harmonics.view(len(harmonics), n, -1).transpose(0, 1)  # (n, M, J)
        radial = self._radial(length)

        # Forward. `tape` keeps of each layer what its gradient needs.
        features = torch.cat(
            [self._embedding[kind].expand(part.stop - part.start, -1) for kind, part in plan.slices]
        )
        tape, kept = [], []
        for layer, weights, (values, _) in zip(self._layers, plan.layers, radial, strict=True):
            sent = (features @ layer.up).index_select(0, sender)  # (n·J, L·C)
            message = (values * sent).view(n, -1, values.shape[1])
            summed = torch.bmm(by_atom, message)  # (n, M, L·C)
            width = layer.mix[0].shape[1]
            blocks = summed.view(n, -1, width).index_select(1, self._blocks)  # (n, M, C)
            mixed = _by_kind(blocks.transpose(0, 1), layer.mix, plan)  # (M, n, D)
            contracted, slope = _contracted(layer, weights, mixed, plan)
            skipped = None if layer.skip is None else _by_kind(features, layer.skip, plan)
            features = contracted @ layer.out
            if skipped is not None:
                features = features + skipped
            tape.append((sent, message, slope))
            kept.append(features)

        # Energies; then the way back, with the layers' own gradients joining it.
        readouts = [None] * (len(kept) - len(self._readouts)) + self._readouts
        read = [
            None if readout is None else readout(one)
            for readout, one in zip(readouts, kept, strict=True)
        ]
        energy = sum(one[0] for one in read if one is not None)
        along = torch.zeros_like(length)  # dE/d|r|
        around = None  # dE/dY, (n, J, M)
        gradient: Tensor | None = None  # by the features that a layer gave
        for index in range(len(kept) - 1, -1, -1):
            layer, (values, slopes) = self._layers[index], radial[index]
            sent, message, slope = tape[index]
            own = read[index]
            if own is not None:
                gradient = own[1] if gradient is None else gradient + own[1]
            assert gradient is not None  # noqa: S101  # the last layer has a readout
            d_mixed = slope(gradient @ layer.out.T)
            d_blocks = _by_kind(d_mixed, [m.transpose(1, 2) for m in layer.mix], plan)
            # Back into the blocks (m, l): all others are 0.
            d_summed = message.new_zeros(
                n, len(harmonics) * (self._harmonics.degree + 1), d_blocks.shape[2]
            )
            d_summed.index_copy_(1, self._blocks, d_blocks.transpose(0, 1))
            d_summed = d_summed.view(n, len(harmonics), -1)
            d_message = torch.bmm(by_atom.transpose(1, 2), d_summed).view_as(values)
            along += torch.linalg.vecdot(d_message * sent, slopes)
            if around is None:
                around = torch.bmm(message, d_summed.transpose(1, 2))
            else:
                around.baddbmm_(message, d_summed.transpose(1, 2))
            if index:
                d_sent = values.new_zeros(n, values.shape[1])
                d_sent.index_add_(0, sender, d_message.mul_(values))
                back = d_sent @ layer.up.T
                if layer.skip is not None:
                    back = back + _by_kind(gradient, [s.T for s in layer.skip], plan)
                gradient = back
        assert around is not None  # noqa: S101  # there is at least one layer
        turned = self._harmonics.pulled_back(harmonics, around.flatten(0, 1))
        outward = (turned * unit).sum(0)
        by_vector = (turned + unit * (along * length - outward)) / length
        return (
            energy * self._scale + self._shift,
            by_vector * self._scale,
            torch.cat(kept, dim=1),
        )


def _by_kind(rows: Tensor, matrices: list[Tensor], plan: Plan) -> Tensor:
    """Rows (n, C) or (M, n, C) times the matrix of each atom's element, (C, D) or (M, C, D)."""
    product = torch.mm if rows.dim() == 2 else torch.bmm
    if len(matrices) == 1:
        return product(rows, matrices[0])
    parts = [product(rows[..., part, :], matrices[kind]) for kind, part in plan.slices]
    return torch.cat(parts, dim=-2)


def _contracted(
    layer: _Layer, weights: _Weights, mixed: Tensor, plan: Plan
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The contraction (n, D) of `mixed` (M, n, D), and its pull-back of gradients."""
    if layer.contraction is None:
        scaled = mixed * weights.square
        value = (scaled * mixed).sum(0).addcmul_(weights.linear, mixed[0])

        def slope(gradient: Tensor) -> Tensor:
            by_mixed = scaled * (2 * gradient)
            by_mixed[0].addcmul_(weights.linear, gradient)
            return by_mixed

        return value, slope
    with torch.enable_grad():
        inner = mixed.permute(1, 2, 0).contiguous().requires_grad_(True)
        graph = layer.contraction(inner, plan.one_hot)

    def traced(gradient: Tensor) -> Tensor:
        return torch.autograd.grad(graph, inner, gradient)[0].permute(2, 0, 1)

    return graph.detach(), traced


# Reading a model


def _check_parts(model: Any) -> None:
    """Names of parts and blocks that this module does not know end the matter at once."""
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
        raise _Unsuitable


def _layer(interaction: Any, product: Any, own: Any, exact: Any, like: Tensor) -> _Layer:
    kinds = _identity(len(exact.atomic_numbers), like)
    up = interaction.linear_up(_identity(interaction.node_feats_irreps.dim, like))
    width = up.shape[1]
    degree = exact.spherical_harmonics._lmax
    scale = _convolution_scale(interaction, width, degree, like)
    resides = type(interaction).__name__ == "RealAgnosticResidualInteractionBlock"
    mix = [
        scale[:, None, None] * _mixing(interaction, kind, width, degree, resides=resides)
        for kind in (kinds[:1] if resides else kinds.split(1))
    ]
    linear, square, foreign = [], [], False
    contraction = _contraction(product)
    for kind in kinds:
        readings = _quadratic(contraction, kind, mix[0].shape[2], (degree + 1) ** 2)
        if readings is None:
            foreign = True
            readings = (torch.zeros(1).to(kind), torch.zeros(1, 1).to(kind))
        linear.append(readings[0])
        square.append(readings[1])
    features = _identity(interaction.node_feats_irreps.dim, like)
    skip = None
    if resides and product.use_sc:
        skip = [
            interaction.skip_tp(features, kind.expand(len(features), -1)).to(like) for kind in kinds
        ]
    return _Layer(
        up=up.repeat(1, degree + 1).to(like),
        mix=[matrix.to(like) for matrix in mix],
        linear=torch.stack(linear).to(like),
        square=torch.stack(square).to(like),
        contraction=_contraction(own) if foreign else None,
        out=product.linear(_identity(product.linear.irreps_in.dim, like)).to(like),
        skip=skip,
    )


def _convolution_scale(interaction: Any, width: int, degree: int, like: Tensor) -> Tensor:
    """Constants (M,) of the tensor product, which must be h · w · Y but for them."""
    n = (degree + 1) ** 2
    features, weights = _random(5, width).to(like.device), _random(6, width * (degree + 1))
    weights = weights[:5].to(like.device)
    harmonics = _random(7, n)[:5].to(like.device)
    if interaction.conv_tp.weight_numel != width * (degree + 1):
        raise _Unsuitable
    ones = torch.ones(n, width, dtype=torch.float64, device=like.device)
    product = interaction.conv_tp(ones, _identity(n, like), ones.repeat(1, degree + 1))
    scale = _unpacked(product, width, degree)[:, :, 0].diagonal().clone()
    by_hand = torch.cat(
        [
            features[:, None]
            * weights[:, None, l * width : (l + 1) * width]
            * (scale * harmonics)[:, l * l : (l + 1) ** 2, None]
            for l in range(degree + 1)
        ],
        dim=1,
    )  # (5, M, C)
    _check(_unpacked(interaction.conv_tp(features, harmonics, weights), width, degree), by_hand, "")
    return scale


def _unpacked(packed: Tensor, width: int, degree: int) -> Tensor:
    """From e3nn's layout, for each degree channels × harmonics, to (n, M, C)."""
    if packed.shape[1] != width * (degree + 1) ** 2:
        raise _Unsuitable
    parts = packed.split([width * (2 * l + 1) for l in range(degree + 1)], dim=1)
    return torch.cat([part.view(len(packed), width, -1).transpose(1, 2) for part in parts], dim=1)


def _mixing(interaction: Any, kind: Tensor, width: int, degree: int, *, resides: bool) -> Tensor:
    """What an interaction does to sums over neighbours, (M, C, D)."""

    def mixed(packed: Tensor) -> Tensor:
        message = interaction.linear(packed) / interaction.avg_num_neighbors
        if not resides:
            message = interaction.skip_tp(message, kind.expand(len(packed), -1))
        return interaction.reshape(message).transpose(1, 2)  # (n, M, D)

    size = width * (degree + 1) ** 2
    matrices, begin = [], 0
    for l in range(degree + 1):
        rows = torch.zeros(width, size, dtype=torch.float64, device=kind.device)
        rows[torch.arange(width), begin + (2 * l + 1) * torch.arange(width)] = 1
        matrices += [mixed(rows)[:, l * l]] * (2 * l + 1)
        begin += width * (2 * l + 1)
    matrix = torch.stack(matrices)
    probe = _random(3, size).to(kind.device)
    by_hand = torch.einsum("nmc,mcd->nmd", _unpacked(probe, width, degree), matrix)
    _check(mixed(probe), by_hand, "mixing")
    return matrix


def _contraction(product: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def contracted(mixed: Tensor, one_hot: Tensor) -> Tensor:
        if getattr(product, "use_agnostic_product", False):
            one_hot = torch.ones_like(one_hot[:, :1])
        result: Tensor = product.symmetric_contractions(mixed, one_hot)
        return result

    return contracted


def _quadratic(
    contraction: Callable[[Tensor, Tensor], Tensor], kind: Tensor, width: int, n: int
) -> tuple[Tensor, Tensor] | None:
    """Weights (D,) and (M, D) of a contraction with squares only; None: it has more."""
    units = torch.eye(n, dtype=torch.float64, device=kind.device)[:, None].repeat(1, width, 1)
    one_hot = kind.expand(n, -1)
    plus, minus = contraction(units, one_hot), contraction(-units, one_hot)
    linear, square = (plus - minus) / 2, (plus + minus) / 2
    probe = _random(4, width * n).view(4, width, n).to(kind.device)
    by_hand = linear[0] * probe[:, :, 0] + torch.einsum("ncm,mc->nc", probe**2, square)
    try:
        _check(contraction(probe, kind.expand(4, -1)), by_hand, "contraction")
    except _Unsuitable:
        return None
    return linear[0], square


def _readout(readout: Any, like: Tensor) -> _Readout:
    name = type(readout).__name__
    if name == "LinearReadoutBlock":
        return _Readout(
            readout.linear(_identity(readout.linear.irreps_in.dim, like)).to(like), None
        )
    if name != "NonLinearReadoutBlock":
        raise _Unsuitable
    first = readout.linear_1(_identity(readout.linear_1.irreps_in.dim, like))
    second = readout.linear_2(_identity(readout.linear_2.irreps_in.dim, like))[:, 0]
    probe = _random(8, first.shape[1]).to(like.device)
    silu = torch.nn.functional.silu(probe)
    activated = readout.non_linearity(probe)
    ratio = activated[0, 0] / silu[0, 0]
    _check(activated, ratio * silu, "activation")
    return _Readout(first.to(like), (ratio * second).to(like))


def _radial_function(exact: Any, interaction: Any) -> Callable[[Tensor], Tensor]:
    embedding = exact.radial_embedding

    def function(lengths: Tensor) -> Tensor:
        basis = embedding.bessel_fn(lengths) * embedding.cutoff_fn(lengths)
        result: Tensor = interaction.conv_tp_weights(basis)
        return result

    return function


def _check(found: Tensor, by_hand: Tensor, what: str) -> None:
    if found.shape != by_hand.shape or not torch.allclose(
        found, by_hand, rtol=0, atol=PROBE_TOLERANCE * (1 + float(found.abs().max()))
    ):
        raise _Unsuitable(what)


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=torch.float64, device=like.device)


def _random(rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator)
