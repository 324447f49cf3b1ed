"""Frames drawn at random from the dynamics: what the audit is labelled from.

Every so many steps each running replica offers its frame, and the frame gets a number between 0
and 1 that follows from seed, replica and step alone. Of each structure at each temperature, the
frames with the least numbers are kept. That is a uniform draw, without replacement, of all frames
that were visited (J. S. Vitter, ACM Trans. Math. Softw. 11, 37, 1985, for the class of methods). It
depends neither on which replicas share a batch nor on when a run was stopped.

    from halcyon.exploration.reservoir import audit_frames, draw_of

    draw_of(seed=1, replica=3, step=400)  # the same number each time
    audit = audit_frames(reservoir, 10, limit=20)

The audit takes its frames from the replicas in turn, of each those with the least numbers, and of
each about as large a part as the reservoir has of it: still a random draw of all frames, but one in
which replicas, which are what its intervals count, are seldom missing by chance.

What a replica does while it equilibrates is not offered, nor what follows a failure.

Not for: frames where something happened (see `candidates`).
"""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ase import Atoms

from halcyon.config import AuditSettings
from halcyon.exploration.dynamics import Replica
from halcyon.exploration.schedule import Schedule
from halcyon.frames import structure_only


def draw_of(*, seed: int, replica: int, step: int) -> float:
    """A pseudo-random number in [0, 1) that belongs to a replica's step.

    Args:
        seed: of the run.
        replica: number of the replica.
        step: counted from the replica's start.
    """
    digest = hashlib.sha256(f"reservoir {seed} {replica} {step}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


@dataclass(frozen=True)
class Kept:
    """A frame of the reservoir.

    Attributes:
        draw: its random number.
        member: index of the replica among all of the run.
        step: counted from the replica's start.
        positions: shape (n, 3), Å.
        cell: shape (3, 3), Å, vectors in columns.
    """

    draw: float
    member: int
    step: int
    positions: torch.Tensor
    cell: torch.Tensor

    def __lt__(self, other: "Kept") -> bool:
        # The heap's first is the one that gives way: the greatest draw.
        return (self.draw, self.member, self.step) > (other.draw, other.member, other.step)


class Reservoir:
    """The frames with the least draws of each structure at each temperature."""

    def __init__(self, settings: AuditSettings | None, schedule: Schedule, *, seed: int) -> None:
        """Begin without frames.

        Args:
            settings: number of frames, and the time from which on they are offered. None: none is
                kept.
            schedule: of the run.
            seed: of the run.
        """
        self.most = settings.reservoir if settings else 0
        self._equilibration = settings.equilibration if settings else 0.0
        self._begin = self._from(schedule.early_end or schedule.steps)
        self._usual = self._from(schedule.steps)
        self.timestep_ps, self.seed = schedule.timestep_ps, seed
        # Frames from before the usual beginning count only where the run ends early: apart from the
        # others, they put none of them out.
        self._heaps: dict[tuple[str, float, bool], list[Kept]] = defaultdict(list)

    def offer(
        self,
        member: int,
        replica: Replica,
        step: int,
        positions: torch.Tensor,
        cell: torch.Tensor,
    ) -> None:
        """Keep a frame if its draw is among the least.

        Args:
            member: index of the replica among all of the run.
            replica: the replica.
            step: counted from the replica's start.
            positions: shape (n, 3), Å.
            cell: shape (3, 3), Å, vectors in columns.
        """
        if not self.most or step < self._begin:
            return
        heap = self._heaps[*_group(replica), step < self._usual]
        draw = draw_of(seed=self.seed, replica=replica.number, step=step)
        if len(heap) == self.most and draw >= heap[0].draw:
            return
        # Copied only here: most frames are not kept, and the copy waits for the device.
        frame = (tensor.double().cpu().clone() for tensor in (positions, cell))
        kept = Kept(draw, member, step, *frame)
        if len(heap) == self.most:
            heapq.heapreplace(heap, kept)
        else:
            heapq.heappush(heap, kept)

    def _entries(self) -> list[Kept]:
        kept = [entry for heap in self._heaps.values() for entry in heap]
        return sorted(kept, key=lambda entry: (entry.draw, entry.member, entry.step))

    def state(self) -> list[dict[str, Any]]:
        """What a checkpoint must hold."""
        return [vars(entry) for entry in self._entries()]

    def restore(self, state: Sequence[dict[str, Any]], replicas: Sequence[Replica]) -> None:
        """Go on from a `state`; `replicas` are all of the run."""
        self._heaps.clear()
        for values in state:
            tensors = {name: values[name].cpu() for name in ("positions", "cell")}
            entry = Kept(**values | tensors)
            early = entry.step < self._usual
            heapq.heappush(self._heaps[*_group(replicas[entry.member]), early], entry)

    def _from(self, steps: int) -> int:
        """The step from which on frames of a run of so many steps are kept."""
        return round(self._equilibration * steps)

    def frames(self, replicas: Sequence[Replica], *, steps: int) -> list[Atoms]:
        """What is kept, as frames, least draws first.

        Args:
            replicas: all of the run.
            steps: that the run has made.
        """
        frames = []
        taken: Counter[tuple[str, float]] = Counter()
        for entry in self._entries():
            replica = replicas[entry.member]
            group = _group(replica)
            if entry.step < self._from(steps) or taken[group] == self.most:
                continue
            taken[group] += 1
            frame = structure_only(replica.start)
            frame.positions = entry.positions.numpy()
            if frame.pbc.any():
                frame.cell = entry.cell.numpy().T
            frame.info |= {
                "replica": replica.number,
                "temperature": replica.temperature_K,
                "time": entry.step * self.timestep_ps,
                "draw": entry.draw,
            }
            frames.append(frame)
        return frames


def in_turn(reservoir: Sequence[Atoms]) -> list[list[Atoms]]:
    """Random frames in the order in which they are taken, of each structure and temperature.

    Replicas take turns, so that the first n have of each replica about as large a part as the
    whole list has (systematic sampling: W. G. Cochran, Sampling Techniques, 1977).

    Args:
        reservoir: frames with structure, temperature, replica and draw in `info`.
    """
    groups: dict[tuple[str, float], dict[int, list[Atoms]]] = defaultdict(lambda: defaultdict(list))
    for frame in sorted(reservoir, key=lambda frame: frame.info["draw"]):
        group = groups[frame.info["structure"], frame.info["temperature"]]
        group[frame.info["replica"]].append(frame)
    return [
        [frame for _, frame in sorted(_places(group.values()), key=lambda entry: entry[0])]
        for _, group in sorted(groups.items())
    ]


def _places(
    replicas: Iterable[list[Atoms]],
) -> Iterator[tuple[tuple[float, float], Atoms]]:
    """Frames with numbers to sort them by: those of each replica are spread evenly over 0 to 1."""
    for frames in replicas:
        # Where a replica begins is random: digits of a draw that its order hardly depends on.
        begin = (frames[0].info["draw"] * 2**20) % 1.0
        for rank, frame in enumerate(frames):
            yield ((rank + begin) / len(frames), frame.info["draw"]), frame


def audit_frames(reservoir: Sequence[Atoms], number: int, *, limit: int) -> list[Atoms]:
    """The frames that are labelled to measure the model's errors, of all replicas in turn.

    Args:
        reservoir: frames with structure, temperature, replica and draw in `info`; it is not
            changed.
        number: of frames of each structure and temperature.
        limit: number of labels that the budget still allows. Where it is short, structures and
            temperatures take turns.

    Returns:
        Copies, with `role` and `reason`, and in `split` validation and train in turn: half of
        them calibrate, and the model learns from the others.
    """
    turns = [
        (turn, group, frame)
        for group, frames in enumerate(in_turn(reservoir))
        for turn, frame in enumerate(frames[:number])
    ]
    taken = []
    for turn, _, frame in sorted(turns, key=lambda entry: entry[:2])[: max(0, limit)]:
        copy = frame.copy()
        copy.info = frame.info | {
            "role": "audit",
            "reason": "audit",
            "split": "train" if turn % 2 else "validation",
        }
        taken.append(copy)
    return taken


def _group(replica: Replica) -> tuple[str, float]:
    return replica.start.info["structure"], replica.temperature_K
