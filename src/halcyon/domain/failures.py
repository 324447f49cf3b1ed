"""When a replica has failed, by kind of system, checked at every step on the device.

The criteria follow X. Fu et al., "Forces are not Enough" (TMLR 2023). A replica has failed if

1. a position, a force or the energy is not finite;
2. a bond differs from its training mean by more than 0.5 Å (not in a reactive system);
3. two atoms are closer than a least distance, or, in a liquid, two atoms of different molecules
   are closer than 1.2 Å.

    from halcyon.domain.failures import FailureMonitor

    monitor = FailureMonitor(starts, domain.bonds, kind="molecule", bond_stretch_A=0.5,
                             min_distance_A=0.5, device=device)
    monitor.check(positions, output["energy"], output["forces"])  # {}

Not for: criteria that need more than one frame (radial distributions, energy drift).
"""

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from halcyon.domain.pairs import Pairs

CLOSEST_MOLECULES_A = 1.2
ROUNDING = 1e-9
"""Larger than the relative rounding error of a squared distance."""


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
        """Collect the bonds and pairs of a batch.

        Args:
            starts: a frame of each replica, in the batch's order, with `info["structure"]`.
            bonds: per structure, (i, j, mean length in Å).
            kind: of the system. `molecule`: bonds must hold. `liquid`: bonds must hold, and
                molecules must not collide. `reactive`: neither is asked for.
            bond_stretch_A: largest deviation of a bond from its mean, Å.
            min_distance_A: least distance of any two atoms, Å.
            device: where the checks run.
        """
        all_pairs, least, bonded, mean_lengths = [], [], [], []
        by_structure: dict[tuple[str, int], tuple[np.ndarray, ...]] = {}
        begin = 0
        for atoms in starts:
            name = atoms.info["structure"]
            if (name, len(atoms)) not in by_structure:
                checked = bonds.get(name, []) if kind != "reactive" else []
                by_structure[name, len(atoms)] = _pairs(len(atoms), checked, kind, min_distance_A)
            pairs, limit, bond, length = by_structure[name, len(atoms)]
            all_pairs.append(pairs)
            least.append(limit)
            bonded.append(bond + begin)
            mean_lengths.append(length)
            begin += len(limit)
        self.n_replicas = len(starts)
        sizes = torch.tensor([len(atoms) for atoms in starts], device=device)
        self.owner = torch.repeat_interleave(torch.arange(self.n_replicas, device=device), sizes)
        self.pairs = Pairs(starts, all_pairs, device)
        self.least = torch.as_tensor(np.concatenate(least), device=device)
        self.bonded = torch.as_tensor(np.concatenate(bonded), device=device)
        self.lengths = torch.as_tensor(np.concatenate(mean_lengths), device=device)
        self.bond_stretch_A = bond_stretch_A
        # `room` tests a squared distance x by one polynomial: in a bond (x - low)(high - x) > 0,
        # elsewhere x - low > 0. It is a little too strict, so that rounding hides no failure.
        low, high = self.least * self.least.abs() * (1 + ROUNDING), torch.ones_like(self.least)
        nearest = torch.clamp(self.lengths - bond_stretch_A, min=0)
        low[self.bonded] = torch.maximum(low[self.bonded], nearest**2 * (1 + ROUNDING))
        high[self.bonded] = (self.lengths + bond_stretch_A) ** 2 * (1 - ROUNDING)
        bent = torch.zeros_like(low)
        bent[self.bonded] = 1.0
        self._square, self._linear, self._constant = -bent, bent * low + high, -low * high

    def room(
        self,
        positions: torch.Tensor,
        energy: torch.Tensor,
        forces: torch.Tensor,
        cells: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """How far the batch is from any failure, cheaply and without waiting for the device.

        Args:
            positions: shape (N, 3), Å.
            energy: shape (R,), eV.
            forces: shape (N, 3), eV/Å.
            cells: as `pairs.Pairs.squared` takes them, where they change.

        Returns:
            One number, shape (), float64. Where it is over 0, `check` would find no failure. It is
            NaN where something is not finite.
        """
        x = self.pairs.squared(positions.double(), cells)
        room = self._constant.addcmul(x, self._linear.addcmul(x, self._square)).amin()
        return room.add(forces.sum() + energy.sum(), alpha=0)

    def check(
        self,
        positions: torch.Tensor,
        energy: torch.Tensor,
        forces: torch.Tensor,
        cells: torch.Tensor | None = None,
    ) -> dict[int, str]:
        """Which replicas have failed at this step, and why.

        Args:
            positions: shape (N, 3), Å.
            energy: shape (R,), eV.
            forces: shape (N, 3), eV/Å.
            cells: as `pairs.Pairs.squared` takes them, where they change.

        Returns:
            Index in the batch → reason; empty most of the time.
        """
        finite = torch.isfinite(positions).all(dim=1) & torch.isfinite(forces).all(dim=1)
        bad_atom = self._any(~finite, self.owner) | ~torch.isfinite(energy)
        distance = self.pairs.squared(positions.double(), cells).sqrt()
        bad_pair = self._any(distance < self.least, self.pairs.replica)
        stretched = (distance[self.bonded] - self.lengths).abs() > self.bond_stretch_A
        bad_bond = self._any(stretched, self.pairs.replica[self.bonded])
        reasons = {}
        for number, (atom, bond, pair) in enumerate(
            torch.stack([bad_atom, bad_bond, bad_pair], dim=1).tolist()
        ):
            if atom:
                reasons[number] = "values not finite"
            elif bond:
                reasons[number] = "bond broken"
            elif pair:
                reasons[number] = "atoms overlap"
        return reasons

    def _any(self, flags: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        hits = torch.zeros(self.n_replicas, dtype=torch.int64, device=flags.device)
        return hits.index_add_(0, owner, flags.long()) > 0


def _pairs(
    n_atoms: int, bonds: Sequence[tuple[int, int, float]], kind: str, min_distance_A: float
) -> tuple[np.ndarray, ...]:
    """Pairs of a structure's atoms, and what is asked of them.

    Returns:
        Pairs (2, P); least distance of each (P,), Å; which pairs are bonds (B,); mean length of
        each bond (B,), Å.
    """
    i, j = np.triu_indices(n_atoms, k=1)
    limit = np.full(len(i), min_distance_A)
    if n_atoms == 1:  # paired with itself, so that every position is looked at
        i, j, limit = np.zeros(1, dtype=int), np.zeros(1, dtype=int), np.full(1, -1.0)
    if kind == "liquid":
        molecule = _molecules(n_atoms, bonds)
        limit[molecule[i] != molecule[j]] = CLOSEST_MOLECULES_A
    number_of = np.zeros((n_atoms, n_atoms), dtype=np.int64)
    number_of[i, j] = number_of[j, i] = np.arange(len(i))
    bond = np.array([number_of[a, b] for a, b, _ in bonds], dtype=np.int64)
    return np.stack([i, j]), limit, bond, np.array([length for _, _, length in bonds])


def _molecules(n_atoms: int, bonds: Sequence[tuple[int, int, float]]) -> np.ndarray:
    """Number of the molecule each atom belongs to, shape (N,)."""
    i = [bond[0] for bond in bonds]
    j = [bond[1] for bond in bonds]
    graph = coo_matrix((np.ones(len(bonds)), (i, j)), shape=(n_atoms, n_atoms))
    return np.asarray(connected_components(graph, directed=False)[1])
