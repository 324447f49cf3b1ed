"""Frames as the graphs that MACE's forward takes: neighbours once, joined into a batch each step.

    from halcyon.models.graphs import graphs, joined

    batch = joined(graphs(frames, model, {1: -13.6, 6: -1029.0, 8: -2041.0}))
    model(batch, training=True)["interaction_energy"] - batch["energy"]  # eV, per frame

Not for: dynamics, whose neighbours change at every step (see `batched`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.neighborlist import primitive_neighbor_list
from torch import Tensor

from halcyon.domain.states import is_periodic
from halcyon.frames import near_origin
from halcyon.labels.stress import tensor
from halcyon.models.atomic import Properties


@dataclass(frozen=True)
class Graph:
    """A labelled frame; tensors in the model's precision, on its device."""

    n_atoms: int
    positions: Tensor  # (N, 3), Å
    node_attrs: Tensor  # (N, n_elements), one-hot
    edge_index: Tensor  # (2, E): sender, receiver
    shifts: Tensor  # (E, 3), Å: of the receiver
    unit_shifts: Tensor  # (E, 3), in cells
    cell: Tensor  # (3, 3), Å
    energy: float  # eV, without the elements' own
    forces: Tensor  # (N, 3), eV/Å
    virial: Tensor | None = None  # (3, 3), eV: minus stress times volume; None: no stress
    atomic: Tensor | None = None  # (N, P): scaled properties, see `atomic`; None: not learned


def graphs(
    frames: Sequence[Atoms],
    model: Any,
    e0s: dict[int, float],
    properties: Properties | None = None,
) -> list[Graph]:
    """Graphs of labelled frames.

    Args:
        frames: with `info["energy"]` (eV) and `arrays["forces"]` (eV/Å); those with
            `info["stress"]` (eV/Å³) get a virial.
        model: gives cutoff, elements, precision and device.
        e0s: energies of the elements, eV; subtracted in double precision.
        properties: of atoms that are learned, too; None: there are none.
    """
    like = next(model.parameters())
    r_max = float(model.r_max)
    index = {int(z): i for i, z in enumerate(model.atomic_numbers)}
    eye = torch.eye(len(index), dtype=like.dtype)
    converted = []
    for atoms in frames:
        senders, receivers, units = _neighbours(atoms, r_max)
        columns = torch.tensor([index[int(z)] for z in atoms.numbers])
        parts = {
            "positions": torch.tensor(near_origin(atoms).positions, dtype=like.dtype),
            "node_attrs": eye[columns],
            "edge_index": torch.tensor(np.stack([senders, receivers]), dtype=torch.long),
            "shifts": torch.tensor(units @ atoms.cell.array, dtype=like.dtype),
            "unit_shifts": torch.tensor(units, dtype=like.dtype),
            "cell": torch.tensor(atoms.cell.array, dtype=like.dtype),
            "forces": torch.tensor(np.asarray(atoms.arrays["forces"]), dtype=like.dtype),
        }
        if "stress" in atoms.info:
            virial = -tensor(atoms.info["stress"]) * atoms.get_volume()
            parts["virial"] = torch.tensor(virial, dtype=like.dtype)
        if properties is not None:
            parts["atomic"] = torch.tensor(properties.of(atoms), dtype=like.dtype)
        inner = atoms.info["energy"] - sum(e0s[int(z)] for z in atoms.numbers)
        converted.append(
            Graph(
                n_atoms=len(atoms),
                energy=float(inner),
                **{name: part.to(like.device) for name, part in parts.items()},
            )
        )
    return converted


def joined(batch: Sequence[Graph]) -> dict[str, Tensor]:
    """One batch for MACE's forward, and the labels beside it.

    Returns:
        MACE's own keys; `energy` (n_frames,), `forces` (n_atoms, 3), `n_atoms` (n_frames,), and
        the labels' virials (n_frames, 3, 3), eV, of which those without `has_virial` (n_frames,)
        are 0; `atomic` (n_atoms, P) where all graphs have it.
    """
    none = torch.zeros_like(batch[0].cell)
    like = batch[0].positions
    sizes = torch.tensor([graph.n_atoms for graph in batch], device=like.device)
    ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    begins = [0, *np.cumsum([graph.n_atoms for graph in batch]).tolist()]
    atomic = [graph.atomic for graph in batch if graph.atomic is not None]
    more = {"atomic": torch.cat(atomic)} if len(atomic) == len(batch) else {}
    return more | {
        "positions": torch.cat([graph.positions for graph in batch]),
        "node_attrs": torch.cat([graph.node_attrs for graph in batch]),
        "edge_index": torch.cat(
            [graph.edge_index + begin for graph, begin in zip(batch, begins, strict=False)], dim=1
        ),
        "shifts": torch.cat([graph.shifts for graph in batch]),
        "unit_shifts": torch.cat([graph.unit_shifts for graph in batch]),
        "cell": torch.cat([graph.cell for graph in batch]),
        "batch": torch.repeat_interleave(torch.arange(len(batch), device=like.device), sizes),
        "ptr": ptr,
        "head": torch.zeros_like(sizes),
        "energy": torch.tensor(
            [graph.energy for graph in batch], dtype=like.dtype, device=like.device
        ),
        "forces": torch.cat([graph.forces for graph in batch]),
        "n_atoms": sizes,
        "label_virial": torch.stack(
            [none if graph.virial is None else graph.virial for graph in batch]
        ),
        "has_virial": torch.tensor(
            [graph.virial is not None for graph in batch], device=like.device
        ),
    }


def mean_neighbours(frames: Sequence[Atoms], r_max: float) -> float:
    """Mean number of neighbours of an atom within the cutoff (Å); at least 1."""
    edges = sum(len(_neighbours(atoms, r_max)[0]) for atoms in frames)
    return max(1.0, edges / sum(len(atoms) for atoms in frames))


def _neighbours(atoms: Atoms, r_max: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Senders, receivers (E,), and the receivers' shifts in cells (E, 3)."""
    is_periodic(atoms)  # refuses a frame that is so in some directions only
    senders, receivers, shifts = primitive_neighbor_list(
        "ijS", atoms.pbc, atoms.cell.array, atoms.positions, r_max
    )
    return senders, receivers, shifts.astype(float)
