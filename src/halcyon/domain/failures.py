"""When a replica has failed, by kind of system, checked at every step on the device.

The criteria follow X. Fu et al., "Forces are not Enough" (TMLR 2023). A replica has failed if

1. a position, a force or the energy is not finite;
2. a bond differs from its training mean by more than 0.5 Å (in a molecule or a liquid);
3. two atoms are closer than a least distance, or, in a liquid, two atoms of different molecules
   are closer than 1.2 Å;
4. where a distance is given, an atom of a crystal is further than that from its site.

    from halcyon.domain.failures import FailureMonitor

    monitor = FailureMonitor(starts, domain.bonds, kind="molecule", bond_stretch_A=0.5,
                             min_distance_A=0.5, device=device)
    monitor.check(positions, output["energy"], output["forces"])  # {}

In small systems all pairs of atoms are looked at. In larger ones bonds are, and those pairs that
come near each other within the steps that are checked together (see `contacts`): the same failures
are found, at a cost in proportion to the number of atoms.

Not for: criteria that need more than one frame (radial distributions, energy drift).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from ase import Atoms
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from halcyon.config.system import BONDS_HOLD
from halcyon.domain.contacts import Contacts, Limits
from halcyon.domain.displacements import Displacements, LatticeSites
from halcyon.domain.pairs import Pairs

CLOSEST_MOLECULES_A = 1.2
ROUNDING = 1e-9
"""Larger than the relative rounding error of a squared distance."""
ALL_PAIRS_MAX_ATOMS = 24
"""Up to here all pairs are cheaper than a search for near ones."""

Bonds = Sequence[tuple[int, int, float]]
"""(i, j, mean length in Å)."""


class FailureMonitor:
    """Checks a batch of replicas, at one step or at several at once."""

    def __init__(
        self,
        starts: Sequence[Atoms],
        bonds: dict[str, list[tuple[int, int, float]]],
        *,
        kind: str,
        bond_stretch_A: float,
        min_distance_A: float,
        device: torch.device,
        n_steps: int = 1,
        site_distance_A: float | None = None,
        sites: Mapping[str, LatticeSites] | None = None,
    ) -> None:
        """Collect the bonds and pairs of a batch.

        Args:
            starts: a frame of each replica, in the batch's order, with `info["structure"]`.
            bonds: per structure, (i, j, mean length in Å).
            kind: of the system. `molecule`: bonds must hold. `liquid`: bonds must hold, and
                molecules must not collide. `reactive`, `solid`, `slab`: neither is asked for.
            bond_stretch_A: largest deviation of a bond from its mean, Å.
            min_distance_A: least distance of any two atoms, Å.
            device: where the checks run.
            n_steps: consecutive steps that are checked at once, K. The N atoms of R replicas are
                then K·N atoms of K·R frames, those of the first step before those of the second.
            site_distance_A: largest distance of an atom from its site, Å; None: any.
            sites: of crystals, by the name of their structure.
        """
        self.n_frames = n_steps * len(starts)
        searches = max(map(len, starts)) > ALL_PAIRS_MAX_ATOMS
        between_A = CLOSEST_MOLECULES_A if kind == "liquid" else min_distance_A
        of_structure: dict[tuple[str, int], tuple[Limits, _Prepared]] = {}
        for atoms in starts:
            key = atoms.info["structure"], len(atoms)
            if key not in of_structure:
                own = bonds.get(key[0], []) if kind in BONDS_HOLD else []
                limits = Limits(_molecules(key[1], own), min_distance_A, between_A)
                prepared = _bonds_alone(own) if searches else _all_pairs(own, limits)
                of_structure[key] = limits, prepared
        limits_of, prepared_of = zip(
            *(of_structure[atoms.info["structure"], len(atoms)] for atoms in starts), strict=True
        )
        self._frames = Pairs(
            list(starts) * n_steps, [pairs for pairs, *_ in prepared_of] * n_steps, device
        )
        least, bonded, lengths, begin = [], [], [], 0
        for pairs, limit, bond, length in prepared_of * n_steps:
            least.append(limit)
            bonded.append(bond + begin)
            lengths.append(length)
            begin += pairs.shape[1]
        self._fixed = _Criteria(
            self._frames,
            torch.as_tensor(np.concatenate(least), device=device),
            torch.as_tensor(np.concatenate(bonded), device=device),
            torch.as_tensor(np.concatenate(lengths), device=device),
            bond_stretch_A,
        )
        self._contacts = None
        if searches:
            self._contacts = Contacts(starts, limits_of, self._frames, n_steps=n_steps)
        self._site_distance_A = site_distance_A
        with_sites = sites if sites and site_distance_A is not None else {}
        self._displacements = Displacements(list(starts) * n_steps, with_sites, device)

    def room(
        self,
        positions: torch.Tensor,
        energy: torch.Tensor,
        forces: torch.Tensor,
        cells: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """How far the batch is from any failure, cheaply.

        It does not wait for the device, except where near pairs are searched for.

        Args:
            positions: of the atoms of F frames, shape (N, 3), Å.
            energy: shape (F,), eV.
            forces: shape (N, 3), eV/Å.
            cells: as `pairs.Pairs.squared` takes them, where they change.

        Returns:
            One number, shape (), float64. Where it is over 0, `check` would find no failure. It is
            NaN where something is not finite.
        """
        positions = positions.double()
        room = self._fixed.room(positions, cells)
        if self._contacts is not None:
            near = self._contacts.during(positions, cells)
            between = (
                room.new_zeros(()) if near is None else _Criteria(*near).room(positions, cells)
            )
            room = torch.minimum(room, between)
        if self._site_distance_A is not None and len(self._displacements):
            room = torch.minimum(room, self._room_at_sites(positions, cells).amin())
        return room.add(positions.sum() + forces.sum() + energy.sum(), alpha=0)

    def check(
        self,
        positions: torch.Tensor,
        energy: torch.Tensor,
        forces: torch.Tensor,
        cells: torch.Tensor | None = None,
    ) -> dict[int, str]:
        """Which replicas have failed, when several steps are checked at which, and why.

        Args:
            positions: of the atoms of F frames, shape (N, 3), Å.
            energy: shape (F,), eV.
            forces: shape (N, 3), eV/Å.
            cells: as `pairs.Pairs.squared` takes them, where they change.

        Returns:
            Number of the frame → reason; empty most of the time.
        """
        finite = torch.isfinite(positions).all(dim=1) & torch.isfinite(forces).all(dim=1)
        bad_atom = self._any(~finite, self._frames.replica_of_atom) | ~torch.isfinite(energy)
        positions = positions.double()
        stretched, close = self._fixed.broken(positions, cells)
        bad_bond = self._any(stretched, self._frames.replica[self._fixed.bonded])
        bad_pair = self._any(close, self._frames.replica)
        if self._contacts is not None:
            for near in self._contacts.at_each(positions, cells):
                _, close = _Criteria(*near).broken(positions, cells)
                bad_pair |= self._any(close, near[0].replica)
        bad_site = torch.zeros_like(bad_pair)
        if self._site_distance_A is not None and len(self._displacements):
            far = self._room_at_sites(positions, cells) < 0
            bad_site = self._any(far, self._displacements.frame)
        reasons = {}
        for number, (atom, bond, pair, site) in enumerate(
            torch.stack([bad_atom, bad_bond, bad_pair, bad_site], dim=1).tolist()
        ):
            if atom:
                reasons[number] = "values not finite"
            elif bond:
                reasons[number] = "bond broken"
            elif pair:
                reasons[number] = "atoms overlap"
            elif site:
                reasons[number] = f"an atom over {self._site_distance_A:g} Å from its site"
        return reasons

    def _room_at_sites(self, positions: torch.Tensor, cells: torch.Tensor | None) -> torch.Tensor:
        """Under 0 where an atom is too far from its site, shape (A,), Å²."""
        vectors = self._displacements.vectors(positions, cells)
        return (self._site_distance_A or 0.0) ** 2 - (vectors * vectors).sum(dim=1)

    def _any(self, flags: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        hits = torch.zeros(self.n_frames, dtype=torch.int64, device=flags.device)
        return hits.index_add_(0, owner, flags.long()) > 0


class _Criteria:
    """Pairs, and what is asked of them.

    Attributes:
        pairs: P of them.
        least: least distance of each, shape (P,), Å.
        bonded: which pairs are bonds, shape (B,).
        lengths: mean length of each bond, shape (B,), Å.
        bond_stretch_A: largest deviation from it, Å.
    """

    def __init__(
        self,
        pairs: Pairs,
        least: torch.Tensor,
        bonded: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        bond_stretch_A: float = 0.0,
    ) -> None:
        """Take pairs; none is a bond unless it is said."""
        self.pairs, self.least, self.bond_stretch_A = pairs, least, bond_stretch_A
        self.bonded = pairs.first[:0] if bonded is None else bonded
        self.lengths = least[:0] if lengths is None else lengths
        # `room` tests a squared distance x by one polynomial: in a bond (x - low)(high - x) > 0,
        # elsewhere x - low > 0. It is a little too strict, so that rounding hides no failure.
        low, high = least * least.abs() * (1 + ROUNDING), torch.ones_like(least)
        nearest = torch.clamp(self.lengths - bond_stretch_A, min=0)
        low[self.bonded] = torch.maximum(low[self.bonded], nearest**2 * (1 + ROUNDING))
        high[self.bonded] = (self.lengths + bond_stretch_A) ** 2 * (1 - ROUNDING)
        bent = torch.zeros_like(low)
        bent[self.bonded] = 1.0
        self._square, self._linear, self._constant = -bent, bent * low + high, -low * high

    def room(self, positions: torch.Tensor, cells: torch.Tensor | None) -> torch.Tensor:
        """Over 0 where all is as it is asked; infinite without pairs."""
        if not len(self.least):
            return positions.new_full((), torch.inf)
        x = self.pairs.squared(positions, cells)
        return self._constant.addcmul(x, self._linear.addcmul(x, self._square)).amin()

    def broken(
        self, positions: torch.Tensor, cells: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Which bonds are too long or too short, shape (B,), and which pairs too close (P,)."""
        distance = self.pairs.squared(positions, cells).sqrt()
        stretched = (distance[self.bonded] - self.lengths).abs() > self.bond_stretch_A
        return stretched, distance < self.least


