"""Some steps of all running replicas looked at together: scores, and which replica failed when.

A block of K steps of R replicas, N atoms in all, is handed to signals and to the failure monitor as
one state of K × R replicas. So they need not know of steps, and the overhead of their many small
operations is paid once a block.

Not for: what follows from scores and failures (see `explore`).
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
from halcyon.domain.signals import Signal, score_together
from halcyon.domain.states import State
from halcyon.exploration.monitoring import Monitoring

DECIDING = 0
"""Row of what decides among the signals, `error`: candidates are chosen by it."""


@dataclass(frozen=True)
class Step:
    """What one step left behind; later steps make new tensors and leave these as they are.

    Attributes:
        positions: shape (N, 3), Å.
        momenta: shape (N, 3), in torch-sim's unit.
        energy: of the model, shape (R,), eV.
        forces: on which the atoms moved, those of a bias included, shape (N, 3), eV/Å.
        cell: shape (R, 3, 3), Å, vectors in columns.
        output: all that the model returned.
    """

    positions: torch.Tensor
    momenta: torch.Tensor
    energy: torch.Tensor
    forces: torch.Tensor
    cell: torch.Tensor
    output: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Judged:
    """A block of K steps, judged.

    Attributes:
        steps: the steps.
        scores: of each of S signals, step and atom, shape (S, K, N).
        worst: greatest score of what decides by step and replica, shape (K, R).
        failed: by a failed replica's place in the batch: step of the block, and reason.
    """

    steps: list[Step]
    scores: torch.Tensor
    worst: np.ndarray
    failed: dict[int, tuple[int, str]]


class BlockMonitor:
    """Judges blocks of K steps of the same replicas: scorers, failure monitor, and indices."""

    def __init__(
        self,
        starts: Sequence[Atoms],
        state: MDState,
        n_steps: int,
        *,
        signals: Iterable[Signal],
        monitoring: Monitoring,
        settings: ExplorationSettings,
    ) -> None:
        """Prepare all that depends only on which replicas run, and on K.

        Args:
            starts: a frame of each replica, in the state's order.
            state: of the replicas.
            n_steps: K.
            signals: what decides first.
            monitoring: bonds of the domain, and kind of system, for the failure monitor.
            settings: limits that count as failures; whether cells move.
        """
        self.n_steps, self.n_replicas, device = n_steps, len(starts), state.positions.device
        self.cells_move = settings.ensemble == "npt"
        self.pbc = state.pbc
        repeated = list(starts) * n_steps
        self.score = score_together(list(signals), repeated, device)
        self.failure = FailureMonitor(
            starts,
            monitoring.domain.bonds,
            kind=monitoring.system_kind,
            bond_stretch_A=settings.bond_stretch_A,
            min_distance_A=settings.min_distance_A,
            device=device,
            n_steps=n_steps,
            site_distance_A=settings.site_distance_A,
            sites=monitoring.sites,
        )
        sizes = [len(start) for start in repeated]
        ends = itertools.accumulate(sizes, initial=0)
        # A row of atoms per replica, filled up with its last atom: the greatest score of each row
        # is found faster than by `per_replica`.
        rows = [
            min(begin + i, end - 1)
            for begin, end in itertools.pairwise(ends)
            for i in range(max(sizes))
        ]
        self.rows = torch.tensor(rows, device=device)
        self.atomic_numbers = state.atomic_numbers.repeat(n_steps)
        offsets = torch.arange(n_steps, device=device).repeat_interleave(len(state.system_idx))
        self.system_idx = state.system_idx.repeat(n_steps) + offsets * len(starts)

    def judge(self, steps: list[Step]) -> Judged:
        """Score K steps and find failures; waits for the device once, or twice."""
        cell = torch.cat([step.cell for step in steps])
        state = State(
            positions=torch.cat([step.positions for step in steps]),
            atomic_numbers=self.atomic_numbers,
            system_idx=self.system_idx,
            cell=cell,
            moving_cell=cell if self.cells_move else None,
            pbc=self.pbc,
        )
        outputs = _Outputs([step.output for step in steps])
        scores = self.score(state, outputs)
        energy = torch.cat([step.energy for step in steps])
        forces = torch.cat([step.forces for step in steps])
        room = self.failure.room(state.positions, energy, forces, state.moving_cell)
        rows = scores[DECIDING].index_select(0, self.rows)
        highest = rows.view(self.n_steps * self.n_replicas, -1).amax(dim=1)
        # The last wait for the device. Only where room is short, replicas are looked at one by one.
        least, *values = torch.cat([room.double().unsqueeze(0), highest]).tolist()
        reasons = {}
        if not least > 0:  # NaN, too
            reasons = self.failure.check(state.positions, energy, forces, state.moving_cell)
        failed: dict[int, tuple[int, str]] = {}
        for number, reason in sorted(reasons.items()):  # earlier steps first
            failed.setdefault(number % self.n_replicas, (number // self.n_replicas, reason))
        return Judged(
            steps,
            scores.view(len(scores), self.n_steps, -1),
            np.array(values).reshape(self.n_steps, self.n_replicas),
            failed,
        )


class _Outputs(dict[str, torch.Tensor]):
    """A model's outputs for several steps, joined when one of them is read first."""

    def __init__(self, outputs: list[dict[str, torch.Tensor]]) -> None:
        super().__init__()
        self._outputs = outputs

    def __missing__(self, name: str) -> torch.Tensor:
        self[name] = torch.cat([output[name] for output in self._outputs])
        return self[name]
