"""How far a crystal's atoms are from their sites, in nearest-neighbour distances.

    from ase.build import bulk
    from halcyon.exploration.melting import SiteWatch
    from halcyon.systems.lattice import lattice_sites

    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    watch = SiteWatch(lattice_sites(salt, kind="solid"))
    salt.rattle(0.1, seed=1)
    watch.look(salt)
    round(watch.lindemann(), 2)  # 0.06

The Lindemann ratio is the root-mean-square displacement over the distance of nearest neighbours
(F. A. Lindemann, Phys. Z. 11, 609, 1910; J. J. Gilvarry, Phys. Rev. 102, 308, 1956). Here it is of
the later half of the looks: what melts on the way is seen, and the beginning does not count.

Not for: whether that is molten (`verdict.melting`), or failures (`domain.failures`).
"""

from typing import Any, Self

import numpy as np
import torch
from ase import Atoms

from halcyon.domain.displacements import Displacements, LatticeSites


class SiteWatch:
    """The displacements of one replica."""

    def __init__(self, sites: LatticeSites) -> None:
        """Begin without a look."""
        self.sites = sites
        self._squares: list[float] = []

    def look(self, atoms: Atoms) -> None:
        """Look at the replica's atoms, in their cell as it is now."""
        structure = {"it": self.sites}
        frame = Atoms(atoms.numbers, cell=atoms.cell, pbc=True, info={"structure": "it"})
        displacements = Displacements([frame], structure, torch.device("cpu"))
        vectors = displacements.vectors(torch.as_tensor(atoms.positions)).numpy()
        unit = self.sites.unit[displacements.atoms.numpy()]
        weights = self.sites.masses[displacements.atoms.numpy()]
        _, row = np.unique(unit, return_inverse=True)
        moved = np.stack([np.bincount(row, weights * component) for component in vectors.T])
        moved /= np.bincount(row, weights)
        larger = (atoms.get_volume() / self.sites.volume_A3) ** (1 / 3)
        squares = (moved**2).sum(axis=0) / (larger * self.sites.nearest_A) ** 2
        self._squares.append(float(squares.mean()))

    def lindemann(self) -> float | None:
        """The Lindemann ratio of the later half of the looks; None without a look."""
        later = self._squares[len(self._squares) // 2 :]
        return float(np.sqrt(np.mean(later))) if later else None

    def state(self) -> list[float]:
        """What a checkpoint must hold."""
        return list(self._squares)

    @classmethod
    def restored(cls, sites: LatticeSites, saved: Any) -> Self:
        """From a `state`, and the sites of the replica's structure."""
        watch = cls(sites)
        watch._squares = list(saved)
        return watch
