"""The steps of a layer by compiled loops (`kernels`): on a CPU.

As many threads work as PyTorch is set to use. Gradients that neighbours' features get are summed
for each thread by itself first: with other numbers of threads, results differ in the last bit.

    from halcyon.models.fast.compiled import Compiled

    values, slope = Compiled().contract(layer, mixed, element)

Not for: tensors on other devices (see `tensor_steps`).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from halcyon.models.fast import kernels
from halcyon.models.fast.batch import EdgeGradient, Edges
from halcyon.models.fast.layers import Layer
from halcyon.models.fast.polynomial import Polynomial


class Compiled:
    """The steps of a layer that take its time, on a CPU."""

    def sum_messages(self, layer: Layer, cubics: Tensor, edges: Edges, sent: Tensor) -> Tensor:
        """Sums over neighbours, (n, rows, C), of what each atom sends, (n, K, C)."""
        convolution = layer.convolution
        summed = sent.new_empty(len(sent), len(convolution.rows), sent.shape[2])
        in_parts(
            kernels.sum_messages,
            len(sent),
            (edges.sender, edges.interval, edges.place),
            (cubics, edges.harmonics, sent),
            convolution.arrays,
            (summed,),
        )
        return summed

    def pull_back(
        self,
        layer: Layer,
        cubics: Tensor,
        edges: Edges,
        sent: Tensor,
        *,
        by_sum: Tensor,
        gradient: EdgeGradient,
        collects: bool,
    ) -> Tensor | None:
        """The way back through `sum_messages`: adds to `gradient`."""
        by_sent = sent.new_zeros(n_parts(len(sent)) if collects else 0, *sent.shape)
        in_parts(
            kernels.pull_back,
            len(sent),
            (edges.sender, edges.interval, edges.place, sent.new_tensor(edges.per_A)),
            (cubics, edges.harmonics, sent),
            layer.convolution.arrays,
            (by_sum, gradient.along, gradient.around, by_sent),
        )
        if not collects:
            return None
        return by_sent[0] if len(by_sent) == 1 else by_sent.sum(0)

    def contract(
        self, layer: Layer, mixed: Tensor, element: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The polynomial (n, K, D) of (n, M, D), and its gradient where K is 1."""
        polynomial = layer.polynomial
        values = mixed.new_empty(len(mixed), polynomial.n_components, mixed.shape[2])
        slope = torch.empty_like(mixed) if polynomial.n_components == 1 else None
        results = (values,) if slope is None else (values, slope)
        kernel = kernels.contract if slope is None else kernels.contract_with_slope
        in_parts(kernel, len(mixed), (mixed, element), arrays(polynomial), results)
        return values, slope

    def contract_back(
        self, layer: Layer, mixed: Tensor, element: Tensor, by_values: Tensor
    ) -> Tensor:
        """From the gradient by `contract`'s values to that by `mixed`."""
        result = torch.empty_like(mixed)
        in_parts(
            kernels.contract_back,
            len(mixed),
            (mixed, element),
            arrays(layer.polynomial),
            (by_values, result),
        )
        return result


def arrays(polynomial: Polynomial) -> tuple[Any, ...]:
    """What kernels take of a polynomial."""
    return polynomial.pairs, polynomial.terms, polynomial.coefficients.numpy()


def in_parts(kernel: Callable[..., None], n_atoms: int, *groups: tuple[Any, ...]) -> None:
    """Call a kernel for ranges of atoms, each on its own thread, with the groups' tensors."""
    arguments = [
        tuple(array.numpy() if isinstance(array, Tensor) else array for array in group)
        for group in groups
    ]
    parts = n_parts(n_atoms)
    if parts == 1:
        kernel(0, n_atoms, 0, *arguments)
        return
    bounds = [n_atoms * part // parts for part in range(parts + 1)]
    jobs = [
        pool(parts).submit(kernel, bounds[part], bounds[part + 1], part, *arguments)
        for part in range(parts)
    ]
    for job in jobs:
        job.result()


def n_parts(n_atoms: int) -> int:
    """So many parts `in_parts` makes of atoms."""
    return max(1, min(torch.get_num_threads(), n_atoms))


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """So many threads, for compiled loops: they run without Python's lock."""
    return ThreadPoolExecutor(threads, thread_name_prefix="mace")
