"""Events, their bounds, and the finding for each structure at each temperature."""

import math

import numpy as np
import pandas as pd
import pytest
from fabricated import calm_traces, replica_end

from halcyon.config import Settings
from halcyon.verdict.calm import calm_parts
from halcyon.verdict.events import (
    ASSUMED_SHAPE,
    Window,
    bounds,
    decorrelation_ps,
    evenness,
    gaps_ps,
    greatest_mean,
    late_window,
    least_bound_per_ns,
    least_mean,
    quiet_time_ps,
)
from halcyon.verdict.forms import Finding

CONFIDENCE = 0.95
TIME_PS = 40.0
POISSON = {"replicas": 1.0, "shape": 1e9, "confidence": 0.95}


def window(events, *, calm_ps=20.0, window_ps=20.0, gain_ps=0.0):
    return Window(
        events=events, active_at_begin=False, calm_ps=calm_ps, window_ps=window_ps, gain_ps=gain_ps
    )


# Events


def test_what_follows_within_the_quiet_time_is_the_same_event():
    activity = [(1.0, 1.1), (5.0, 5.1), (5.25, 5.3), (8.0, 8.05)]
    shown = late_window(activity, begin_ps=4.0, end_ps=10.0, quiet_ps=0.2)
    assert (shown.events, shown.active_at_begin) == (2, False)
    # By hand: 6 ps less 5.0 to 5.5 and 8.0 to 8.25.
    assert shown.calm_ps == pytest.approx(6.0 - 0.5 - 0.25)
    three = late_window(activity, begin_ps=4.0, end_ps=10.0, quiet_ps=0.1)
    assert three.events == 3


@pytest.mark.parametrize("activity", [[(3.0, 4.5)], [(3.0, 3.9)], [(1.0, 2.0), (2.1, 3.9)]])
def test_what_is_active_at_the_beginning_counts(activity):
    shown = late_window(activity, begin_ps=4.0, end_ps=10.0, quiet_ps=0.2)
    assert (shown.events, shown.active_at_begin) == (1, True)
    assert shown.calm_ps == pytest.approx(10.0 - activity[-1][1] - 0.2)


def test_always_active_is_an_event_without_any_calm():
    shown = late_window([(0.5, 10.0)], begin_ps=4.0, end_ps=10.0, quiet_ps=0.2)
    assert (shown.events, shown.active_at_begin, shown.calm_ps) == (1, True, 0.0)
    assert late_window([], begin_ps=4.0, end_ps=10.0, quiet_ps=0.2).calm_ps == 6.0
    # A replica that ended before the window.
    assert late_window([(1.0, 2.0)], begin_ps=4.0, end_ps=2.0, quiet_ps=0.2).window_ps == 0.0


def test_gaps_lie_between_activities_that_do_not_overlap():
    assert gaps_ps([]) == []
    assert gaps_ps([(4.0, 4.5), (1.0, 3.0), (2.0, 2.5)]) == [1.0]


def test_the_rate_does_not_depend_on_how_many_events_overlap():
    """In a large box events overlap; those that begin while it is calm show their rate."""
    random = np.random.default_rng(3)
    for per_ps in (0.1, 3.0):
        shown = []
        for _ in range(40):
            begins = np.sort(random.uniform(0, 200, random.poisson(per_ps * 200)))
            active = [(float(t), float(t + 0.05)) for t in begins]
            shown.append(late_window(active, begin_ps=20.0, end_ps=200.0, quiet_ps=0.2))
        rate = sum(w.events for w in shown) / sum(w.calm_ps for w in shown)
        assert rate == pytest.approx(per_ps, rel=0.05)


def test_quiet_time_is_measured_where_there_are_bursts():
    random = np.random.default_rng(4)
    lonely = random.exponential(10.0, 400)
    assert quiet_time_ps(lonely, 0.2) == pytest.approx(0.2, abs=0.5)
    # Bursts of six: gaps of 0.2 ps in them, of 10 ps between them.
    bursts = np.concatenate([random.exponential(0.2, 2000), lonely])
    assert 0.5 < quiet_time_ps(bursts, 0.2) < 2.5
    assert quiet_time_ps(bursts[:5], 0.2) == 0.2


