"""How a batch of systems is split into groups that are computed together.

    from halcyon.models.groups import group_ends

    bounds = [0, 9, 18, 27, 36]  # first atom of each of four ethanols, and one past the last
    for first, last in group_ends(bounds, parts=2, limit=8000, r_max=5.0):
        print(f"systems {first} to {last - 1}")

The rule knows atoms, not positions: on as many threads, the same batch is always split in the same
way. A `Group` holds what depends only on its atoms, and is made anew when replicas leave.

Not for: evaluating groups (see `batched`), or finding neighbours (see `fast.neighbours`).
"""

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halcyon.models.fast.batch import SortedAtoms
from halcyon.models.fast.evaluate import FastMace
from halcyon.models.fast.scalar import ScalarSystems

ALL_PAIRS_MAX_ATOMS = 128  # up to here all pairs of a molecule are cheaper than a cell list
ALL_NEIGHBOURS_MAX_ATOMS = 16  # up to here nearly all pairs are within the cutoff anyway
COMPARED_MAX_ATOMS = 2_000  # up to here a processor compares all pairs faster than by a cell list
ATOMS_PER_A3 = 0.1  # of condensed matter; only the number of edges is estimated from it


@dataclass(frozen=True)
class Group:
    """Consecutive systems that are computed together. Atoms and systems are counted from 0."""

    systems: slice  # of the batch
    atoms: slice  # of the batch
    bounds: list[int]  # first atom of each system, and one past the last of all
    system_idx: Tensor  # (n_atoms,)
    ptr: Tensor  # (n_systems + 1,): `bounds`
    node_attrs: Tensor  # (n_atoms, n_elements), one-hot
    e0s: Tensor  # (n_atoms,)
    system_e0s: Tensor  # (n_systems,)
    pairs: Tensor | None  # (2, n_pairs): sender, receiver; None: systems are too large
    order: Tensor  # (n_atoms,): atoms sorted by element
    back: Tensor  # (n_atoms,): the place of each atom in `order`
    sorted_atoms: SortedAtoms | None
    compares: bool  # all pairs of atoms, in compiled loops
    places: tuple[np.ndarray, np.ndarray]  # `ptr` and `back`, for compiled loops
    at_once: ScalarSystems | None
    # All atoms of small systems as each other's neighbours, in `order`: senders (n_atoms · J,),
    # and which of them only fill up.
    rectangle: tuple[Tensor, Tensor] | None

    @classmethod
    def of(
        cls,
        first: int,
        bounds: Sequence[int],
        one_hot: Tensor,
        e0s: Tensor,
        fast: FastMace | None,
        *,
        r_max: float,
    ) -> "Group":
        """For the systems from `first` on, whose atoms begin at `bounds`."""
        device, atoms = one_hot.device, slice(bounds[0], bounds[-1])
        one_hot, e0s = one_hot[atoms], e0s[atoms]
        bounds = [bound - bounds[0] for bound in bounds]
        sizes = [end - begin for begin, end in itertools.pairwise(bounds)]
        system_idx = torch.repeat_interleave(
            torch.arange(len(sizes), device=device), torch.tensor(sizes, device=device)
        )
        pairs = None
        if max(sizes) <= ALL_PAIRS_MAX_ATOMS:
            pairs = torch.cat(
                [
                    begin + _all_pairs(size, device)
                    for begin, size in zip(bounds, sizes, strict=False)
                ],
                dim=1,
            )
        elements = one_hot.argmax(1)
        order = torch.sort(elements, stable=True).indices
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=device)
        rectangle = None
        if pairs is not None and max(sizes) <= ALL_NEIGHBOURS_MAX_ATOMS:
            vectors = torch.zeros(3, pairs.shape[1], device=device)
            sender, receiver = back[pairs]
            filled, senders = padded(len(order), sender, receiver, vectors, 1.0)
            rectangle = (senders, filled[0] > 0)
        ptr = torch.tensor(bounds, device=device)
        sorted_atoms = None if fast is None else fast.prepared(elements[order])
        return cls(
            systems=slice(first, first + len(sizes)),
            atoms=atoms,
            bounds=bounds,
            system_idx=system_idx,
            ptr=ptr,
            node_attrs=one_hot,
            e0s=e0s,
            system_e0s=e0s.new_zeros(len(sizes)).index_add_(0, system_idx, e0s),
            pairs=pairs,
            order=order,
            back=back,
            sorted_atoms=sorted_atoms,
            places=(ptr.cpu().numpy(), back.cpu().numpy()),
            at_once=None if fast is None else fast.of_systems(sorted_atoms, r_max),
            compares=device.type == "cpu" and max(sizes) <= COMPARED_MAX_ATOMS,
            rectangle=rectangle,
        )


