"""When a run does what, in steps."""

import pytest

from halcyon.config import ExplorationSettings
from halcyon.exploration.schedule import Schedule

SETTINGS = ExplorationSettings(
    time_ps=1.0,
    timestep_fs=0.5,
    trace_points_per_ps=50,
    candidate_interval_fs=30.0,
    trajectory_every_fs=None,
)


def test_times_become_numbers_of_steps():
    assert Schedule.of(SETTINGS) == Schedule(
        timestep_ps=0.0005,
        steps=2000,
        early_end=None,
        equilibration=0,
        trace_every=40,
        interval=60,
        recent_every=30,
        write_every=None,
        look_every=100,
    )
    written = SETTINGS.model_copy(update={"trajectory_every_fs": 0.1})
    assert Schedule.of(written).write_every == 1


def test_only_runs_without_a_thermostat_are_equilibrated():
    def steps(**settings: object) -> int:
        return Schedule.of(ExplorationSettings(timestep_fs=0.5, **settings)).equilibration

    assert steps(equilibration_ps=3.0) == 0
    assert steps(ensemble="nve") == 2000  # five times 1/friction, which is 5/ps
    assert steps(ensemble="nve", friction_per_ps=10.0) == 1000
    assert steps(ensemble="nve", equilibration_ps=0.03) == 60


@pytest.mark.parametrize(
    ("step", "most", "length"),
    [
        (0, 50, 30),  # until frames are remembered
        (30, 50, 10),  # until a point of the traces
        (0, 20, 15),  # in two equal blocks
        (15, 20, 15),
        (1999, 50, 1),  # until the end
    ],
)
def test_a_block_ends_where_something_must_be_done(step, most, length):
    assert Schedule.of(SETTINGS).block_length(step, most=most) == length


def test_a_block_ends_where_an_equilibration_does():
    schedule = Schedule.of(SETTINGS)
    assert schedule.block_length(0, most=50, stops=[-5, 0, 7]) == 7
    assert schedule.block_length(-10, most=50) == 10  # a run may begin before 0


def test_a_run_is_made_of_blocks_that_miss_nothing():
    schedule, step = Schedule.of(SETTINGS), 0
    stops = set()
    while step < schedule.steps:
        step += schedule.block_length(step, most=7)
        stops.add(step)
    for period in (schedule.interval, schedule.trace_every, schedule.recent_every):
        assert set(range(period, schedule.steps + 1, period)) <= stops
    assert max(stops) == schedule.steps


def test_the_next_interval_is_not_beyond_the_end():
    schedule = Schedule.of(SETTINGS)
    assert [schedule.next_interval(step) for step in (0, 59, 60, 1999)] == [60, 60, 120, 2000]


def test_a_block_ends_where_the_run_may():
    schedule = Schedule.of(SETTINGS.model_copy(update={"early_end": 0.0105}))
    assert schedule.early_end == 21
    assert schedule.block_length(0, most=50) == 21
    assert schedule.block_length(21, most=50) == 9  # until frames are remembered
    assert schedule.next_interval(0) == 21
    assert schedule.next_interval(21) == 60
    # A run of a few steps has no earlier end.
    assert Schedule.of(SETTINGS.model_copy(update={"early_end": 1e-6})).early_end is None
