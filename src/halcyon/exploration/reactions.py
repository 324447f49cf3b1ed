"""Which bonds form and break in a replica of a reactive system, and what comes of it.

    from halcyon.exploration.reactions import BondWatch

    watch = BondWatch(frames[0].numbers)
    for number, frame in enumerate(frames):
        watch.look(frame, time_ps=0.05 * number)
    watch.changes, watch.products()  # 0, []

A bond forms where two atoms come closer than 1.25 times the sum of their covalent radii, and breaks
where they are farther apart than 1.6 times that sum. In between it stays what it was, so that
a vibration is no reaction. A pair that is in between at the first look is undecided, and what it is
later decided to be is no change. What happens between two looks and is undone is not seen.

Not for: failures (`domain.failures`), or what the verdict makes of it (`verdict.reactions`).
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from ase import Atoms

from halcyon.systems.graphs import pairs_of, species, touching
from halcyon.verdict.forms import Product

FORMS = 1.25
"""A bond forms under so many sums of the covalent radii. F2 has 1.24, H2 1.19, others less."""
BREAKS = 1.6
"""A bond breaks over so many. The shortest hydrogen bonds have 1.6, those of water 1.8."""

Kind = tuple[str, str]
"""Formula and graph of a molecule."""
Molecule = tuple[Kind, tuple[int, ...]]
"""Its kind and its atoms."""


@dataclass
class _Seen:
    """How often molecules of a kind came about, and when the first did, ps."""

    times: int
    first_ps: float


class BondWatch:
    """The bonds of one replica of N atoms.

    Attributes:
        changes: bonds that formed or broke.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        """Begin without a look.

        Args:
            numbers: atomic numbers, shape (N,).
        """
        self.numbers = np.asarray(numbers)
        self.changes = 0
        self._touching = touching(self.numbers)
        self._bonded = np.full((len(self.numbers),) * 2, -1, dtype=np.int8)  # -1: undecided
        self._at_first: set[Kind] = set()
        self._present: set[Molecule] = set()
        self._new: set[Molecule] = set()  # seen at the last look for the first time
        self._seen: dict[Kind, _Seen] = {}
        self._last_ps: float | None = None

    def look(self, atoms: Atoms, *, time_ps: float) -> None:
        """Look at the replica; a second look at the same time changes nothing.

        Args:
            atoms: N atoms, with their cell if they are periodic.
            time_ps: simulated by the replica, ps.
        """
        if time_ps == self._last_ps:
            return
        before_ps, self._last_ps = self._last_ps, time_ps
        distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
        bonded = self._bonded.copy()
        bonded[distances < FORMS * self._touching] = 1
        bonded[distances > BREAKS * self._touching] = 0
        np.fill_diagonal(bonded, 0)
        different = bonded != self._bonded
        if different.any():
            self.changes += int(np.triu(different & (self._bonded >= 0), k=1).sum())
            self._bonded = bonded
            molecules = species(self.numbers, pairs_of(bonded == 1))
            present = {((each.formula, each.graph), each.members) for each in molecules}
            new = present - self._present
        else:
            present, new = self._present, set()
        if self.changes == 0:
            self._at_first |= {kind for kind, _ in present}
        # What is there at one look only has met, not reacted.
        for kind, _ in sorted(self._new & present):
            if kind not in self._at_first:
                seen = self._seen.setdefault(kind, _Seen(0, before_ps or 0.0))
                seen.times += 1
        self._present, self._new = present, new

    def products(self) -> list[Product]:
        """Molecules unlike any before the first change, seen at two looks in a row; first first."""
        lasting = Counter(kind for kind, _ in self._present - self._new)
        return [
            Product(
                formula=kind[0],
                graph=kind[1],
                formed=seen.times,
                first_ps=seen.first_ps,
                at_end=lasting[kind],
            )
            for kind, seen in sorted(
                self._seen.items(), key=lambda entry: (entry[1].first_ps, entry[0])
            )
        ]

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {
            "numbers": self.numbers.tolist(),
            "changes": self.changes,
            "bonded": torch.from_numpy(self._bonded.copy()),
            "at_first": sorted(self._at_first),
            "present": sorted(self._present),
            "new": sorted(self._new),
            "seen": [(kind, seen.times, seen.first_ps) for kind, seen in self._seen.items()],
            "last_ps": self._last_ps,
        }

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> Self:
        """From a `state`."""
        watch = cls(np.array(saved["numbers"]))
        watch.changes = saved["changes"]
        watch._bonded = saved["bonded"].cpu().numpy().copy()
        watch._at_first = set(saved["at_first"])
        watch._present, watch._new = set(saved["present"]), set(saved["new"])
        watch._seen = {kind: _Seen(times, first) for kind, times, first in saved["seen"]}
        watch._last_ps = saved["last_ps"]
        return watch
