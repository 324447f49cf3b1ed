"""A MACE model for torch-sim: many systems in one pass, energies, forces and node energies.

Two things make it fast: models that `fast.evaluate` can read go through it, all others through
MACE's own forward; and a batch is split into groups of systems that fit the caches of a
processor, or the memory of a graphics card.

    from halcyon.models.batched import BatchedMace
    from halcyon.models.mace import load

    model = BatchedMace(load("m.model", dtype="float64"))
    model(state)["node_energy"]  # eV, without the elements' own energies; `state`: torch-sim's

Not for: reading models (see `mace`), training them (see `training`), or what a node energy means
(see `halcyon.domain`).
"""

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor
from torch_sim.models.interface import ModelInterface
from torch_sim.neighbors import vesin_nl_ts

from halcyon.errors import InputError
from halcyon.models.fast.compiled import pool
from halcyon.models.fast.evaluate import FastMace
from halcyon.models.fast.neighbours import few_images, neighbours
from halcyon.models.groups import Group, expected_edges, group_ends, padded

# Edges of a group on a processor, above which a step is slower than that of two halves: measured
# in docs/decisions/exploration-speed.md. The rule knows atoms, not positions, so that the same
# batch is always split in the same way, and gives the same bits.
CPU_EDGES = {
    ("scalar", torch.float32): 8_000,
    ("scalar", torch.float64): 4_000,
    ("mace", torch.float32): 20_000,
    ("mace", torch.float64): 10_000,
}


