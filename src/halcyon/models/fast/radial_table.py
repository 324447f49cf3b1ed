"""Smooth functions of one distance, tabulated: what a network of distances costs is paid once.

Between the points of an even grid stand the cubics that meet the function's own values and slopes
there (Hermite interpolation). The result is continuous with its first derivative, and the slopes
that are returned are exactly those of the values: forces made of them conserve energy.

    import torch
    from halcyon.models.fast.radial_table import RadialTable

    table = RadialTable(
        [[lambda r: torch.sin(r) * (4 - r) ** 3]], widths=[1], r_max=4.0, like=positions
    )
    [(values, slopes)] = table(torch.tensor([1.0, 1.5]).to(positions))

Where functions differ by the elements of a pair, each kind of pair has a table of its own.

Not for: functions that have no limit at short distances (see `repulsion`).
"""

from collections.abc import Callable, Sequence

import torch

RadialFunctions = Sequence[Sequence[Callable[[torch.Tensor], torch.Tensor]]]
INTERVALS = {torch.float32: 1024, torch.float64: 2048}
"""A function of chemistry's length scales is met to 2e-8 and to 1e-9 of its size."""


class RadialTable:
    """Functions of distance, each with several components, zero from `r_max` on."""

    def __init__(
        self,
        functions: RadialFunctions,
        *,
        widths: Sequence[int],
        r_max: float,
        like: torch.Tensor,
        intervals: int | None = None,
    ) -> None:
        """Tabulate.

        Args:
            functions: for each kind of pair. They are of distances (n, 1) Å, float64; each gives
                (n, components). They and their slopes must vanish at `r_max`.
            widths: of each function, how many components stay together in `cubics`.
            r_max: Å.
            like: a tensor of the precision and on the device that the table shall have.
            intervals: of the grid; None: as many as the precision can show.
        """
        self.intervals = INTERVALS[like.dtype] if intervals is None else intervals
        """Of each kind of pair."""
        self.per_A = self.intervals / r_max
        self.cubics = [
            torch.cat(
                [
                    _cubics(kind[index], r_max, self.intervals, like)
                    .view(self.intervals, 4, -1, width)
                    .transpose(1, 2)
                    for kind in functions
                ]
            ).contiguous()
            for index, width in enumerate(widths)
        ]
        """For each function (kinds · intervals, components / width, 4, width): see `_cubics`."""

    @property
    def bytes(self) -> int:
        """Its size."""
        return sum(cubics.nbytes for cubics in self.cubics)

    def places(
        self, lengths: torch.Tensor, kinds: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where in the table each distance is.

        Args:
            lengths: (n,), Å.
            kinds: of pairs, (n,); None: all of the first kind.

        Returns:
            The interval, which is -1 from `r_max` on, and the place in it, from 0 to 1.
        """
        place = lengths * self.per_A
        place = torch.where(place < self.intervals, place, -1.0)
        below = place.floor()
        interval = below.long()
        if kinds is not None:
            interval = torch.where(interval >= 0, interval + kinds * self.intervals, -1)
        return interval, place - below

    def __call__(
        self, lengths: torch.Tensor, kinds: torch.Tensor | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Values and slopes (per Å) of each function, (n, components), at `lengths` (n,), Å."""
        interval, place = self.places(lengths, kinds)
        return [
            (values.flatten(1), slopes.flatten(1))
            for values, slopes in (
                interpolated(cubics, interval, place, self.per_A) for cubics in self.cubics
            )
        ]


def interpolated(
    cubics: torch.Tensor, interval: torch.Tensor, place: torch.Tensor, per_A: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and slopes (per Å), (…, parts, width), at places (…,) of a table's cubics."""
    t = place[..., None, None]
    inside = (interval >= 0)[..., None, None]
    first, second, third, fourth = cubics[interval.clamp(min=0)].unbind(-2)
    values = first + t * (second + t * (third + t * fourth))
    slopes = per_A * (second + t * (2 * third + t * 3 * fourth))
    return values * inside, slopes * inside


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
    values, slopes = _with_slopes(function, grid)
    below, above = values[:-1], values[1:]
    rise, fall = step * slopes[:-1], step * slopes[1:]
    curve = 3 * (above - below) - 2 * rise - fall
    cubics = torch.stack((below, rise, curve, 2 * (below - above) + rise + fall), dim=1)
    return cubics.to(like)


def _with_slopes(
    function: Callable[[torch.Tensor], torch.Tensor], grid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values at the grid's points (n, 1) and their slopes, (n, components) each.

    The slopes are the derivative by v of vᵀ·values': backward twice, since `torch.func.jvp` would
    load PyTorch's compiler, which takes longer than all the rest of a table.
    """
    with torch.enable_grad():
        grid = grid.requires_grad_()
        values = function(grid)
        v = torch.zeros_like(values, requires_grad=True)
        (along,) = torch.autograd.grad(values, grid, v, create_graph=True)
        (slopes,) = torch.autograd.grad(along, v, torch.ones_like(along))
    return values.detach(), slopes