# Bounds


def test_the_bounds_are_the_textbook_ones_for_equal_rates():
    # F. Garwood's table: 95 % one-sided limits of a count of 0, of 3 and of 5.
    assert greatest_mean(0, **POISSON) == pytest.approx(-math.log(0.05), rel=1e-6)
    assert greatest_mean(3, **POISSON) == pytest.approx(7.754, abs=1e-3)
    assert least_mean(5, **POISSON) == pytest.approx(1.970, abs=1e-3)
    assert least_mean(0, **POISSON) == 0.0


def test_without_events_uneven_replicas_show_less():
    # Each replica is without events with (1 + m/k)^-k, k = 1/2; eight of them together with 5 %.
    by_hand = 8 * 0.5 * (0.05 ** (-1 / (8 * 0.5)) - 1)
    shown = greatest_mean(0, replicas=8, shape=0.5, confidence=0.95)
    assert shown == pytest.approx(by_hand)
    # In 8 windows of 20 ps = 0.16 ns, of one molecule and of 1,000.
    least = least_bound_per_ns(8, window_ps=20.0, molecules=1, confidence=0.95)
    assert least == pytest.approx(by_hand / 0.16)
    many = least_bound_per_ns(8, window_ps=20.0, molecules=1000, confidence=0.95)
    assert many == pytest.approx(by_hand / 160)
    # One replica alone: 1/2 (0.05^-2 - 1)
    alone = least_bound_per_ns(1, window_ps=1000.0, molecules=1, confidence=0.95)
    assert alone == pytest.approx(0.5 * (400 - 1))


@pytest.mark.parametrize("shape", [0.5, 2.0, 1e6])
@pytest.mark.parametrize("mean", [0.5, 2.0, 20.0])
def test_the_bound_covers_uneven_replicas(shape, mean):
    random = np.random.default_rng(5)
    covered = []
    for _ in range(500):
        rates = random.gamma(shape, mean / shape, size=8)
        windows = [window(int(n)) for n in random.poisson(rates)]
        shown = bounds(windows, molecules=1, atoms=9, quiet_ps=0.2, confidence=CONFIDENCE)
        covered.append(shown.events_bound_per_ns >= mean / 0.02)
    assert np.mean(covered) > 0.92


def test_unevenness_is_assumed_until_events_show_more_or_less():
    assert evenness([window(0)] * 8) == (1.0, ASSUMED_SHAPE)
    assert evenness([window(5)]) == (1.0, ASSUMED_SHAPE)
    assert evenness([window(n) for n in (20, 22, 18, 21, 19, 20, 23, 17)])[1] > 5
    dispersion, shape = evenness([window(n) for n in (40, 0, 0, 0)])
    # By hand: mean 10, variance 400; shape = 10 / (40 - 1).
    assert dispersion == pytest.approx(40.0)
    assert shape == pytest.approx(10 / 39)
    assert evenness([window(1, window_ps=0.0)] * 4) == (1.0, ASSUMED_SHAPE)


def test_the_unreliable_fraction_is_bounded_over_replicas():
    alike = [window(1, gain_ps=0.1) for _ in range(8)]
    shown = bounds(alike, molecules=1, atoms=9, quiet_ps=0.0, confidence=0.95)
    assert shown.unreliable == pytest.approx(0.005)
    # Eight equal portions: the limit of a count of 8 is 14.43, of tables.
    assert shown.unreliable_bound == pytest.approx(0.1 * 14.43 / 160, rel=1e-3)
    # One event of 0.8 ps in one replica. A count of one portion may be 4.744 of them; uneven
    # replicas may hide more: the bound on events says how many.
    single = [window(1, gain_ps=0.8), *[window(0)] * 7]
    uneven = bounds(single, molecules=1, atoms=9, quiet_ps=0.0, confidence=0.95)
    assert uneven.unreliable == pytest.approx(0.005)
    assert uneven.unreliable_bound == pytest.approx(0.8 * uneven.events_bound_per_ns / 1000)
    assert uneven.unreliable_bound > 0.8 * 4.744 / 160
    none = bounds([window(0)] * 8, molecules=2, atoms=18, quiet_ps=0.2, confidence=0.95)
    # Events that were not seen: one of nine atoms for 0.2 ps each.
    by_hand = none.events_bound_per_ns / 1000 * 0.2 / 9
    assert none.unreliable_bound == pytest.approx(by_hand)