def group_ends(
    bounds: Sequence[int], *, parts: int, limit: float, r_max: float
) -> list[tuple[int, int]]:
    """First system and one past the last of each group.

    Args:
        bounds: first atom of each system, and one past the last of all.
        parts: at least so many groups, of about as many atoms, where there are so many systems.
        limit: most edges of a group, unless a single system has more.
        r_max: cutoff, Å.
    """
    return [
        (begin + first, begin + last)
        for begin, end in _shares(bounds, parts)
        for first, last in _limited(bounds[begin : end + 1], limit, r_max)
    ]


def _shares(bounds: Sequence[int], parts: int) -> Iterator[tuple[int, int]]:
    """First system and one past the last of each of so many parts, of about as many atoms.

    There may be fewer parts.
    """
    cuts = [bisect.bisect_left(bounds, bounds[-1] * part / parts) for part in range(parts + 1)]
    for begin, end in itertools.pairwise(cuts):
        if begin < end:
            yield begin, end


def _limited(bounds: Sequence[int], limit: float, r_max: float) -> Iterator[tuple[int, int]]:
    """First system and one past the last of each group.

    A group has at most `limit` edges, unless a single system has more.
    """
    first, edges = 0, 0.0
    for system in range(len(bounds) - 1):
        more = expected_edges(bounds[system : system + 2], r_max)
        if system > first and edges + more > limit:
            yield first, system
            first, edges = system, 0.0
        edges += more
    yield first, len(bounds) - 1


def expected_edges(bounds: Sequence[int], r_max: float) -> float:
    """Number of edges that systems of ordinary density have."""
    neighbours = ATOMS_PER_A3 * 4 / 3 * math.pi * r_max**3
    sizes = [end - begin for begin, end in itertools.pairwise(bounds)]
    return sum(size * min(size - 1, neighbours) for size in sizes)


def padded(
    n: int, sender: Tensor, receiver: Tensor, vectors: Tensor, far: float
) -> tuple[Tensor, Tensor]:
    """Edges in any order as a rectangle: vectors (3, n · J), and senders (n · J,).

    Empty places get `far`, and the receiver itself as sender.
    """
    receiver, order = torch.sort(receiver, stable=True)
    counts = torch.bincount(receiver, minlength=n)
    width = max(int(counts.max()), 1)
    begins = torch.arange(0, n * width, width, device=sender.device) - counts.cumsum(0) + counts
    places = torch.arange(len(order), device=sender.device) + begins[receiver]
    senders = torch.arange(n, device=sender.device).repeat_interleave(width)
    senders[places] = sender[order]
    filled = vectors.new_full((3, n * width), far)
    filled.index_copy_(1, places, vectors.index_select(1, order))
    return filled, senders


def _all_pairs(n_atoms: int, device: torch.device) -> Tensor:
    sender, receiver = torch.meshgrid(
        torch.arange(n_atoms, device=device), torch.arange(n_atoms, device=device), indexing="ij"
    )
    other = sender != receiver
    return torch.stack([sender[other], receiver[other]])
