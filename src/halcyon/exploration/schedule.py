"""When a run does what: its settings' times as numbers of steps.

    from halcyon.exploration.schedule import Schedule

    schedule = Schedule.of(settings)
    schedule.block_length(0, most=50)  # steps of the first block

Not for: doing it (see `explore`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from halcyon.config import ExplorationSettings

LOOK_EVERY_PS = 0.05
"""Between two looks at the sites of a crystal, ps: about half the period of its slower vibrations.
"""


@dataclass(frozen=True)
class Schedule:
    """Numbers of steps, each at least 1 but that of equilibration.

    Attributes:
        timestep_ps: length of a step, ps.
        steps: of the whole run, without equilibration.
        early_end: at which it is asked whether the run may end; None: never.
        equilibration: of each replica before its time counts; 0 with a thermostat throughout. The
            run begins at step −equilibration.
        trace_every: between two points of the traces.
        interval: of an interval, whose worst frames become candidates; successors of failed
            replicas begin with one.
        recent_every: between two of the frames that are remembered in case of a failure.
        write_every: between two frames of the trajectory; None where none is written.
        look_every: between two looks at a crystal's sites.
    """

    timestep_ps: float
    steps: int
    early_end: int | None
    equilibration: int
    trace_every: int
    interval: int
    recent_every: int
    write_every: int | None
    look_every: int

    @classmethod
    def of(cls, settings: ExplorationSettings) -> "Schedule":
        """The schedule that settings ask for, rounded to whole steps."""
        timestep_ps = settings.timestep_fs / 1000
        interval = max(1, round(settings.candidate_interval_fs / settings.timestep_fs))
        write_every = None
        if settings.trajectory_every_fs:
            write_every = max(1, round(settings.trajectory_every_fs / settings.timestep_fs))
        steps = max(1, round(settings.time_ps / timestep_ps))
        early_end = round((settings.early_end or 0) * steps)
        return cls(
            timestep_ps=timestep_ps,
            steps=steps,
            early_end=early_end if 0 < early_end < steps else None,
            equilibration=round(settings.thermostatted_ps / timestep_ps),
            trace_every=max(1, round(1 / (settings.trace_points_per_ps * timestep_ps))),
            interval=interval,
            recent_every=max(1, interval // 2),
            write_every=write_every,
            look_every=max(1, round(LOOK_EVERY_PS / timestep_ps)),
        )

    def next_interval(self, step: int) -> int:
        """The step at which the next interval begins, or the run may end."""
        ends = [self.steps, self.early_end or self.steps]
        return min(_next(step, self.interval), *(end for end in ends if end > step))

    def next_look(self, step: int) -> int:
        """The step of the next look at a crystal's sites."""
        return _next(step, self.look_every)

    def block_length(self, step: int, *, most: int, stops: Iterable[int] = ()) -> int:
        """Steps of the next block: until something must be done, in blocks of about equal length.

        Args:
            step: that the run has reached.
            most: greatest length of a block.
            stops: further steps at which something must be done; earlier ones do not matter.
        """
        periods = [self.interval, self.trace_every, self.recent_every]
        if self.write_every:
            periods.append(self.write_every)
        ends = [_next(step, period) for period in periods] + [s for s in stops if s > step]
        if self.early_end is not None and step < self.early_end:
            ends.append(self.early_end)
        remaining = min(self.steps, *ends) - step
        blocks = -(-remaining // most)
        return -(-remaining // blocks)


def _next(step: int, period: int) -> int:
    """The first multiple of a period after a step."""
    return (step // period + 1) * period
