"""Distances of given pairs of atoms in a batch of replicas, to the nearest image where periodic.

    import numpy as np
    from halcyon.domain.pairs import Pairs

    pairs = Pairs(starts, [np.array([[0, 0], [1, 2]])] * len(starts), device)
    pairs.squared(positions)  # Å²; of the pairs 0-1 and 0-2 in each replica

Not for: finding neighbours (see `contacts`).
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

NO_CELL_A = 1e9
"""Edge of the cell that stands for none: no atom is ever nearer to an image, Å."""


class Pairs:
    """Pairs of atoms, prepared once for a batch.

    Attributes:
        first: index in the batch of each pair's first atom, shape (P,).
        second: of its second atom, shape (P,).
        replica: which replica each pair belongs to, that of its first atom, shape (P,).
        replica_of_atom: which replica each atom of the batch belongs to, shape (N,).
    """

    def __init__(
        self, starts: Sequence[Atoms], pairs: Sequence[np.ndarray], device: torch.device
    ) -> None:
        """Prepare indices and cells.

        Args:
            starts: a frame of each replica, in the batch's order; cells stay as they are there.
            pairs: per replica, indices within it, shape (2, P of it).
            device: where positions will be.
        """
        offsets = np.cumsum([0, *(len(atoms) for atoms in starts)])[: len(starts)]
        none = np.empty((2, 0), dtype=np.int64)
        moved = [indices + offset for indices, offset in zip(pairs, offsets, strict=True)]
        flat = np.concatenate([none, *moved], axis=1).astype(np.int64)
        owner = np.repeat(np.arange(len(starts)), [indices.shape[1] for indices in pairs])
        self.first, self.second = torch.as_tensor(flat, device=device)
        self.replica = torch.as_tensor(owner, device=device)
        self.periodic = any(atoms.pbc.any() for atoms in starts)
        of_atom = np.repeat(np.arange(len(starts)), [len(atoms) for atoms in starts])
        self.replica_of_atom = torch.as_tensor(of_atom, device=device)
        if self.periodic:
            cells = np.stack(
                [atoms.cell.array if atoms.pbc.any() else NO_CELL_A * np.eye(3) for atoms in starts]
            )
            if (cells == cells[0]).all():
                self._cell = torch.as_tensor(cells[0], device=device)
                self._inverse = torch.as_tensor(np.linalg.inv(cells[0]), device=device)
            else:
                self._cell = torch.as_tensor(cells, device=device)
                self._inverse = torch.as_tensor(np.linalg.inv(cells)[of_atom], device=device)

    def among(self, first: torch.Tensor, second: torch.Tensor) -> "Pairs":
        """Other pairs of the same batch.

        Args:
            first: index in the batch of each pair's first atom, shape (P,), int64.
            second: of its second atom; it may belong to another replica.
        """
        other = copy.copy(self)
        other.first, other.second = first, second
        other.replica = self.replica_of_atom.index_select(0, first)
        return other

    def squared(self, positions: torch.Tensor, cells: torch.Tensor | None = None) -> torch.Tensor:
        """Squared distances.

        Args:
            positions: shape (N, 3), Å, float64.
            cells: where they are no longer those of the start, all periodic: shape (R, 3, 3), Å,
                cell vectors in columns, as torch-sim has them.

        Returns:
            Shape (P,), Å²; not finite where a position is not.
        """
        vectors = self.vectors(positions, cells)
        return (vectors * vectors).sum(dim=1)

    def vectors(self, positions: torch.Tensor, cells: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors from the second atoms to the first ones.

        Args:
            positions: shape (N, 3), Å, float64.
            cells: as for `squared`.

        Returns:
            Shape (P, 3), Å; not finite where a position is not.
        """
        if self.periodic:
            cell, inverse = self._cells(cells)
            positions = _times(positions, inverse)
        vectors = positions.index_select(0, self.first) - positions.index_select(0, self.second)
        if self.periodic:
            vectors = _times(vectors - vectors.round(), cell)
        return vectors

    def _cells(self, cells: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Cells of pairs and inverse cells of atoms, or one of each for all."""
        if cells is None:
            if self._cell.dim() == 2:
                return self._cell, self._inverse
            return self._cell.index_select(0, self.replica), self._inverse
        rows = cells.double().mT
        inverse = torch.linalg.inv_ex(rows)[0]  # without asking the device whether it went well
        return rows.index_select(0, self.replica), inverse.index_select(0, self.replica_of_atom)


def _times(vectors: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Row vectors times one matrix, or each times its own."""
    if matrices.dim() == 2:
        return vectors @ matrices
    return torch.bmm(vectors.unsqueeze(1), matrices).squeeze(1)