_Prepared = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of a structure: pairs (2, P); least distance of each (P,), Å; which pairs are bonds (B,); mean
length of each bond (B,), Å."""


def _all_pairs(bonds: Bonds, limits: Limits) -> _Prepared:
    n_atoms = len(limits.molecule)
    i, j = np.triu_indices(n_atoms, k=1)
    number_of = np.zeros((n_atoms, n_atoms), dtype=np.int64)
    number_of[i, j] = number_of[j, i] = np.arange(len(i))
    bond = np.array([number_of[a, b] for a, b, _ in bonds], dtype=np.int64)
    lengths = np.array([length for _, _, length in bonds])
    return np.stack([i, j]), limits.of(i, j), bond, lengths


def _bonds_alone(bonds: Bonds) -> _Prepared:
    """Bonds without a least distance: that of all near pairs is looked at."""
    ends = np.array([(i, j) for i, j, _ in bonds], dtype=np.int64).reshape(-1, 2).T
    lengths = np.array([length for _, _, length in bonds])
    return ends, np.full(len(bonds), -1.0), np.arange(len(bonds)), lengths


def _molecules(n_atoms: int, bonds: Sequence[tuple[int, int, float]]) -> np.ndarray:
    """Number of the molecule each atom belongs to, shape (N,)."""
    i = [bond[0] for bond in bonds]
    j = [bond[1] for bond in bonds]
    graph = coo_matrix((np.ones(len(bonds)), (i, j)), shape=(n_atoms, n_atoms))
    return np.asarray(connected_components(graph, directed=False)[1])
