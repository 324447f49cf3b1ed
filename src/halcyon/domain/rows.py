"""A batch's atoms and curves in rows, one for each class: tensors then serve all at once.

    import torch
    from halcyon.domain.rows import Groups

    groups = Groups(domain.classes, starts, torch.device("cpu"))
    values = torch.ones(sum(map(len, starts)), 2)
    groups.unpack(groups.pack(values).sum(dim=2))  # (N, D) → (G, most, D) → (N,)

Not for: scores (see `signals`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from halcyon.domain.curves import Curve


class Lines:
    """The straight pieces of some curves (see `expected.Curve`), one curve a row."""

    def __init__(self, curves: Sequence[Curve], device: torch.device) -> None:
        """Put the curves' knots into tables on the device."""
        most = max(len(curve.distance) for curve in curves)
        knots = np.full((len(curves), most), np.inf)
        start, slope = np.zeros((2, len(curves), most + 1))
        for row, curve in enumerate(curves):
            number = len(curve.distance)
            knots[row, :number] = curve.distance
            start[row, : number + 1], slope[row, : number + 1] = curve.lines()
        self._knots, self._start, self._slope = (
            torch.as_tensor(table, device=device) for table in (knots, start, slope)
        )

    def at(self, distance: torch.Tensor) -> torch.Tensor:
        """Shape (G, most) → the same."""
        piece = torch.searchsorted(self._knots, distance.contiguous())
        return self._start.gather(1, piece) + self._slope.gather(1, piece) * distance


class Groups:
    """The atoms of a batch in a row for each class, so that one matrix product serves all.

    Attributes:
        names: classes that occur, in the order of the rows; G of them.
    """

    def __init__(
        self, classes: dict[str, list[str]], starts: Sequence[Atoms], device: torch.device
    ) -> None:
        """Find the classes of all atoms of a batch; arguments as for `Signal.for_batch`."""
        per_atom = np.array([name for atoms in starts for name in classes[atoms.info["structure"]]])
        names, row = np.unique(per_atom, return_inverse=True)
        self.names: list[str] = names.tolist()
        most = int(np.bincount(row).max())
        places = np.zeros((len(names), most), dtype=np.int64)  # rows are filled up with atom 0
        back = np.empty(len(per_atom), dtype=np.int64)
        for number in range(len(names)):
            atoms = np.flatnonzero(row == number)
            places[number, : len(atoms)] = atoms
            back[atoms] = number * most + np.arange(len(atoms))
        self._shape = places.shape
        self._places = torch.as_tensor(places.ravel(), device=device)
        self._back = torch.as_tensor(back, device=device)

    def pack(self, values: torch.Tensor) -> torch.Tensor:
        """Shape (N, D) → (G, most, D)."""
        return values.index_select(0, self._places).view(*self._shape, -1)

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """Shape (G, most) → (N,)."""
        return values.flatten().index_select(0, self._back)
