"""MACE's symmetric contraction for training: the sparse polynomial, differentiable twice.

Training on forces takes the gradient of a gradient. Through MACE's own contraction that is most of
the time of a step, at sizes that people publish with. `compiled_contractions` puts the polynomial
in its place; weights stay where they are in the model.

    from halcyon.models.fast.contraction import compiled_contractions

    with compiled_contractions(model):
        result = model(batch, training=True)
    result["forces"].sum().backward()

Not for: devices other than a CPU, or third derivatives. Gradients by weights are given where the
graph is not kept (`create_graph=False`), as in a training's last step backwards.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from halcyon.models.fast import kernels, layers, polynomial
from halcyon.models.fast.compiled import arrays, in_parts, n_parts
from halcyon.models.fast.polynomial import Polynomial


@contextmanager
def compiled_contractions(model: Any) -> Iterator[None]:
    """While the block runs, products of a MACE model contract by compiled loops where they can.

    Args:
        model: on any device; on others than a CPU nothing changes.
    """
    with ExitStack() as stack:
        for product in model.products:
            block = product.symmetric_contractions
            contraction = _contraction(block)
            if contraction is not None:
                block.forward = contraction
                stack.callback(block.__dict__.pop, "forward")
        yield


_READ: "WeakKeyDictionary[Any, Polynomial | None]" = WeakKeyDictionary()
"""Polynomials of blocks that were read: coupling coefficients do not change in training."""


def polynomial_of(block: Any) -> Polynomial | None:
    """A contraction as the compiled loops take it; None where they cannot.

    Args:
        block: MACE's symmetric contraction, which is read once.
    """
    weights = next(block.parameters(), None)
    if weights is None or weights.device.type != "cpu" or not hasattr(block, "contractions"):
        return None
    if block not in _READ:
        _READ[block] = _read(block)
    return _READ[block]


def _contracted_by(terms: Polynomial, block: Any, variables: Tensor, element: Tensor) -> Tensor:
    """The contraction's components (n, K, C), differentiable twice.

    Args:
        terms: as `polynomial_of` returns them.
        block: whose weights are taken.
        variables: (n, M, C), contiguous.
        element: of each atom, (n,).
    """
    by_path = terms.by_path.to(variables)
    coefficients = polynomial.coefficients(by_path, polynomial.path_weights(block))
    values: Tensor = _Contract.apply(variables, coefficients, element, terms)
    return values


def _contraction(block: Any) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The block's forward by compiled loops; None where it cannot be had."""
    terms = polynomial_of(block)
    if terms is None:
        return None

    def contracted(mixed: Tensor, one_hot: Tensor) -> Tensor:
        variables = mixed.transpose(1, 2).contiguous()
        values = _contracted_by(terms, block, variables, one_hot.argmax(1))
        packed = [
            values[:, order**2 : (order + 1) ** 2].transpose(1, 2).flatten(1)
            for order in range(math.isqrt(terms.n_components))
        ]
        return torch.cat(packed, dim=1)

    return contracted


def _read(block: Any) -> Polynomial | None:
    """A block's polynomial, checked."""
    exact = copy.deepcopy(block).double()
    try:
        inner, outer = layers.natural(block.irreps_in), layers.natural(block.irreps_out)
        n_elements = len(block.contractions[0].weights_max)
        elements = torch.eye(n_elements, dtype=torch.float64)
        with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return layers.contraction(exact, inner, outer, elements)
    except layers.UnsuitableError:
        return None


class _Contract(torch.autograd.Function):
    """Components (n, K, C) of variables (n, M, C) and coefficients (elements, T, C)."""

    @staticmethod
    def forward(
        ctx: Any, mixed: Tensor, coefficients: Tensor, element: Tensor, terms: Polynomial
    ) -> Tensor:
        ctx.save_for_backward(mixed, coefficients, element)
        ctx.terms = replace(terms, coefficients=coefficients.detach())
        values = mixed.new_empty(len(mixed), terms.n_components, mixed.shape[2])
        inputs = (mixed.detach(), element)
        in_parts(kernels.contract, len(mixed), inputs, arrays(ctx.terms), (values,))
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        mixed, coefficients, element = ctx.saved_tensors
        (by_values,) = gradients
        by_values = by_values.contiguous()
        others = (element, ctx.terms)
        by_mixed = _ContractBack.apply(mixed, coefficients, by_values, others)
        # The graph is kept while forces are computed: nothing else is wanted of that pass.
        if torch.is_grad_enabled() or not ctx.needs_input_grad[1]:
            return by_mixed, None, None, None
        by_coefficients = _zeros(coefficients, len(mixed))
        in_parts(
            kernels.pull_weights,
            len(mixed),
            (mixed, element),
            arrays(ctx.terms),
            (by_values, by_coefficients),
        )
        return by_mixed, by_coefficients.sum(0), None, None


class _ContractBack(torch.autograd.Function):
    """The gradient by variables, from that by components."""

    @staticmethod
    def forward(
        ctx: Any,
        mixed: Tensor,
        coefficients: Tensor,
        by_values: Tensor,
        element_and_terms: tuple[Tensor, Polynomial],
    ) -> Tensor:
        element, terms = element_and_terms
        ctx.save_for_backward(mixed, coefficients, by_values, element)
        ctx.terms = terms
        result = torch.empty_like(mixed)
        in_parts(
            kernels.contract_back,
            len(mixed),
            (mixed.detach(), element),
            arrays(terms),
            (by_values.detach(), result),
        )
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        mixed, coefficients, by_values, element = ctx.saved_tensors
        direction = gradients[0].contiguous()
        by_mixed, by_gradient = torch.empty_like(mixed), torch.empty_like(by_values)
        by_coefficients = _zeros(coefficients, len(mixed))
        in_parts(
            kernels.contract_twice,
            len(mixed),
            (mixed.detach(), element, by_values.detach(), direction.detach()),
            arrays(ctx.terms),
            (by_mixed, by_gradient, by_coefficients),
        )
        return by_mixed, by_coefficients.sum(0), by_gradient, None


def _zeros(coefficients: Tensor, n_atoms: int) -> Tensor:
    return torch.zeros((n_parts(n_atoms), *coefficients.shape), dtype=coefficients.dtype)