# Decorrelation


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_decorrelation_time_of_a_process_whose_time_is_known(memory):
    random = np.random.default_rng(6)
    series = np.zeros((8, 4000))
    for step in range(1, 4000):
        series[:, step] = memory * series[:, step - 1] + random.normal(size=8)
    # τ = ½ (1 + φ) / (1 - φ) for the autoregressive process of first order.
    expected = (1 + memory) / (1 - memory) * 0.025
    assert decorrelation_ps(list(series), 0.025) == pytest.approx(expected, rel=0.1)


def test_no_decorrelation_time_where_there_is_none():
    random = np.random.default_rng(7)
    assert decorrelation_ps([], 0.025) is None
    assert decorrelation_ps([np.full(100, 0.3)] * 4, 0.025) is None
    # Replicas that stay apart never decorrelate.
    apart = [level + 0.01 * random.normal(size=100) for level in (0.0, 1.0, 2.0)]
    assert decorrelation_ps(apart, 0.025) is None


# Findings


SETTINGS = Settings(exploration={"time_ps": TIME_PS}, saturation={"events_per_ns": 100.0})


def part_of(activities, *, settings=SETTINGS, failed=0, gains=None, **more):
    """The finding for replicas with these activities."""
    ends = [
        replica_end(
            number,
            TIME_PS / 3 if number < failed else TIME_PS,
            failure="bond broken" if number < failed else None,
            activity_ps=activity,
            **({"molecules": 1, "atoms": 9} | more),
        )
        for number, activity in enumerate(activities)
    ]
    traces = calm_traces(ends, gains)
    (part,) = calm_parts(traces, ends, settings, confidence=CONFIDENCE)
    return part


def test_calm_replicas_are_calm():
    part = part_of([[]] * 8)
    assert part.finding is Finding.SATURATED
    by_hand = 4 * (0.05 ** (-1 / 4) - 1) / 0.16
    assert part.events_bound_per_ns == pytest.approx(by_hand)
    assert part.reason.startswith("fewer than 27.9 events per ns and molecule, under 0.06%")
    assert (part.events, part.window_ps, part.calm_ps) == (0, 160.0, 160.0)


def test_events_over_the_limit_are_not_calm():
    part = part_of([[(25.0, 25.1), (30.0, 30.1), (35.0, 35.1)]] * 8)
    assert part.finding is Finding.NOT_SATURATED
    assert part.events == 24
    assert "events per ns and molecule (95 %), over 100" in part.reason


def test_a_replica_that_is_always_active_is_no_harmless_event():
    part = part_of([[(1.0, TIME_PS)]] * 8, gains=[13.0] * 8)
    assert part.finding is Finding.NOT_SATURATED
    assert part.reason == "some atom was unreliable all the time in each replica"
    assert part.events_bound_per_ns is None
    # Three of nine atoms of one replica of eight: a single event, and 4 % of the predictions.
    single = part_of([[(1.0, TIME_PS)], *[[]] * 7], gains=[13.0, *[0.0] * 7])
    assert single.events == 1
    assert single.finding is Finding.NOT_SATURATED
    assert single.unreliable_fraction == pytest.approx(13.0 / 39 / 8, rel=0.03)
    assert "of the atomic predictions may be unreliable" in single.reason


def test_active_only_at_the_beginning_of_the_window():
    part = part_of([[(19.0, 20.5)], *[[]] * 7])
    assert (part.events, part.active_at_begin) == (1, 1)
    assert part.finding is Finding.SATURATED


def test_failed_replicas_are_not_calm():
    part = part_of([[]] * 8, failed=1)
    assert part.finding is Finding.NOT_SATURATED
    assert part.reason == "1 of 8 replicas failed"
    every = part_of([[]] * 8, failed=8)
    assert every.finding is Finding.NOT_SATURATED
    assert every.events_bound_per_ns is None
    assert every.shortest_ps is None


