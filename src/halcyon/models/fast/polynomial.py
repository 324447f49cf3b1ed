"""MACE's symmetric contraction as a sparse polynomial of an atom's sums over neighbours.

MACE contracts up to three factors of A (n, M, C) with coupling coefficients U and weights w:

    B_o = Σ_η w_η Σ_ijk U_ηoijk A_i A_j A_k  + the same with two factors, and with one

(I. Batatia et al., NeurIPS 2022, eq. 10 and 11; each channel for itself). Most coefficients are 0,
and permutations of i, j, k give the same product. For harmonics up to degree 3 and an invariant B,
194 products remain of 4,096. Those with two factors or one get the number 1 as the others: variable
M. Products are in the order of their first two variables, so that each pair is multiplied once.

    from halcyon.models.fast.polynomial import read

    polynomial = read(product.symmetric_contractions)

Not for: correlations above 3.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_CORRELATION = 3
NEGLIGIBLE = 1e-6
"""Of coupling coefficients, which are of the order of 1 where they are not 0: models that were
saved in float32 have them rounded."""


@dataclass(frozen=True)
class Polynomial:
    """Components K, terms T, pairs P, channels C; variables count from 0, and the last is 1."""

    pairs: np.ndarray
    """(P, 3): two variables, and one past the last of the pair's terms."""
    terms: np.ndarray
    """(T, 2): the third variable, and the component."""
    by_path: Tensor
    """(T, paths): how the model's weights make coefficients."""
    coefficients: Tensor
    """(n_elements, T, C)."""
    n_components: int

    def values(self, mixed: Tensor, element: Tensor, coefficients: Tensor) -> Tensor:
        """Components (n, K, C) of variables (n, M, C), in plain tensor operations.

        Args:
            mixed: the variables.
            element: of each row, (n,).
            coefficients: (n_elements, T, C).
        """
        factors = torch.cat([mixed, torch.ones_like(mixed[:, :1])], dim=1)
        first, second, third, component = self._indices(mixed)
        products = factors[:, first] * factors[:, second] * factors[:, third]
        values = mixed.new_zeros(len(mixed), self.n_components, mixed.shape[2])
        return values.index_add(1, component, products * coefficients[element])

    def gradient(self, mixed: Tensor, element: Tensor, by_values: Tensor) -> Tensor:
        """Gradient (n, M, C) by the variables, from that by components (n, K, C)."""
        factors = torch.cat([mixed, torch.ones_like(mixed[:, :1])], dim=1)
        first, second, third, component = self._indices(mixed)
        weights = self.coefficients[element] * by_values[:, component]
        result = torch.zeros_like(factors)
        for variable, other, last in (
            (first, second, third),
            (second, third, first),
            (third, first, second),
        ):
            result.index_add_(1, variable, weights * factors[:, other] * factors[:, last])
        return result[:, :-1]

    def _indices(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each term: its three variables, and its component."""
        counts = np.diff(self.pairs[:, 2], prepend=0)
        first, second = (np.repeat(self.pairs[:, column], counts) for column in (0, 1))
        third, component = self.terms.T
        return tuple(
            torch.from_numpy(column.copy()).to(like.device)
            for column in (first, second, third, component)
        )  # type: ignore[return-value]


def read(contractions: Any) -> Polynomial | None:
    """Read MACE's `SymmetricContraction`; None where a correlation is above 3.

    Args:
        contractions: the block, in float64.
    """
    blocks = contractions.contractions
    if any(block.correlation > MAX_CORRELATION for block in blocks):
        return None
    entries: dict[tuple[int, int, int, int], dict[int, np.ndarray]] = defaultdict(dict)
    n_components, n_paths = 0, 0
    for block in blocks:
        couplings = np.empty(0)
        for order in range(block.correlation, 0, -1):
            couplings = block.U_tensors(order).detach().cpu().numpy()
            couplings = couplings.reshape(-1, *couplings.shape[-order - 1 :])
            for (i, j, k, component), values in _products(couplings, order):
                at = i, j, k, n_components + component
                entries[at][n_paths] = entries[at].get(n_paths, 0) + values
            n_paths += couplings.shape[-1]
        n_components += len(couplings)
    keys = sorted(entries)
    by_path = np.zeros((len(keys), n_paths))
    for row, key in zip(by_path, keys, strict=True):
        for first, values in entries[key].items():
            row[first : first + len(values)] = values
    pairs, end = [], 0
    for (i, j), group in itertools.groupby(keys, key=lambda key: key[:2]):
        end += len([*group])
        pairs.append((i, j, end))
    weights = path_weights(contractions)
    paths = torch.from_numpy(by_path).to(weights)
    return Polynomial(
        pairs=np.array(pairs, dtype=np.int64).reshape(-1, 3),
        terms=np.array([key[2:] for key in keys], dtype=np.int64).reshape(-1, 2),
        by_path=paths,
        coefficients=coefficients(paths, weights).detach(),
        n_components=n_components,
    )


def path_weights(contractions: Any) -> Tensor:
    """MACE's weights w_η, (n_elements, paths, C), in the order that `by_path` has them."""
    blocks = contractions.contractions
    return torch.cat([w for block in blocks for w in (block.weights_max, *block.weights)], dim=1)


def coefficients(by_path: Tensor, weights: Tensor) -> Tensor:
    """Coefficients (n_elements, T, C) of weights (n_elements, paths, C)."""
    return torch.einsum("tp,epc->etc", by_path, weights)


def _products(
    couplings: np.ndarray, order: int
) -> Iterator[tuple[tuple[int, int, int, int], np.ndarray]]:
    """Products of `order` factors with their coefficients: three variables, and the component."""
    n_variables = couplings.shape[-2]
    for index in zip(*np.nonzero(np.abs(couplings).max(-1) > NEGLIGIBLE), strict=True):
        component, *factors = (int(i) for i in index)
        ordered = sorted(factors) + [n_variables] * (MAX_CORRELATION - order)
        yield (ordered[0], ordered[1], ordered[2], component), couplings[index]
