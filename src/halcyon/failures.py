"""When a replica has failed, by kind of system, checked at every step on the device.

Criteria after X. Fu et al., "Forces are not Enough" (TMLR 2023): a bond of a molecule further than
0.5 Å from its training mean; in liquids molecules closer than 1.2 Å; anywhere values that are not
finite or atoms on top of each other.

Not for: criteria that need more than one frame (radial distributions, energy drift).
"""

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

CLOSEST_MOLECULES_A = 1.2


class FailureMonitor:
    """Checks a batch of replicas."""

    def __init__(
        self,
        starts: Sequence[Atoms],
        bonds: dict[str, list[tuple[int, int, float]]],
        *,
        kind: str,
        bond_stretch_A: float,
        min_distance_A: float,
        device: torch.device,
    ) -> None:
        """Lay out bonds and pairs of the batch.

        Args:
            starts: a frame of each replica, in the batch's order, with `info["structure"]`.
            bonds: per structure, (i, j, mean length in Å).
            kind: `molecule`: bonds must hold. `liquid`: and molecules must not collide.
                `reactive`: neither.
            bond_stretch_A: largest deviation of a bond from its mean, Å.
            min_distance_A: least distance of any two atoms, Å.
            device: where the checks run.
        """
        pairs, least, bonded, lengths, owner_pair, owner_bond = [], [], [], [], [], []
        first = 0
        for number, atoms in enumerate(starts):
            mine = bonds.get(atoms.info["structure"], [])
            i, j = np.triu_indices(len(atoms), k=1)
            limit = np.full(len(i), min_distance_A)
            if kind == "liquid":
                molecule = _molecules(len(atoms), mine)
                limit[molecule[i] != molecule[j]] = CLOSEST_MOLECULES_A
            pairs.append(np.stack([i, j]) + first)
            least.append(limit)
            owner_pair.append(np.full(len(i), number))
            if kind != "reactive" and mine:
                bonded.append(np.array([[a, b] for a, b, _ in mine]).T + first)
                lengths.append(np.array([length for _, _, length in mine]))
                owner_bond.append(np.full(len(mine), number))
            first += len(atoms)
        self.n_replicas = len(starts)
        self.sizes = torch.tensor([len(atoms) for atoms in starts], device=device)
        self.owner = torch.repeat_interleave(
            torch.arange(self.n_replicas, device=device), self.sizes
        )
        self.periodic = bool(starts[0].pbc.all())
        cells = np.stack([atoms.cell.array for atoms in starts])
        self.cells = torch.as_tensor(cells, device=device)
        self.pairs = torch.as_tensor(np.concatenate(pairs, axis=1), device=device)
        self.least = torch.as_tensor(np.concatenate(least), device=device)
        self.owner_pair = torch.as_tensor(np.concatenate(owner_pair), device=device)
        none = np.empty((2, 0), dtype=np.int64)
        self.bonded = torch.as_tensor(
            np.concatenate([none, *bonded], axis=1), dtype=torch.int64, device=device
        )
        self.lengths = torch.as_tensor(np.concatenate([np.empty(0), *lengths]), device=device)
        self.owner_bond = torch.as_tensor(
            np.concatenate([np.empty(0, dtype=np.int64), *owner_bond]),
            dtype=torch.int64,
            device=device,
        )
        self.bond_stretch_A = bond_stretch_A

    def check(
        self, positions: torch.Tensor, energy: torch.Tensor, forces: torch.Tensor
    ) -> dict[int, str]:
        """Which replicas have failed at this step, and why.

        Args:
            positions: shape (N, 3), Å.
            energy: shape (R,), eV.
            forces: shape (N, 3), eV/Å.

        Returns:
            Index in the batch → reason; empty most of the time.
        """
        positions = positions.double()
        finite = torch.isfinite(positions).all(dim=1) & torch.isfinite(forces).all(dim=1)
        bad_atom = self._any(~finite, self.owner) | ~torch.isfinite(energy)
        close = self._distances(positions, self.pairs, self.owner_pair) < self.least
        bad_pair = self._any(close, self.owner_pair)
        length = self._distances(positions, self.bonded, self.owner_bond)
        stretched = (length - self.lengths).abs() > self.bond_stretch_A
        bad_bond = self._any(stretched, self.owner_bond)
        if not bool((bad_atom | bad_pair | bad_bond).any()):
            return {}
        reasons = {}
        for number in range(self.n_replicas):
            if bad_atom[number]:
                reasons[number] = "values not finite"
            elif bad_bond[number]:
                reasons[number] = "bond broken"
            elif bad_pair[number]:
                reasons[number] = "atoms overlap"
        return reasons

    def _distances(
        self, positions: torch.Tensor, pairs: torch.Tensor, owner: torch.Tensor
    ) -> torch.Tensor:
        vectors = positions[pairs[0]] - positions[pairs[1]]
        if self.periodic:
            cells = self.cells[owner]
            fractional = torch.linalg.solve(cells.transpose(1, 2), vectors)
            fractional = fractional - torch.round(fractional)
            vectors = torch.einsum("ni,nij->nj", fractional, cells)
        return vectors.norm(dim=1)

    def _any(self, flags: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        hits = torch.zeros(self.n_replicas, dtype=torch.int64, device=flags.device)
        return hits.index_add_(0, owner, flags.long()) > 0


def _molecules(n_atoms: int, bonds: Sequence[tuple[int, int, float]]) -> np.ndarray:
    """Number of the molecule each atom belongs to, shape (N,)."""
    i = [bond[0] for bond in bonds]
    j = [bond[1] for bond in bonds]
    graph = coo_matrix((np.ones(len(bonds)), (i, j)), shape=(n_atoms, n_atoms))
    return np.asarray(connected_components(graph, directed=False)[1])
