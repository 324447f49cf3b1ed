"""Some steps of a batch looked at together: scores, and who failed when.

A block of K steps of R replicas is handed to signals and monitors as one state of K × R replicas,
so that they need not know of steps, and their small operations are paid for once a block.

Not for: what follows from it (see `explore`).
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from torch_sim.integrators.md import MDState

from halcyon.config import ExplorationSettings
from halcyon.domain.failures import FailureMonitor
from halcyon.domain.intervals import Domain
from halcyon.domain.signals import Signal
from halcyon.domain.states import State

LABEL = 0
"""Row of the label domain among the signals: candidates rest on it."""


@dataclass(frozen=True)
class Step:
    """What one step left behind; the steps after it make new tensors.

    Attributes:
        positions: shape (N, 3), Å.
        momenta: shape (N, 3).
        energy: shape (R,), eV.
        forces: shape (N, 3), eV/Å; as the integrator took them.
        cell: shape (R, 3, 3), Å, vectors in columns.
        output: of the model.
    """

    positions: torch.Tensor
    momenta: torch.Tensor
    energy: torch.Tensor
    forces: torch.Tensor
    cell: torch.Tensor
    output: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Judged:
    """Steps that were looked at.

    Attributes:
        made: the K steps.
        scores: of each signal, step and atom, shape (S, K, N).
        worst: greatest score of the label domain by step and replica, shape (K, R).
        failed: by place in the batch: step of the block, and reason.
    """

    made: list[Step]
    scores: torch.Tensor
    worst: np.ndarray
    failed: dict[int, tuple[int, str]]


class Layout:
    """Scorers, monitor and indices for blocks of so many steps of one batch."""

    def __init__(
        self,
        starts: Sequence[Atoms],
        state: MDState,
        n_steps: int,
        *,
        signals: Iterable[Signal],
        domain: Domain,
        kind: str,
        settings: ExplorationSettings,
    ) -> None:
        """Lay out.

        Args:
            starts: a frame of each replica, in the batch's order.
            state: of the batch.
            n_steps: K.
            signals: the label domain's first.
            domain: for its bonds.
            kind: of system, see `config.System`.
            settings: what counts as failure; whether cells move.
        """
        self.n_steps, self.n_replicas, device = n_steps, len(starts), state.positions.device
        self.moving = settings.ensemble == "npt"
        self.pbc = state.pbc
        repeated = list(starts) * n_steps
        self.scorers = [signal.for_batch(repeated, device) for signal in signals]
        self.failure = FailureMonitor(
            repeated,
            domain.bonds,
            kind=kind,
            bond_stretch_A=settings.bond_stretch_A,
            min_distance_A=settings.min_distance_A,
            device=device,
        )
        sizes = [len(start) for start in repeated]
        ends = itertools.accumulate(sizes, initial=0)
        # Each replica's atoms in one row, filled up with its last: cheaper than `per_replica`.
        rows = [
            min(begin + i, end - 1)
            for begin, end in itertools.pairwise(ends)
            for i in range(max(sizes))
        ]
        self.rows = torch.tensor(rows, device=device)
        self.atomic_numbers = state.atomic_numbers.repeat(n_steps)
        offsets = torch.arange(n_steps, device=device).repeat_interleave(len(state.system_idx))
        self.system_idx = state.system_idx.repeat(n_steps) + offsets * len(starts)

    def judge(self, made: list[Step]) -> Judged:
        """Score steps and find failures; waits for the device once."""
        cell = torch.cat([step.cell for step in made])
        state = State(
            positions=torch.cat([step.positions for step in made]),
            atomic_numbers=self.atomic_numbers,
            system_idx=self.system_idx,
            cell=cell,
            moving_cell=cell if self.moving else None,
            pbc=self.pbc,
        )
        outputs = _Outputs([step.output for step in made])
        scores = torch.stack([score(state, outputs) for score in self.scorers])
        energy = torch.cat([step.energy for step in made])
        forces = torch.cat([step.forces for step in made])
        room = self.failure.room(state.positions, energy, forces, state.moving_cell)
        rows = scores[LABEL].index_select(0, self.rows)
        highest = rows.view(self.n_steps * self.n_replicas, -1).amax(dim=1)
        # The one wait; looking closely is for the blocks that need it.
        least, *values = torch.cat([room.double().unsqueeze(0), highest]).tolist()
        reasons = {}
        if not least > 0:  # NaN, too
            reasons = self.failure.check(state.positions, energy, forces, state.moving_cell)
        failed: dict[int, tuple[int, str]] = {}
        for number, reason in sorted(reasons.items()):  # earlier steps first
            failed.setdefault(number % self.n_replicas, (number // self.n_replicas, reason))
        return Judged(
            made,
            scores.view(len(scores), self.n_steps, -1),
            np.array(values).reshape(self.n_steps, self.n_replicas),
            failed,
        )


class _Outputs(dict[str, torch.Tensor]):
    """A model's outputs for several steps, one behind the other; joined when they are read."""

    def __init__(self, outputs: list[dict[str, torch.Tensor]]) -> None:
        super().__init__()
        self._outputs = outputs

    def __missing__(self, name: str) -> torch.Tensor:
        self[name] = torch.cat([output[name] for output in self._outputs])
        return self[name]
