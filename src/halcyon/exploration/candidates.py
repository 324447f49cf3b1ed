"""Candidate frames of an exploration, kept without writing the trajectory.

In each interval of each replica these are the frame where it left its domain (an atom's expected
force error rose over the tolerance), and the frame where an atom was furthest outside; when a
replica fails, also the last frames before. Memory does not grow with the trajectory: a set number
of frames is kept of each replica, those whose intervals gained the most CLI.

Not for: choosing among candidates (see `selection`).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from ase import Atoms

from halcyon.exploration.dynamics import Replica
from halcyon.frames import PER_ATOM, structure_only
from halcyon.verdict.before_failures import BEFORE_FAILURE

FRAMES_BEFORE_FAILURE = 4
"""Frames kept before a failure, one every half of a candidate interval."""


@dataclass
class Snapshot:
    """A replica of n atoms at one step.

    Attributes:
        score: greatest score of its atoms.
        step: counted from that at which the replica began; below 0 while it is equilibrated.
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
    """What is remembered of a running replica of n atoms in its present interval.

    Attributes:
        member: index of the replica among all of the run.
        began: step of the run from which its time counts: that at which it entered or, without a
            thermostat, was equilibrated.
        cli_before: atomic Λ when the interval began, shape (n,), ps.
        outside: whether any of its atoms was outside at the last step.
        worst: the interval's frame furthest outside.
        onset: the interval's first frame outside after one inside.
        ring: step, positions, cell and atomic Λ of its last frames, one every half of an interval,
            which become candidates if the replica fails.
    """

    member: int
    began: int
    cli_before: torch.Tensor
    outside: bool = False
    worst: Snapshot | None = None
    onset: Snapshot | None = None
    ring: deque[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]] = field(
        default_factory=lambda: deque(maxlen=FRAMES_BEFORE_FAILURE)
    )

    def close_interval(self, cli: torch.Tensor, candidates: "Candidates") -> None:
        """Propose the interval's frames, and begin a new interval.

        Args:
            cli: atomic Λ now, shape (n,), ps.
            candidates: that gain these frames.
        """
        if self.worst is not None:
            gain = self._gained(cli)
            frames = [("excursion", self.worst)]
            if self.onset is not None and self.onset.step != self.worst.step:
                frames.insert(0, ("excursion start", self.onset))
            for reason, frame in frames:
                atom = int(frame.scores.argmax())
                candidates.propose(
                    self.member,
                    frame.step,
                    frame.positions,
                    frame.cell,
                    reason=reason,
                    atom=atom,
                    score=frame.score,
                    scores=frame.scores.double().cpu().clone(),
                    cli_atoms=frame.cli.double().cpu().clone(),
                    cli=float(frame.cli.mean()),
                    cli_atom=float(frame.cli[atom]),
                    cli_gain=gain,
                )
        self.worst = self.onset = None
        self.cli_before = cli.clone()

    def propose_ring(self, cli: torch.Tensor, candidates: "Candidates") -> None:
        """Propose the frames before a failure.

        Args:
            cli: atomic Λ at the failure, shape (n,), ps.
            candidates: that gain these frames.
        """
        atom = int(cli.argmax())
        for step, positions, cell, cli_then in self.ring:
            candidates.propose(
                self.member,
                step,
                positions,
                cell,
                reason=BEFORE_FAILURE,
                atom=atom,
                cli_atoms=cli_then.double().cpu().clone(),
                cli=float(cli_then.mean()),
                cli_atom=float(cli_then[atom]),
                cli_gain=self._gained(cli),
            )

    def _gained(self, cli: torch.Tensor) -> float:
        return float((cli - self.cli_before).max())

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold: copies, since a view is saved with all of its tensor."""
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
        snapshots = {name: state[name] and Snapshot(**state[name]) for name in ("worst", "onset")}
        ring = deque(state["ring"], maxlen=FRAMES_BEFORE_FAILURE)
        return cls(**state | snapshots | {"ring": ring})


def _copied(frame: Snapshot | None) -> dict[str, Any] | None:
    if frame is None:
        return None
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in vars(frame).items()}


class Candidates:
    """All candidates of a run, as plain values that a checkpoint can hold.

    Attributes:
        entries: candidates of each replica, by its index among all of the run.
        passed_over: number of candidates that gave way to others of their replica.
    """

    def __init__(self, most: int, timestep_ps: float) -> None:
        """Begin without any.

        Args:
            most: of each replica, at most; frames before a failure are always added.
            timestep_ps: length of a step, ps.
        """
        self.most, self.timestep_ps = most, timestep_ps
        self.entries: dict[int, list[dict[str, Any]]] = {}
        self.passed_over = 0

    def propose(
        self, member: int, step: int, positions: torch.Tensor, cell: torch.Tensor, **info: Any
    ) -> None:
        """Add a frame.

        Args:
            member: index of the replica among all of the run.
            step: counted from that at which the replica began.
            positions: shape (n, 3), Å.
            cell: shape (3, 3), Å, vectors in columns.
            info: values under their names in `frames.INFO` and `frames.PER_ATOM`.
        """
        entries = self.entries.setdefault(member, [])
        entries.append(
            {
                "positions": positions.double().cpu().clone(),
                "cell": cell.double().cpu().clone(),
                "time": step * self.timestep_ps,
                **info,
            }
        )
        if info["reason"] != BEFORE_FAILURE and len(entries) > self.most:
            least = min(range(len(entries)), key=lambda i: entries[i]["cli_gain"])
            del entries[least]
            self.passed_over += 1

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"entries": self.entries, "passed_over": self.passed_over}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.entries, self.passed_over = state["entries"], state["passed_over"]

    def frames(self, replicas: Sequence[Replica]) -> list[Atoms]:
        """Candidates as frames with scores, by replica and time; `replicas` are all of the run."""
        frames = []
        for member, entries in sorted(self.entries.items()):
            replica = replicas[member]
            for entry in sorted(entries, key=lambda entry: (entry["time"], entry["reason"])):
                frame = structure_only(replica.start)
                frame.positions = entry["positions"].numpy()
                if frame.pbc.any():
                    frame.cell = entry["cell"].numpy().T
                frame.info |= {"replica": replica.number, "temperature": replica.temperature_K}
                info = {k: v for k, v in entry.items() if k not in ("positions", "cell")}
                for name in PER_ATOM.keys() & info.keys():
                    frame.arrays[name] = info.pop(name).numpy()
                frame.info |= info
                frames.append(frame)
        return frames