def test_no_replicas_and_a_single_replica_show_nothing():
    empty = pd.DataFrame({"replica": [], "time": [], "cli_error": [], "expected_error": []})
    assert calm_parts(empty, [], SETTINGS, confidence=CONFIDENCE) == []
    alone = part_of([[]])
    assert alone.finding is Finding.NOT_ENOUGH_DATA
    assert "20 ps of 1 replica in the late window cannot show fewer than" in alone.reason


def test_lambda_star_means_the_same_for_few_and_many_molecules():
    """Eight waters alone and eight boxes of 1,000, at a tenth and at twice λ*, per molecule."""
    random = np.random.default_rng(8)
    for molecules in (1, 1000):
        for rate, finding in ((0.01, Finding.SATURATED), (0.2, Finding.NOT_SATURATED)):
            per_ps = rate * molecules
            activities = []
            for _ in range(8):
                begins = np.sort(random.uniform(0, TIME_PS, random.poisson(per_ps * TIME_PS)))
                activities.append([(float(t), float(t) + 0.01) for t in begins])
            part = part_of(activities, molecules=molecules, atoms=3 * molecules)
            if molecules > 1 and rate < 0.1:
                # 10 a ps begin in such a box at λ*/10: it is calm in one of eight moments.
                assert part.events_per_ns == pytest.approx(10.0, rel=0.2)
                assert part.events_bound_per_ns < 20.0
            assert part.finding is finding


def test_each_structure_and_temperature_is_judged():
    ends = [
        replica_end(n, TIME_PS, activity_ps=[], molecules=1, structure=s, temperature_K=t)
        for n, (s, t) in enumerate([("water", 300.0)] * 8 + [("water", 500.0)] * 2)
    ]
    parts = calm_parts(calm_traces(ends), ends, SETTINGS, confidence=CONFIDENCE)
    assert [(p.temperature_K, p.replicas, p.finding) for p in parts] == [
        (300.0, 8, Finding.SATURATED),
        (500.0, 2, Finding.NOT_ENOUGH_DATA),
    ]


def test_too_few_decorrelation_times_show_nothing():
    ends = [replica_end(n, TIME_PS, activity_ps=[], molecules=1, atoms=9) for n in range(8)]
    traces = calm_traces(ends)
    strict = Settings(exploration={"time_ps": TIME_PS}, saturation={"decorrelation_times": 1e5})
    (part,) = calm_parts(traces, ends, strict, confidence=CONFIDENCE)
    assert part.finding is Finding.NOT_ENOUGH_DATA
    assert part.decorrelation_times == pytest.approx(320 / part.decorrelation_ps)
    assert "320 ps in all are" in part.reason
    constant = traces.assign(expected_error=0.1)
    (part,) = calm_parts(constant, ends, SETTINGS, confidence=CONFIDENCE)
    assert part.finding is Finding.NOT_ENOUGH_DATA
    assert "nothing changed" in part.reason
    # Then the potential energy tells.
    energies = constant.assign(potential_energy=traces["expected_error"])
    (by_energy,) = calm_parts(energies, ends, SETTINGS, confidence=CONFIDENCE)
    (part,) = calm_parts(traces, ends, SETTINGS, confidence=CONFIDENCE)
    assert by_energy.finding is Finding.SATURATED
    assert by_energy.decorrelation_ps == part.decorrelation_ps


def test_files_of_early_releases_show_nothing():
    ends = [replica_end(n, TIME_PS) for n in range(8)]
    (part,) = calm_parts(calm_traces(ends), ends, SETTINGS, confidence=CONFIDENCE)
    assert part.finding is Finding.NOT_ENOUGH_DATA
    assert part.events_bound_per_ns is None
    assert "of an earlier release" in part.reason
    new = [end.model_copy(update={"activity_ps": [], "molecules": 1}) for end in ends]
    traces = calm_traces(new).drop(columns=["cli_error", "expected_error"])
    (part,) = calm_parts(traces, new, SETTINGS, confidence=CONFIDENCE)
    assert part.finding is Finding.NOT_ENOUGH_DATA
    assert "have no expected errors" in part.reason
