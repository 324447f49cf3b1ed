"""As much of a torch-sim state as models and signals read, where no dynamics needs the rest.

    from halcyon.domain.states import State
    from halcyon.models.batched import BatchedMace
    from halcyon.models.mace import load

    model = BatchedMace(load("m.model"))
    output = model(State.of(frames, device=model.device, dtype=model.dtype))

Not for: states that move (`exploration.dynamics` has torch-sim's own), or neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from halcyon.errors import InputError
from halcyon.frames import near_origin


@dataclass(frozen=True)
class State:
    """R systems of N atoms in all, all periodic or none.

    Attributes:
        positions: shape (N, 3), Å.
        atomic_numbers: shape (N,).
        system_idx: system of each atom, ascending, shape (N,).
        cell: shape (R, 3, 3), Å, vectors in columns.
        pbc: whether the systems are periodic.
        moving_cell: the cells once more where they are no longer those of the start structures;
            else None.
    """

    positions: torch.Tensor
    atomic_numbers: torch.Tensor
    system_idx: torch.Tensor
    cell: torch.Tensor
    pbc: bool | torch.Tensor
    moving_cell: torch.Tensor | None = None

    @classmethod
    def of(cls, frames: Sequence[Atoms], *, device: torch.device, dtype: torch.dtype) -> "State":
        """State of some frames, at least one; molecules far from the origin are moved there.

        Raises:
            InputError: a frame is periodic in some directions only.
        """
        periodic = [is_periodic(atoms) for atoms in frames]
        sizes = [len(atoms) for atoms in frames]
        arrays = (
            np.concatenate([near_origin(atoms).positions for atoms in frames]),
            np.concatenate([atoms.numbers for atoms in frames]).astype(np.int64),
            np.repeat(np.arange(len(frames)), sizes),
            np.stack([atoms.cell.array.T for atoms in frames]),
        )
        positions, numbers, system_idx, cell = (torch.tensor(a, device=device) for a in arrays)
        return cls(
            positions=positions.to(dtype),
            atomic_numbers=numbers,
            system_idx=system_idx,
            cell=cell.to(dtype),
            pbc=all(periodic),
        )


def is_periodic(atoms: Atoms) -> bool:
    """Whether a frame is periodic in all directions; False where it is in none.

    Raises:
        InputError: it is periodic in some directions only.
    """
    if atoms.pbc.any() and not atoms.pbc.all():
        raise InputError(
            f"frame {atoms.get_chemical_formula()}: pbc = {atoms.pbc.tolist()}: not supported; set "
            "it to True for all three directions, or to False for all"
        )
    return bool(atoms.pbc.all())
