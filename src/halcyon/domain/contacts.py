"""Pairs of atoms that are, or may come, closer than a limit, found without a look at all pairs.

In a liquid of N atoms only some N pairs are near each other, of N²/2 in all.

    import numpy as np
    from halcyon.domain.contacts import Limits, near

    limits = Limits(molecule=np.arange(len(atoms)), within_A=0.5, between_A=1.2)
    near(atoms.positions, None, limits)  # shape (2, 0): no two atoms are closer than 1.2 Å
    near(atoms.positions, None, limits, reach=np.full(len(atoms), 0.4))  # or, moving by 0.4 Å each

`Contacts` does it for all steps of a block at once: it searches at the middle one, with the way
that each atom goes within the block as reach. Pairs may be too many, never too few: who asks looks
at their distances.

Not for: distances of pairs that are known (see `pairs`), or what a short distance means (see
`failures`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from vesin import NeighborList

from halcyon.domain.pairs import Pairs

SLACK_A = 1e-4
"""More than distances are wrong by rounding."""
LOST = 1e6
"""Cells, or Å where there is none, beyond which an atom is lost, and a neighbour list in danger."""
FARTHEST_A = 3.0
"""Atoms that move farther within a block have too many pairs that may come near each other."""
SMALLEST_SHRINKAGE = 0.5


@dataclass(frozen=True)
class Limits:
    """Least distances of a structure's atoms.

    Attributes:
        molecule: number of the molecule of each atom, shape (N,).
        within_A: least distance of two atoms of one molecule, Å.
        between_A: of two atoms of different molecules, Å.
    """

    molecule: np.ndarray
    within_A: float
    between_A: float

    def of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Least distance of each pair, shape (P,), Å."""
        same = self.molecule[first] == self.molecule[second]
        return np.where(same, self.within_A, self.between_A)


def near(
    positions: np.ndarray,
    cell: np.ndarray | None,
    limits: Limits,
    *,
    reach: np.ndarray | None = None,
    shrinks_to: float = 1.0,
) -> np.ndarray:
    """Pairs of a structure's atoms whose nearest images may be closer than their limits.

    Args:
        positions: shape (N, 3), Å, finite.
        cell: vectors in rows, Å; None: not periodic.
        limits: of its pairs.
        reach: how far each atom may move, shape (N,), Å. None: it does not.
        shrinks_to: the least quotient by which a change of the cell may shorten a distance, over 0.

    Returns:
        Shape (2, P), first < second.
    """
    if reach is None:
        reach = np.zeros(len(positions))
    longest = max(limits.within_A, limits.between_A) + 2 * reach.max(initial=0.0)
    cutoff = longest / shrinks_to + SLACK_A
    if _out_of_order(positions, cell, cutoff):
        return np.stack(np.triu_indices(len(positions), k=1))
    search = NeighborList(cutoff=cutoff, full_list=False)
    box = np.zeros((3, 3)) if cell is None else cell
    pairs, distances = search.compute(positions, box, cell is not None, "Pd")
    first, second = np.sort(pairs.astype(np.int64), axis=1).T
    closest = (limits.of(first, second) + reach[first] + reach[second]) / shrinks_to + SLACK_A
    possible = (distances < closest) & (first != second)
    return np.stack([first[possible], second[possible]])


def _out_of_order(positions: np.ndarray, cell: np.ndarray | None, cutoff: float) -> bool:
    """Whether a neighbour list is no help: atoms are lost, or the cell is thinner than the cutoff.

    In a thin cell an atom is near many images of one other, of which the nearest counts.
    """
    if cell is None:
        return not np.abs(positions).max(initial=0.0) < LOST
    if not np.isfinite(cell).all() or np.linalg.det(cell) == 0:
        return True
    inverse = np.linalg.inv(cell)
    heights = 1 / np.linalg.norm(inverse, axis=0)
    lost = np.abs(positions @ inverse).max(initial=0.0) >= LOST
    return bool(lost or not heights.min() >= cutoff)


