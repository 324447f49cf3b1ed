"""Real solid harmonics and their gradients, in the order and normalisation of a given set.

The gradient of a solid harmonic of degree l is a combination of those of degree l - 1; and being
homogeneous, it is its own gradient times r over l (Euler). So one set of constants c gives both:

    ∂_a S_lm = Σ_k c[a, m, k] S_(l-1)k        S_lm = Σ_a x_a ∂_a S_lm / l

Not for: spherical harmonics of vectors of any length. On unit vectors they are the same.

    from halcyon.models.fast.solid_harmonics import SolidHarmonics

    harmonics = SolidHarmonics(model.spherical_harmonics, 3, like=vectors)
    harmonics(vectors)  # shape (16, n)
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

POINTS = 64  # to find the constants from
TOLERANCE = 1e-9
DECIMALS = 11  # of the constants


class SolidHarmonics:
    """Solid harmonics up to a degree: values, and how gradients come back through them."""

    def __init__(self, reference: Callable[[Tensor], Tensor], degree: int, *, like: Tensor) -> None:
        """Find the constants of a set of harmonics.

        Args:
            reference: spherical harmonics (n, (degree + 1)²) of directions (n, 3), in float64:
                their order and normalisation are taken over.
            degree: the highest.
            like: a tensor of the precision and on the device of the results.

        Raises:
            ValueError: these are not spherical harmonics.
        """
        self.degree = degree
        self._ascend: list[Tensor] = []
        generator = torch.Generator().manual_seed(POINTS)
        points = torch.randn(POINTS, 3, dtype=torch.float64, generator=generator).to(like.device)
        gradient = points.new_zeros(3, degree**2, (degree + 1) ** 2)
        with torch.enable_grad():
            points.requires_grad_(True)
            length = points.norm(dim=1, keepdim=True)
            surface = reference(points / length)
            lower = surface[:, :1].detach()
            for order in range(1, degree + 1):
                part, below = slice(order**2, (order + 1) ** 2), slice((order - 1) ** 2, order**2)
                solid = surface[:, part] * length**order
                slopes = torch.stack(
                    [
                        torch.autograd.grad(harmonic.sum(), points, retain_graph=True)[0]
                        for harmonic in solid.unbind(1)
                    ],
                    dim=1,
                )  # (POINTS, 2 l + 1, 3)
                fitted = torch.linalg.lstsq(lower, slopes.flatten(1)).solution
                if (lower @ fitted - slopes.flatten(1)).abs().max() > TOLERANCE:
                    raise ValueError(f"not spherical harmonics of degree {order}")
                # Rounded, because LAPACK's last bits change from call to call with the place in
                # memory, and results must not.
                fitted = fitted.round(decimals=DECIMALS)
                constants = fitted.view(2 * order - 1, 2 * order + 1, 3).permute(2, 1, 0)
                self._ascend.append((constants.transpose(0, 1).flatten(1) / order).to(like))
                gradient[:, below, part] = constants.transpose(1, 2)
                lower = solid.detach()
        self._lowest = float(surface[0, 0].detach())
        self._gradient = gradient.flatten(0, 1).to(like)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Solid harmonics ((degree + 1)², n) of vectors (3, n)."""
        n = vectors.shape[1]
        values = vectors.new_empty(((self.degree + 1) ** 2, n))
        values[0] = self._lowest
        for order, matrix in enumerate(self._ascend, start=1):
            lower = values[(order - 1) ** 2 : order**2]
            products = (vectors[:, None] * lower).view(-1, n)
            torch.mm(matrix, products, out=values[order**2 : (order + 1) ** 2])
        return values

    def terms(self) -> tuple[float, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the harmonics are made of, for loops.

        Returns:
            The harmonic of degree 0. Terms (T, 3) with harmonic, axis and lower harmonic, and
            their factors (T,): a harmonic is the sum of factor · axis · lower one. Terms (S, 3)
            with axis, lower harmonic and harmonic, and factors (S,): the gradient along an axis
            is the sum of factor · lower one · gradient by the harmonic.
        """
        up, up_factors = [], []
        for order, matrix in enumerate(self._ascend, start=1):
            lower = 2 * order - 1
            for row, column in torch.nonzero(matrix).tolist():
                at = (order**2 + row, column // lower, (order - 1) ** 2 + column % lower)
                up.append(at)
                up_factors.append(float(matrix[row, column]))
        n_lower = self.degree**2
        down = [
            (row // n_lower, row % n_lower, harmonic)
            for row, harmonic in torch.nonzero(self._gradient).tolist()
        ]
        down_factors = [
            float(self._gradient[axis * n_lower + lower, harmonic])
            for axis, lower, harmonic in down
        ]
        dtype = self._gradient.cpu().numpy().dtype
        return (
            self._lowest,
            np.array(up, np.int64).reshape(-1, 3),
            np.array(up_factors, dtype),
            np.array(down, np.int64).reshape(-1, 3),
            np.array(down_factors, dtype),
        )

    def pulled_back(self, values: Tensor, gradient: Tensor) -> Tensor:
        """Gradient (3, n) by the vectors, from that by the harmonics, (n, (degree + 1)²)."""
        n_lower, n = self.degree**2, values.shape[1]
        inner = (self._gradient @ gradient.T).view(3, n_lower, n)
        return (inner * values[:n_lower]).sum(1)