class BatchedMace(ModelInterface):
    """A MACE model for torch-sim: one pass gives energies, forces and node energies.

    A system with a position that is not finite gets NaN for all its results; the other systems
    of the batch are not touched.
    """

    model: Any  # MACE's classes are untyped

    def __init__(self, model: torch.nn.Module, *, compute_stress: bool = False) -> None:
        """Wrap a model as `load` returns it.

        Args:
            model: kept, not copied; its device and precision are the wrapper's. Its weights must
                not change any more; its elements' energies may.
            compute_stress: also return stresses; costs a little.
        """
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        parameter = next(model.parameters())
        self._device = parameter.device
        self._dtype = parameter.dtype
        self._compute_forces = True
        self._compute_stress = compute_stress
        self.r_max = float(self.model.r_max)
        self.elements = [int(z) for z in self.model.atomic_numbers]
        self._fast = FastMace.of(self.model)
        self._scalars = scalar_features(self.model).to(self._device)
        self._edge_limit = math.inf
        if self._device.type == "cpu":
            way = "mace" if self._fast is None else "scalar"
            self._edge_limit = CPU_EDGES[way, self._dtype]
        self._batch: _Batch | None = None

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Predict for every system of a torch-sim state.

        Args:
            state: `positions` (n_atoms, 3) Å, `atomic_numbers` (n_atoms,), `system_idx`
                (n_atoms,) ascending, `cell` (n_systems, 3, 3) Å in columns, `pbc`.

        Returns:
            `energy` (n_systems,) eV; `forces` (n_atoms, 3) eV/Å; `node_energy` (n_atoms,) eV,
            float64, without the element's own energy; `descriptors` (n_atoms, D), rotation
            invariant; with `compute_stress` also `stress` (n_systems, 3, 3) eV/Å³.

        Raises:
            InputError: an element that the model was not trained for, or a system that does not
                fit the device's memory even alone.
        """
        while True:
            batch = self._prepared(state.atomic_numbers, state.system_idx)
            try:
                return self._evaluated(state, batch)
            except torch.OutOfMemoryError as error:
                self._split_more(batch, error)

    def e0s(self, atomic_numbers: Tensor) -> Tensor:
        """Energies of atoms' elements, eV, float64, as the model itself rounds them.

        Raises:
            InputError: an element that the model was not trained for.
        """
        return self._element_energies(self._one_hot(atomic_numbers)).double()

    def _evaluated(self, state: Any, batch: "_Batch") -> dict[str, Tensor]:
        """Results of all groups, joined."""
        positions = state.positions.detach().to(self._dtype)
        cells = state.cell.mT.to(self._dtype)
        periodic = bool(torch.as_tensor(state.pbc).any())

        parts = [(group, positions[group.atoms], cells[group.systems]) for group in batch.groups]
        results = self._at_once(parts, batch, periodic=periodic)
        if results is None:
            results = [self._of_group(*part, periodic=periodic) for part in parts]
        if len(results) == 1:
            return results[0]
        return {name: torch.cat([part[name] for part in results]) for name in results[0]}

    def _of_group(
        self, group: Group, positions: Tensor, cells: Tensor, *, periodic: bool
    ) -> dict[str, Tensor]:
        """Results of a group of systems, step by step."""
        # 0 where all of a system's positions are finite, else NaN.
        poison = torch.zeros(len(cells), dtype=self._dtype, device=self._device)
        poison.index_add_(0, group.system_idx, (positions * 0).sum(-1))
        evaluate = self._by_mace if group.sorted_atoms is None else self._by_matrices
        answer = evaluate(group, positions, cells, poison, periodic=periodic)
        atom_poison = poison[group.system_idx]
        for name, values in answer.items():
            added = poison if name in ("energy", "stress") else atom_poison
            answer[name] = values + added.view(-1, *[1] * (values.dim() - 1))
        return answer

    def _at_once(
        self, parts: list[tuple[Group, Tensor, Tensor]], batch: "_Batch", *, periodic: bool
    ) -> list[dict[str, Tensor]] | None:
        """Results of all groups from compiled loops alone; None where they cannot do it."""
        if not batch.at_once:
            return None
        rows = [self._searched(group, cells, periodic=periodic) for group, _, cells in parts]

        def evaluated(part: tuple[Group, Tensor, Tensor], cells: Tensor) -> dict[str, Tensor]:
            group, positions, _ = part
            answer: dict[str, Tensor] = group.at_once(positions.contiguous(), cells, group.places)
            # Last: beside thousands of eV, each atom's part would be rounded.
            answer["energy"] += group.system_e0s
            return answer

        searched = [cells for cells in rows if cells is not None]
        if len(searched) < len(parts):
            return None
        work = map if batch.threads == 1 else pool(batch.threads).map
        return list(work(evaluated, parts, searched))

    def _searched(self, group: Group, cells: Tensor, *, periodic: bool) -> Tensor | None:
        """Cells in which compiled loops search for neighbours; None where they do not."""
        if not group.compares:
            return None
        rows = cells.contiguous() if periodic else torch.zeros_like(cells)
        return rows if not periodic or few_images(rows.numpy(), self.r_max) else None

    def _by_mace(
        self, group: Group, positions: Tensor, cells: Tensor, poison: Tensor, *, periodic: bool
    ) -> dict[str, Tensor]:
        """Results of a group of systems by MACE's own forward."""
        pairs, shifts, unit_shifts = self._edges(group, positions, cells, poison, periodic=periodic)
        data = {
            "positions": positions.clone(),
            "node_attrs": group.node_attrs,
            "batch": group.system_idx,
            "ptr": group.ptr,
            "head": torch.zeros_like(group.ptr[1:]),
            "cell": cells,
            "edge_index": pairs,
            "shifts": shifts,
            "unit_shifts": unit_shifts,
        }
        result = self.model(data, compute_stress=self._compute_stress)
        answer = {
            "energy": result["energy"].detach(),
            "forces": result["forces"].detach(),
            "node_energy": result["node_energy"].detach() - group.e0s.double(),
            "descriptors": result["node_feats"].detach()[:, self._scalars],
        }
        if self._compute_stress:
            answer["stress"] = result["stress"].detach()
        return answer

    @torch.no_grad()
    def _by_matrices(
        self, group: Group, positions: Tensor, cells: Tensor, poison: Tensor, *, periodic: bool
    ) -> dict[str, Tensor]:
        """Results of a group of systems by `fast.evaluate`, whose atoms are sorted by element."""
        assert self._fast is not None  # noqa: S101
        assert group.sorted_atoms is not None  # noqa: S101
        vectors, sender = self._neighbours(group, positions, cells, poison, periodic=periodic)
        node_energy, gradient, features = self._fast(group.sorted_atoms, vectors, sender)
        by_receiver = gradient.view(3, len(group.order), -1)
        forces = -by_receiver.sum(2).T.contiguous()
        forces.index_add_(0, sender, gradient.T.contiguous())
        back = group.back
        node_energy = node_energy.index_select(0, back)
        # The elements' energies are added last: beside thousands of eV, each atom's part would be
        # rounded.
        energy = torch.zeros_like(group.system_e0s).index_add_(0, group.system_idx, node_energy)
        answer = {
            "energy": group.system_e0s + energy,
            "forces": forces.index_select(0, back),
            "node_energy": node_energy.double(),
            "descriptors": features.index_select(0, back),
        }
        if self._compute_stress:
            virial = torch.einsum("anj,bnj->nab", vectors.view_as(by_receiver), by_receiver)
            total = virial.new_zeros(len(cells), 3, 3)
            total.index_add_(0, group.system_idx[group.order], (virial + virial.mT) / 2)
            stress = total / torch.linalg.det(cells).abs()[:, None, None]
            # Systems without a cell get 0, as MACE gives them.
            answer["stress"] = torch.where(stress.abs() < 1e10, stress, 0.0)
        return answer

    def _neighbours(
        self, group: Group, positions: Tensor, cells: Tensor, poison: Tensor, *, periodic: bool
    ) -> tuple[Tensor, Tensor]:
        """Vectors (3, n_atoms · J) Å from senders (n_atoms · J,); J for each receiver.

        Atoms are counted in the order of `group.order`. An atom with fewer than J neighbours is
        made its own neighbour beyond the cutoff.
        """
        n, far = len(group.order), 2 * self.r_max
        # A system that blew up gets NaN in the end. Here, NaN must not become an index.
        finite = torch.nan_to_num(positions, nan=0.0, posinf=0.0, neginf=0.0)
        sorted_positions = finite.T.index_select(1, group.order)
        if group.rectangle is not None and not periodic:
            sender, empty = group.rectangle
            places = sorted_positions.index_select(1, sender).view(3, n, -1)
            vectors = (sorted_positions[:, :, None] - places).view(3, -1)
            return torch.where(empty, far, vectors), sender
        rows = self._searched(group, cells, periodic=periodic)
        if rows is not None:
            inputs = positions.contiguous().numpy(), rows.numpy(), group.places
            arrays = neighbours(*inputs, self.r_max)
            return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])
        pairs, shifts, _ = self._edges(group, positions, cells, poison, periodic=periodic)
        sender, receiver = group.back[pairs]
        # MACE's shift belongs to the receiver.
        vectors = sorted_positions[:, receiver] - sorted_positions[:, sender] + shifts.T
        return padded(n, sender, receiver, vectors, far)

    def _edges(
        self, group: Group, positions: Tensor, cells: Tensor, poison: Tensor, *, periodic: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Senders and receivers (2, n), and the receivers' shifts (n, 3) in Å and in cells."""
        if not periodic and group.pairs is not None:
            separations = positions[group.pairs[1]] - positions[group.pairs[0]]
            # A NaN distance is not smaller than anything: atoms that blew up have no edges.
            near = (separations * separations).sum(-1) < self.r_max**2
            edge_index = group.pairs[:, near]
            none = torch.zeros(1, 3, dtype=self._dtype, device=self._device)
            zeros = none.expand(edge_index.shape[1], 3)
            return edge_index, zeros, zeros
        edges = [torch.zeros(2, 0, dtype=torch.long, device=self._device)]
        units = [torch.zeros(0, 3, dtype=self._dtype, device=self._device)]
        shifts = units[:]
        cutoff = torch.tensor(self.r_max, dtype=self._dtype, device=self._device)
        for system, (begin, end) in enumerate(itertools.pairwise(group.bounds)):
            if bool(poison[system].isnan()):
                continue
            pairs, unit = vesin_nl_ts(positions[begin:end], cells[system], periodic, cutoff)
            edges.append(pairs + begin)
            units.append(unit.to(self._dtype))
            shifts.append(units[-1] @ cells[system])
        return torch.cat(edges, dim=1), torch.cat(shifts), torch.cat(units)

    def _prepared(self, atomic_numbers: Tensor, system_idx: Tensor) -> "_Batch":
        """What depends only on which atoms are in the batch; it changes when replicas leave."""
        batch = self._batch
        if (
            batch is None
            or batch.threads != torch.get_num_threads()
            or not _same(atomic_numbers, batch.atomic_numbers)
            or not _same(system_idx, batch.system_idx)
        ):
            batch = self._batch = self._split(atomic_numbers, system_idx)
        return batch

    def _split(self, atomic_numbers: Tensor, system_idx: Tensor) -> "_Batch":
        one_hot = self._one_hot(atomic_numbers)
        e0s = self._element_energies(one_hot)
        bounds = [0, *torch.bincount(system_idx).cumsum(0).tolist()]
        threads = torch.get_num_threads()

        def groups(parts: int) -> list[Group]:
            return [
                Group.of(
                    first, bounds[first : last + 1], one_hot, e0s, self._fast, r_max=self.r_max
                )
                for first, last in group_ends(
                    bounds, parts=parts, limit=self._edge_limit, r_max=self.r_max
                )
            ]

        # One for each thread, where compiled loops are all it takes.
        shared = self._device.type == "cpu" and not self._compute_stress
        split = groups(threads if shared else 1)
        at_once = shared and all(group.at_once for group in split)
        return _Batch(
            # Copies: the state's own tensors may be changed in place.
            atomic_numbers=atomic_numbers.clone(),
            system_idx=system_idx.clone(),
            n_systems=len(bounds) - 1,
            threads=threads,
            at_once=at_once,
            groups=split if at_once or not shared or threads == 1 else groups(1),
        )

    def _split_more(self, batch: "_Batch", error: BaseException) -> None:
        """Halve what is computed at once, after the memory was too small."""
        largest = max(batch.groups, key=lambda group: expected_edges(group.bounds, self.r_max))
        if all(len(group.bounds) == 2 for group in batch.groups):
            raise InputError(
                f"a system of {largest.bounds[1]} atoms does not fit the memory of {self._device} "
                "even alone: use a smaller system or model (channels, max_L, r_max_A), float32, "
                "or a device with more memory"
            ) from error
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._device} has not enough memory for {batch.n_systems} systems at once: "
                "they are computed in several passes, with the same results",
                stacklevel=3,
            )
        self._edge_limit = expected_edges(largest.bounds, self.r_max) / 2
        self._batch = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    _warned = False

    def _one_hot(self, atomic_numbers: Tensor) -> Tensor:
        """Elements of atoms, as (n_atoms, n_elements)."""
        elements = torch.tensor(self.elements, device=self._device)
        is_element = atomic_numbers.to(self._device)[:, None] == elements
        if not bool(is_element.any(1).all()):
            unknown = {int(z) for z in atomic_numbers} - set(self.elements)
            raise InputError(
                f"the model knows {_symbols(self.elements)}, not {_symbols(unknown)}: use a model "
                "that was trained with these elements, or leave out the atoms"
            )
        return is_element.to(self._dtype)

    def _element_energies(self, one_hot: Tensor) -> Tensor:
        energies: Tensor = self.model.atomic_energies_fn(one_hot)[:, 0]
        return energies


@dataclass(frozen=True)
class _Batch:
    """What stays the same from step to step while the same atoms are in the batch."""

    atomic_numbers: Tensor  # (n_atoms,)
    system_idx: Tensor  # (n_atoms,)
    n_systems: int
    threads: int  # of PyTorch, when it was split
    at_once: bool  # every group by compiled loops alone, each on a thread of its own
    groups: list[Group]


def scalar_features(model: Any) -> Tensor:
    """Where a model's node features do not turn with the molecule: first in each layer."""
    scalars, begin = [], 0
    for product in model.products:
        irreps = product.linear.irreps_out
        scalars.append(torch.arange(begin, begin + irreps.count("0e")))
        begin += irreps.dim
    return torch.cat(scalars)


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


def _symbols(elements: Sequence[int] | set[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in sorted(elements))
