"""Explorations that are longer, since nothing but a longer look is missing."""

import pytest
from fabricated import calm_traces, campaign, made_up_verdict, replica_end
from scipy.optimize import brentq
from scipy.stats import nbinom

from halcyon.campaign import paths
from halcyon.campaign.lengths import exploring_for, plan_of_generation
from halcyon.campaign.sizes import JobSizes
from halcyon.config import Settings
from halcyon.verdict.forms import Decision, Finding
from halcyon.verdict.longer import next_time_ps
from halcyon.verdict.saturation import assess_run, explored

SETTINGS = Settings(exploration={"time_ps": 40.0}, limits={"max_generations": 3})


def assessed(events_ps=(), *, settings=SETTINGS, failed=0, temperatures=(500.0,)):
    """Eight replicas at each temperature; `events_ps` are those of the first ones, 0.1 ps each."""
    time_ps, number = settings.exploration.time_ps, 8 * len(temperatures)
    of_replica = [*events_ps, *[[]] * (number - len(events_ps))]
    ends = [
        replica_end(
            replica,
            time_ps,
            failure="bond broken" if replica < failed else None,
            activity_ps=[(begin, begin + 0.1) for begin in begins],
            molecules=1,
            temperature_K=temperatures[replica % len(temperatures)],
        )
        for replica, begins in enumerate(of_replica)
    ]
    return assess_run(calm_traces(ends), ends, settings)


MANY = [20.5 + 2 * n for n in range(9)]
"""Begins of events in the late half of 40 ps."""


def greatest_mean(events, shape=0.5):
    """Of eight replicas whose rates are gamma distributed, by SciPy's negative binomial."""
    error, size = 0.05 / 3, 8 * shape  # the error is that of one of three generations
    return brentq(lambda mean: nbinom.cdf(events, size, size / (size + mean)) - error, 1e-6, 1e3)


def test_few_events_are_watched_for_longer_by_as_much_as_their_bound_asks():
    found = assessed([[25.0], [30.0]])
    calm_ns = (8 * 20.0 - 2 * 0.3) / 1000  # late halves, without events and the 0.2 ps after each
    assert found.parts[0].events_per_ns == pytest.approx(2 / calm_ns)  # 12.5 per ns, under 100
    wanted = 40.0 * greatest_mean(2, found.parts[0].shape) / calm_ns / 100
    assert 40.0 < wanted < 80.0
    assert next_time_ps(found, 40.0, SETTINGS) == pytest.approx(wanted, abs=0.1)


def test_it_is_at_most_so_many_times_as_long():
    found = assessed([MANY])  # all in one replica: their bound is far above their rate
    assert found.parts[0].events_per_ns < 100.0
    assert next_time_ps(found, 40.0, SETTINGS) == 160.0
    never = Settings(exploration={"time_ps": 40.0, "extended_at_most": 1.0})
    assert next_time_ps(found, 40.0, never) == 40.0


def test_time_does_not_help_a_model_that_has_to_learn():
    assert next_time_ps(assessed([[25.0]], failed=1), 40.0, SETTINGS) == 40.0
    restless = assessed([MANY] * 8)
    assert restless.parts[0].events_per_ns > 100.0
    assert next_time_ps(restless, 40.0, SETTINGS) == 40.0
    # One temperature that needs more time does not hide another that has to learn.
    both = assessed([MANY, [25.0]] * 8, temperatures=(300.0, 500.0))
    assert next_time_ps(both, 40.0, SETTINGS) == 40.0
    assert next_time_ps(made_up_verdict(Decision.CONTINUE).saturation, 40.0, SETTINGS) == 40.0


def test_dynamics_stay_as_long_as_was_needed_while_something_else_is_missing():
    long = exploring_for(SETTINGS, 160.0)
    found = assessed([[100.0, 140.0], [130.0]], settings=long)
    assert found.finding is Finding.SATURATED  # and the audit, say, missed its goal
    kept = 160.0 * greatest_mean(3, found.parts[0].shape) / (8 * 80.0 - 3 * 0.3) * 10
    assert 40.0 < kept < 160.0
    assert next_time_ps(found, 160.0, SETTINGS) == pytest.approx(kept, abs=0.1)
    # Without an event the usual time would have been enough.
    assert next_time_ps(assessed(settings=long), 160.0, SETTINGS) == 40.0


def test_too_few_decorrelation_times_are_made_up_for():
    part = assessed().parts[0].model_copy(update={"decorrelation_times": 8.0})
    found = assessed().model_copy(update={"parts": [part]})
    assert next_time_ps(found, 40.0, SETTINGS) == 100.0  # 20 were asked for
    part = part.model_copy(update={"decorrelation_ps": None, "decorrelation_times": None})
    found = found.model_copy(update={"parts": [part]})
    assert next_time_ps(found, 40.0, SETTINGS) == 80.0  # nobody knows how long it takes
    assert next_time_ps(found, 80.0, SETTINGS) == 160.0


def test_a_generation_and_its_job_on_a_cluster_are_as_long_as_the_verdict_before_says(tmp_path):
    found = campaign(
        tmp_path, exploration={"time_ps": 40.0, "replicas": 8}, saturation={"events_per_ns": 50.0}
    )
    settings = found.systems["methanol"].settings
    folder = found.folder / "methanol" / paths.batch_name(0)
    folder.mkdir(parents=True)

    def plan(generation):
        return plan_of_generation(found, "methanol", generation)

    usual = found.systems["methanol"]
    assert plan(None) is usual
    assert plan(1) is usual  # nothing is known yet
    few = assessed([[25.0]], settings=settings.model_copy(update={"limits": SETTINGS.limits}))
    verdict = made_up_verdict(
        Decision.CONTINUE,
        generation=0,
        saturation=few.model_dump(),
        explored=explored(settings).model_dump(),
    )
    verdict.write(folder / "verdict.json")
    longer = plan(1).settings.exploration.time_ps
    assert longer == next_time_ps(few, settings.exploration.time_ps, settings)
    assert longer > settings.exploration.time_ps
    assert plan(0) is usual
    assert plan(2) is usual
    sizes = [JobSizes(found).of("explore", "methanol", generation=number) for number in (0, 1)]
    assert sizes[1].runtime_min > sizes[0].runtime_min