class Contacts:
    """Finds near pairs in K consecutive steps of R replicas: K·R frames of K·N atoms."""

    def __init__(
        self, starts: Sequence[Atoms], limits: Sequence[Limits], frames: Pairs, *, n_steps: int
    ) -> None:
        """Prepare for a batch.

        Args:
            starts: a frame of each replica, in the batch's order.
            limits: of each.
            frames: any pairs of the K·R frames.
            n_steps: K.
        """
        self._limits, self._frames, self._steps = limits, frames, n_steps
        self._sizes = [len(atoms) for atoms in starts]
        self._cells = [atoms.cell.array if atoms.pbc.any() else None for atoms in starts]

    def during(
        self, positions: torch.Tensor, cells: torch.Tensor | None
    ) -> tuple[Pairs, torch.Tensor] | None:
        """Pairs that may be nearer than their least distance at some step, at all steps.

        With w a pair's vector to its nearest image at the middle step, d how far each of its atoms
        is from there at another, and σ how much the cell may shorten a vector, the pair is nowhere
        closer than σ |w| - d_i - d_j.

        Args:
            positions: shape (K·N, 3), Å, float64.
            cells: as `pairs.Pairs.squared` takes them, where they change.

        Returns:
            Pairs, and their least distances, shape (P,), Å; None where atoms or cells move so far
            that each step must be looked at, or are not finite.
        """
        steps, n, middle = self._steps, sum(self._sizes), self._steps // 2
        atoms = torch.arange(steps * n, device=positions.device)
        then = atoms[middle * n :][:n].repeat(steps)
        squared = self._frames.among(atoms, then).squared(positions, cells)
        reach = squared.view(steps, n).amax(dim=0).sqrt().cpu().numpy()
        shrinkage = self._shrinkage(cells)
        if not (reach.max() <= FARTHEST_A and shrinkage.min() >= SMALLEST_SHRINKAGE):  # NaN, too
            return None
        pairs, least = self._near(middle, positions, cells, reach, shrinkage)
        later = n * (np.arange(steps) - middle)
        first, second = (pairs[:, None, :] + later[:, None]).reshape(2, -1)
        return self._prepared(first, second, np.tile(least, steps))

    def at_each(
        self, positions: torch.Tensor, cells: torch.Tensor | None
    ) -> Iterator[tuple[Pairs, torch.Tensor]]:
        """Pairs nearer than their least distance, or nearly so, step by step.

        Args:
            positions: as for `during`; frames with values that are not finite have no pairs.
            cells: as for `during`.
        """
        still = np.zeros(sum(self._sizes)), np.ones(len(self._sizes))
        for step in range(self._steps):
            (first, second), least = self._near(step, positions, cells, *still)
            yield self._prepared(first, second, least)

    def _near(
        self,
        step: int,
        positions: torch.Tensor,
        cells: torch.Tensor | None,
        reach: np.ndarray,
        shrinkage: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Near pairs of a step (2, P), as indices in the batch, and their least distances (P,)."""
        number, begin = len(self._sizes), step * sum(self._sizes)
        own = positions[begin:][: sum(self._sizes)].cpu().numpy()
        rows = self._cells
        if cells is not None:
            rows = list(cells[step * number :][:number].double().mT.cpu().numpy())
        together, least, place = [np.empty((2, 0), dtype=np.int64)], [np.empty(0)], 0
        for size, row, limits, shrinks_to in zip(
            self._sizes, rows, self._limits, shrinkage, strict=True
        ):
            part = slice(place, place + size)
            if np.isfinite(own[part]).all():
                pairs = near(own[part], row, limits, reach=reach[part], shrinks_to=shrinks_to)
                together.append(pairs + begin + place)
                least.append(limits.of(*pairs))
            place += size
        return np.concatenate(together, axis=1), np.concatenate(least)

    def _shrinkage(self, cells: torch.Tensor | None) -> np.ndarray:
        """The least quotient by which each replica's cell has changed a vector, shape (R,)."""
        if cells is None:
            return np.ones(len(self._sizes))
        by_step = cells.double().view(self._steps, -1, 3, 3)
        change = by_step @ torch.linalg.inv_ex(by_step[self._steps // 2])[0]
        change = change - torch.eye(3, dtype=change.dtype, device=change.device)
        # A lower bound of the singular values: 1 - |M - 1|.
        return (1 - change.flatten(2).norm(dim=2).amax(dim=0)).cpu().numpy()

    def _prepared(
        self, first: np.ndarray, second: np.ndarray, least: np.ndarray
    ) -> tuple[Pairs, torch.Tensor]:
        device = self._frames.first.device
        pairs = self._frames.among(
            torch.as_tensor(first, device=device), torch.as_tensor(second, device=device)
        )
        return pairs, torch.as_tensor(least, device=device)
