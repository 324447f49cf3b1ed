"""Smooth functions of one distance, tabulated: what a network of distances costs is paid once.

Between the points of an even grid stand the cubics that meet the function's own values and slopes
there (Hermite interpolation). The result is continuous with its first derivative, and the slopes
that are returned are exactly those of the values: forces made of them conserve energy.

    import torch
    from halcyon.models.fast.radial_table import RadialTable

    table = RadialTable(
        [lambda r: torch.sin(r) * (4 - r) ** 3], widths=[1], r_max=4.0, like=positions
    )
    [(values, slopes)] = table(torch.tensor([1.0, 1.5]).to(positions))

Not for: functions that depend on more than a distance, such as radial functions that are scaled by
the two atoms' elements.
"""

from collections.abc import Callable, Sequence

import torch

INTERVALS = {torch.float32: 1024, torch.float64: 2048}
"""A function of chemistry's length scales is met to 2e-8 and to 1e-9 of its size."""


class RadialTable:
    """Functions of distance, each with several components, zero from `r_max` on."""

    def __init__(
        self,
        functions: Sequence[Callable[[torch.Tensor], torch.Tensor]],
        *,
        widths: Sequence[int],
        r_max: float,
        like: torch.Tensor,
        intervals: int | None = None,
    ) -> None:
        """Tabulate.

        Args:
            functions: of distances (n, 1) Å, float64; each gives (n, components). They and their
                slopes must vanish at `r_max`.
            widths: of each function, how many components stay together in `cubics`.
            r_max: Å.
            like: a tensor of the precision and on the device that the table shall have.
            intervals: of the grid; None: as many as the precision can show.
        """
        self._intervals = INTERVALS[like.dtype] if intervals is None else intervals
        self.per_A = self._intervals / r_max
        self.cubics = [
            _cubics(function, r_max, self._intervals, like)
            .view(self._intervals, 4, -1, width)
            .transpose(1, 2)
            .contiguous()
            for function, width in zip(functions, widths, strict=True)
        ]
        """For each function (intervals, components / width, 4, width): see `_cubics`."""

    def places(self, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Interval of each of `lengths` (n,), Å, and the place in it, from 0 to 1.

        The interval is -1 from `r_max` on.
        """
        place = lengths * self.per_A
        place = torch.where(place < self._intervals, place, -1.0)
        interval = place.floor()
        return interval.long(), place - interval

    def __call__(self, lengths: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Values and slopes (per Å) of each function, (n, components), at `lengths` (n,), Å."""
        interval, place = self.places(lengths)
        inside = (interval >= 0)[:, None]
        t = place[:, None]
        results = []
        for cubics in self.cubics:
            rows = cubics[interval.clamp(min=0)]  # (n, components / width, 4, width)
            first, second, third, fourth = (part.flatten(1) for part in rows.unbind(2))
            values = first + t * (second + t * (third + t * fourth))
            slopes = self.per_A * (second + t * (2 * third + t * 3 * fourth))
            results.append((values * inside, slopes * inside))
        return results


def _cubics(
    function: Callable[[torch.Tensor], torch.Tensor],
    r_max: float,
    intervals: int,
    like: torch.Tensor,
) -> torch.Tensor:
    """Coefficients of 1, t, t² and t³ in each interval, t from 0 to 1: (n, 4, components).

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
    return cubics.to(like)
