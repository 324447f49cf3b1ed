"""Smooth functions of one distance, tabulated: what a network of distances costs is paid once.

Between the points of an even grid stand the cubics that meet the function's own values and slopes
there (Hermite interpolation). The result is continuous with its first derivative, and the slopes
that are returned are exactly those of the values: forces made of them conserve energy.

    import torch
    from halcyon.models.scalar.radial_table import RadialTable

    table = RadialTable([lambda r: torch.sin(r) * (4 - r) ** 3], r_max=4.0, like=positions)
    [(values, slopes)] = table(torch.tensor([1.0, 1.5]).to(positions))

Not for: functions that depend on more than a distance, such as radial functions that are scaled by
the two atoms' elements.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import embedding_bag

INTERVALS = 2048  # a function of chemistry's length scales is met to 1e-9 of its size


class RadialTable:
    """Functions of distance, each with several components, zero from `r_max` on."""

    def __init__(
        self,
        functions: Sequence[Callable[[torch.Tensor], torch.Tensor]],
        *,
        r_max: float,
        like: torch.Tensor,
        intervals: int = INTERVALS,
    ) -> None:
        """Tabulate.

        Args:
            functions: of distances (n, 1) Å, float64; each gives (n, components). They and their
                slopes must vanish at `r_max`.
            r_max: Å.
            like: a tensor of the precision and on the device that the table shall have.
            intervals: of the grid.
        """
        self._intervals = intervals
        self._per_A = intervals / r_max
        self._rows = [_cubics(function, r_max, intervals, like) for function in functions]
        self._four = torch.arange(4, device=like.device)

    def __call__(self, lengths: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Values and slopes (per Å) of each function, (n, components), at `lengths` (n,), Å."""
        place = (lengths * self._per_A).clamp_(max=self._intervals)
        interval = place.long()
        rows = (4 * interval)[:, None] + self._four
        slope_rows = rows[:, 1:].contiguous()
        t = place.sub_(interval)
        square, ones = t * t, torch.ones_like(t)
        powers = torch.stack((ones, t, square, square * t), dim=1)
        slope_powers = torch.stack(
            (ones * self._per_A, t * (2 * self._per_A), square * (3 * self._per_A)), dim=1
        )
        return [
            (
                embedding_bag(rows, cubics, mode="sum", per_sample_weights=powers),
                embedding_bag(slope_rows, cubics, mode="sum", per_sample_weights=slope_powers),
            )
            for cubics in self._rows
        ]


def _cubics(
    function: Callable[[torch.Tensor], torch.Tensor],
    r_max: float,
    intervals: int,
    like: torch.Tensor,
) -> torch.Tensor:
    """Coefficients of 1, t, t² and t³ in each interval, t from 0 to 1: (4 · n, components).

    As weights of values and slopes at the grid's points they would need half the memory, but
    slopes would be small differences of large numbers: bad in float32.
    """
    step = r_max / intervals
    grid = torch.arange(intervals + 1, dtype=torch.float64, device=like.device)[:, None] * step
    grid[0] = 1e-3 * step  # Bessel functions divide by the distance
    values, slopes = torch.func.jvp(function, (grid,), (torch.ones_like(grid),))
    below, above = values[:-1], values[1:]
    rise, fall = step * slopes[:-1], step * slopes[1:]
    curve = 3 * (above - below) - 2 * rise - fall
    cubics = torch.stack((below, rise, curve, 2 * (below - above) + rise + fall), dim=1)
    # From `r_max` on, everything lies at the begin of one more interval, where all is 0.
    return torch.cat((cubics, torch.zeros_like(cubics[:1]))).flatten(0, 1).to(like)
