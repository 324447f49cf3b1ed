"""Candidate frames of an exploration, kept without writing the trajectory.

Of every replica and interval: the frame where it left its label domain, the one where an atom was
furthest outside, and, when it fails, the last frames before. Memory does not grow with the
trajectory: of one replica a set number is kept, those whose intervals gained the most CLI.

Not for: choosing among them (see `select`).
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from ase import Atoms

from halcyon.exploration.dynamics import Replica
from halcyon.frames import PER_ATOM, structure_only

FRAMES_BEFORE_FAILURE = 4
"""Frames kept before a failure, one every half of a candidate interval."""


@dataclass
class Kept:
    """A frame as it was, while its interval runs.

    Attributes:
        score: the greatest of its atoms.
        step: of the replica.
        positions: shape (n, 3), Å.
        cell: shape (3, 3), Å, vectors in columns.
        scores: of the atoms, shape (n,).
        cli: atomic Λ at that time, shape (n,), ps.
    """

    score: float
    step: int
    positions: torch.Tensor
    cell: torch.Tensor
    scores: torch.Tensor
    cli: torch.Tensor


@dataclass
class Slot:
    """A replica's place in the batch, and what is remembered of its running interval.

    Attributes:
        member: index of the replica among all that ran.
        began: step of the run at which it began.
        cli_before: atomic Λ when the interval began, shape (n,), ps.
        outside: whether any of its atoms was outside at the last step.
        worst: the interval's frame furthest outside.
        onset: the interval's first frame outside after one inside.
        ring: step, positions, cell and atomic Λ of the last frames, one every half of an interval.
    """

    member: int
    began: int
    cli_before: torch.Tensor
    outside: bool = False
    worst: Kept | None = None
    onset: Kept | None = None
    ring: deque[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]] = field(
        default_factory=lambda: deque(maxlen=FRAMES_BEFORE_FAILURE)
    )

    def close_interval(self, cli: torch.Tensor, book: "Candidates") -> None:
        """Propose the interval's frames, and begin a new one.

        Args:
            cli: atomic Λ now, shape (n,), ps.
            book: where to.
        """
        if self.worst is not None:
            gain = self._gained(cli)
            frames = [("excursion", self.worst)]
            if self.onset is not None and self.onset.step != self.worst.step:
                frames.insert(0, ("excursion start", self.onset))
            for reason, kept in frames:
                atom = int(kept.scores.argmax())
                book.propose(
                    self.member,
                    kept.step,
                    kept.positions,
                    kept.cell,
                    reason=reason,
                    atom=atom,
                    score=kept.score,
                    scores=kept.scores.double().cpu().clone(),
                    cli_atoms=kept.cli.double().cpu().clone(),
                    cli=float(kept.cli.mean()),
                    cli_atom=float(kept.cli[atom]),
                    cli_gain=gain,
                )
        self.worst = self.onset = None
        self.cli_before = cli.clone()

    def propose_ring(self, cli: torch.Tensor, book: "Candidates") -> None:
        """Propose the frames before a failure.

        Args:
            cli: atomic Λ at the failure, shape (n,), ps.
            book: where to.
        """
        atom = int(cli.argmax())
        for step, positions, cell, cli_then in self.ring:
            book.propose(
                self.member,
                step,
                positions,
                cell,
                reason="before failure",
                atom=atom,
                cli_atoms=cli_then.double().cpu().clone(),
                cli=float(cli_then.mean()),
                cli_atom=float(cli_then[atom]),
                cli_gain=self._gained(cli),
            )

    def _gained(self, cli: torch.Tensor) -> float:
        return float((cli - self.cli_before).max())

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold; copies, since views would be saved with all they look at."""
        return {
            "member": self.member,
            "began": self.began,
            "cli_before": self.cli_before.clone(),
            "outside": self.outside,
            "worst": _copied(self.worst),
            "onset": _copied(self.onset),
            "ring": [(step, *(tensor.clone() for tensor in frame)) for step, *frame in self.ring],
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "Slot":
        """From a `state`."""
        kept = {name: state[name] and Kept(**state[name]) for name in ("worst", "onset")}
        ring = deque(state["ring"], maxlen=FRAMES_BEFORE_FAILURE)
        return cls(**state | kept | {"ring": ring})


def _copied(kept: Kept | None) -> dict[str, Any] | None:
    if kept is None:
        return None
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in vars(kept).items()}


class Candidates:
    """All candidates of a run; plain values, so that a checkpoint can hold them.

    Attributes:
        entries: per member, its candidates.
        passed_over: candidates that gave way to others of their replica.
    """

    def __init__(self, most: int, timestep_ps: float) -> None:
        """Keep at most so many of each replica, those before a failure not counted."""
        self.most, self.timestep_ps = most, timestep_ps
        self.entries: dict[int, list[dict[str, Any]]] = {}
        self.passed_over = 0

    def propose(
        self, member: int, step: int, positions: torch.Tensor, cell: torch.Tensor, **info: Any
    ) -> None:
        """Add a frame of a replica, at a step; `info` as `frames.INFO` and `PER_ATOM` name it."""
        mine = self.entries.setdefault(member, [])
        mine.append(
            {
                "positions": positions.double().cpu().clone(),
                "cell": cell.double().cpu().clone(),
                "time": step * self.timestep_ps,
                **info,
            }
        )
        if info["reason"] != "before failure" and len(mine) > self.most:
            least = min(range(len(mine)), key=lambda i: mine[i]["cli_gain"])
            del mine[least]
            self.passed_over += 1

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"entries": self.entries, "passed_over": self.passed_over}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.entries, self.passed_over = state["entries"], state["passed_over"]

    def frames(self, members: list[Replica]) -> list[Atoms]:
        """Candidates as frames, by replica and time, with their scores."""
        found = []
        for member, entries in sorted(self.entries.items()):
            replica = members[member]
            for entry in sorted(entries, key=lambda one: (one["time"], one["reason"])):
                frame = structure_only(replica.start)
                frame.positions = entry["positions"].numpy()
                if frame.pbc.any():
                    frame.cell = entry["cell"].numpy().T
                frame.info |= {"replica": replica.number, "temperature": replica.temperature_K}
                told = {k: v for k, v in entry.items() if k not in ("positions", "cell")}
                for name in PER_ATOM.keys() & told.keys():
                    frame.arrays[name] = told.pop(name).numpy()
                frame.info |= told
                found.append(frame)
        return found
