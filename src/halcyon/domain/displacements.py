"""How far the atoms of a crystal are from their sites, for a batch of replicas.

    import torch
    from ase.build import bulk
    from halcyon.domain.displacements import Displacements
    from halcyon.systems.lattice import lattice_sites

    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    salt.info["structure"] = "salt"
    sites = {"salt": lattice_sites(salt, kind="solid")}
    displacements = Displacements([salt, salt], sites, torch.device("cpu"))
    displacements.vectors(torch.zeros(16, 3)).shape  # Å; torch.Size([16, 3])

A crystal may drift as a whole: its mean displacement is taken off, unless atoms of it are fixed.
Displacements are to the nearest image, in the cell as it is now.

Not for: finding sites (see `systems.lattice`), or whether a crystal has melted (see
`exploration.melting`, `verdict.melting`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms


@dataclass(frozen=True)
class LatticeSites:
    """The sites of a crystal's N atoms, from its start structure.

    Attributes:
        numbers: atomic numbers, shape (N,).
        scaled: sites in units of the cell vectors, shape (N, 3).
        unit: number of the unit that each atom belongs to, shape (N,): an atom, or a molecule of a
            molecular crystal; −1: what lies on a slab, which has no site.
        masses: in which the atoms of a unit count for its centre, u, shape (N,).
        nearest_A: distance of nearest units, mean over units, Å.
        volume_A3: of the cell, Å³.
        held: whether atoms are fixed, so that the crystal cannot drift.
    """

    numbers: np.ndarray
    scaled: np.ndarray
    unit: np.ndarray
    masses: np.ndarray
    nearest_A: float
    volume_A3: float
    held: bool

    def suit(self, atoms: Atoms) -> bool:
        """Whether a frame has these atoms in this order, in a periodic cell."""
        return bool(atoms.pbc.all()) and np.array_equal(atoms.numbers, self.numbers)


class Displacements:
    """The A atoms of a batch that have sites.

    Attributes:
        atoms: their indices in the batch, shape (A,).
        frame: number of the frame of each, shape (A,).
    """

    def __init__(
        self, starts: Sequence[Atoms], sites: Mapping[str, LatticeSites], device: torch.device
    ) -> None:
        """Collect the sites of a batch.

        Args:
            starts: frames in the batch's order, with `info["structure"]`; their cells hold where
                none are given later.
            sites: by the name of their structure; a frame of other atoms has none.
            device: where positions will be.
        """
        atoms, frames, scaled, moves, begin = [], [], [], [], 0
        for number, start in enumerate(starts):
            own = sites.get(start.info["structure"])
            if own is not None and own.suit(start):
                chosen = np.flatnonzero(own.unit >= 0)
                atoms.append(chosen + begin)
                frames.append(np.full(len(chosen), number))
                scaled.append(own.scaled[chosen])
                moves.append(np.full(len(chosen), not own.held))
            begin += len(start)
        self.atoms = _joined(atoms, np.int64, device)
        self.frame = _joined(frames, np.int64, device)
        self._moves = _joined(moves, np.float64, device).unsqueeze(1)
        self._scaled = _joined(scaled, np.float64, device).reshape(-1, 3)
        self._n_frames = len(starts)
        count = torch.bincount(self.frame, minlength=self._n_frames)
        self._atoms_of_frame = count.clamp(min=1).unsqueeze(1)
        cells = [s.cell.array if s.pbc.all() else np.eye(3) for s in starts]
        self._cells = torch.as_tensor(np.stack(cells), dtype=torch.float64, device=device)

    def __len__(self) -> int:
        """Number of atoms with sites."""
        return len(self.atoms)

    def vectors(self, positions: torch.Tensor, cells: torch.Tensor | None = None) -> torch.Tensor:
        """Displacements from the sites.

        Args:
            positions: of all atoms of the batch, shape (N, 3), Å, float64.
            cells: where they are no longer those of the start: shape (F, 3, 3), Å, cell vectors in
                columns.

        Returns:
            Shape (A, 3), Å; not finite where a position is not.
        """
        rows = self._cells if cells is None else cells.double().mT
        inverse = torch.linalg.inv_ex(rows)[0].index_select(0, self.frame)
        here = positions.double().index_select(0, self.atoms)
        away = torch.bmm(here.unsqueeze(1), inverse).squeeze(1) - self._scaled
        # The drift comes first as a mean angle, which has no need of images, then exactly.
        turn = 2 * torch.pi * away
        angle = torch.atan2(self._mean(turn.sin()), self._mean(turn.cos())) / (2 * torch.pi)
        away = away - self._moves * angle.index_select(0, self.frame)
        away = away - away.round()
        away = away - self._moves * self._mean(away).index_select(0, self.frame)
        return torch.bmm(away.unsqueeze(1), rows.index_select(0, self.frame)).squeeze(1)

    def _mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the atoms of each frame, shape (F, 3)."""
        sums = values.new_zeros((self._n_frames, 3)).index_add_(0, self.frame, values)
        return sums / self._atoms_of_frame


def _joined(parts: list[np.ndarray], dtype: type[np.generic], device: torch.device) -> torch.Tensor:
    flat = np.concatenate(parts) if parts else np.empty(0)
    return torch.as_tensor(flat.astype(dtype), device=device)
