"""When any atom of a replica was unreliable: the times between which it was calm.

    import numpy as np
    from halcyon.exploration.activity import Activity

    activity = Activity(timestep_ps=0.001)
    activity.note(0, 1, np.array([False, True, True, False]))  # steps 1 to 4 of replica 0
    activity.of(0)  # [(0.001, 0.003)]

A step stands for the time since the one before it. An atom that swings out of the domain and back
with the period of its bond is active all the while: gaps shorter than `CLOSED_GAP_PS` are closed.

Not for: events and their rate (see `halcyon.verdict`), or how long each atom was outside
(see `halcyon.domain.index`).
"""

import numpy as np

CLOSED_GAP_PS = 0.005
"""Shorter calm between two activities is none, ps: half the period of an O-H bond."""


class Activity:
    """Times of activity of all replicas of a run, whatever the blocks in which they are noted."""

    def __init__(self, timestep_ps: float) -> None:
        """Begin without any; `timestep_ps` is the length of a step, ps."""
        self.timestep_ps = timestep_ps
        self._spans: dict[int, list[list[int]]] = {}

    def note(self, member: int, first_step: int, active: np.ndarray) -> None:
        """Add consecutive steps of a replica.

        Args:
            member: index of the replica among all of the run.
            first_step: number of the first of them, counted from 1 at the replica's start.
            active: whether any atom was unreliable at each of them, shape (K,).
        """
        spans = self._spans.setdefault(member, [])
        flanks = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(int)))
        for begin, end in (flanks.reshape(-1, 2) + first_step - 1).tolist():
            # Whole steps are compared, so that rounding closes no gap of just this length.
            if spans and round((begin - spans[-1][1]) * self.timestep_ps, 9) < CLOSED_GAP_PS:
                spans[-1][1] = end
            else:
                spans.append([begin, end])

    def of(self, member: int) -> list[tuple[float, float]]:
        """Begin and end of each activity of a replica, ps of its own time."""
        return [
            (round(begin * self.timestep_ps, 9), round(end * self.timestep_ps, 9))
            for begin, end in self._spans.get(member, [])
        ]

    def state(self) -> dict[int, list[list[int]]]:
        """What a checkpoint must hold."""
        return self._spans

    def restore(self, state: dict[int, list[list[int]]]) -> None:
        """Go on from a `state`."""
        self._spans = state
