import numpy as np
import pandas as pd
import pytest
from fabricated import replica_end

from halcyon.verdict.estimates import Outcome, rate_bound
from halcyon.verdict.survival import (
    Ending,
    critical_cli,
    endings,
    failure_rate,
    kaplan_meier,
    median_ps,
    restricted_mean_ps,
)

# Remission times of 21 leukaemia patients, weeks (E. J. Freireich et al., Blood 21, 699, 1963):
# the example of most textbooks on survival analysis.
FAILED = [6, 6, 6, 7, 10, 13, 16, 22, 23]
CENSORED = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]


def textbook():
    return kaplan_meier(FAILED + CENSORED, [True] * len(FAILED) + [False] * len(CENSORED))


def exponential(random, n, *, mean=1.0, stop=1.0):
    """Failure times with one rate, stopped at `stop` if they have not failed by then."""
    times = random.exponential(mean, size=n)
    return np.minimum(times, stop), times < stop


def ends(cli, failed):
    return [Ending(time_ps=1.0, cli_ps=c, failed=f) for c, f in zip(cli, failed, strict=True)]


# Survival curves


def test_the_textbook_example():
    curve = textbook()
    steps = dict(zip(curve.at_ps, curve.survival, strict=True))
    # By hand: 18/21, then × 16/17, × 14/15, × 11/12, × 10/11, × 6/7, × 5/6.
    factors = [18 / 21, 16 / 17, 14 / 15, 11 / 12, 10 / 11, 6 / 7, 5 / 6]
    for at, expected in zip([6, 7, 10, 13, 16, 22, 23], np.cumprod(factors), strict=True):
        assert steps[at] == pytest.approx(expected)
    assert steps[35] == pytest.approx(0.4482, abs=1e-4)
    at_risk = dict(zip(curve.at_ps, curve.at_risk, strict=True))
    assert [at_risk[at] for at in (6, 7, 10, 13, 16, 22, 23)] == [21, 17, 15, 12, 11, 7, 6]
    assert curve.failures == 9
    # Published: median 23, interval from 13 without an upper end.
    median = median_ps(curve)
    assert (median.outcome, median.value, median.low) == (Outcome.ESTIMATED, 23, 13)
    assert median.high is None


def test_by_hand_without_censoring():
    curve = kaplan_meier([1, 2, 3, 4], [True] * 4)
    assert curve.survival == pytest.approx([0.75, 0.5, 0.25, 0])
    assert (curve.low <= curve.survival).all()
    assert (curve.survival <= curve.high).all()


def test_no_failure_is_an_outcome():
    curve = kaplan_meier([1.0, 2.0], [False, False])
    assert curve.survival == pytest.approx([1, 1])
    assert median_ps(curve).outcome is Outcome.NOT_ENOUGH_FAILURES


def test_a_median_that_is_not_reached():
    curve = kaplan_meier([1, 2, 3, 4, 5, *[9] * 10], [True] * 5 + [False] * 10)
    median = median_ps(curve)
    assert (median.outcome, median.value) == (Outcome.NOT_REACHED, None)
    assert median.low is not None


@pytest.mark.parametrize("values", [[], [1.0, -1.0], [1.0, np.nan], [1.0, np.inf]])
def test_nonsense_is_refused(values):
    with pytest.raises(ValueError):
        kaplan_meier(values, [True] * len(values))


def test_intervals_cover_an_exponential_with_censoring():
    random = np.random.default_rng(4)
    at, median = [], []
    for _ in range(400):
        # Stopped at random times, and at 1.5 at the latest.
        times, stops = random.exponential(size=30), random.uniform(0.5, 1.5, size=30)
        curve = kaplan_meier(np.minimum(times, stops), times < stops)
        i = np.searchsorted(curve.at_ps, 0.5, side="right") - 1
        at.append(curve.low[i] <= np.exp(-0.5) <= curve.high[i])
        estimate = median_ps(curve)
        high = np.inf if estimate.high is None else estimate.high
        median.append(estimate.low <= np.log(2) <= high)
    assert 0.92 < np.mean(at) < 0.99
    assert 0.92 < np.mean(median) < 0.99


# Restricted mean


def test_restricted_mean_by_hand():
    # Area: 1 to the first failure at 1, 3/4 to the next at 2, 3/8 from there (one was stopped).
    estimate = restricted_mean_ps(
        [1, 1.5, 2, 3], [True, False, True, False], horizon_ps=3, seed=1, resamples=50
    )
    assert estimate.value == pytest.approx(1 + 0.75 + 0.375)
    with pytest.raises(ValueError, match="horizon"):
        restricted_mean_ps([1, 2], [True, True], horizon_ps=2.5, seed=1)


def test_restricted_mean_is_the_area_under_the_curve():
    random = np.random.default_rng(2)
    times, failed = random.integers(1, 8, size=40).astype(float), random.random(40) < 0.6
    curve = kaplan_meier(times, failed)
    edges = np.append(curve.at_ps, 7.0)
    area = curve.at_ps[0] + np.sum(curve.survival * np.diff(edges))
    estimate = restricted_mean_ps(times, failed, horizon_ps=7, seed=1, resamples=10)
    assert estimate.value == pytest.approx(area)


def test_restricted_mean_covers():
    random = np.random.default_rng(3)
    expected = 1 - np.exp(-1)
    covered = []
    for seed in range(400):
        times, failed = exponential(random, 25)
        estimate = restricted_mean_ps(times, failed, horizon_ps=1, seed=seed, resamples=400)
        covered.append(estimate.low <= expected <= estimate.high)
    assert 0.90 < np.mean(covered) < 0.99


def test_no_failure_does_not_make_the_mean_certain():
    few = restricted_mean_ps([2.0] * 4, [False] * 4, horizon_ps=2, seed=1)
    many = restricted_mean_ps([2.0] * 100, [False] * 100, horizon_ps=2, seed=1)
    assert few.value == few.high == many.high == 2
    assert few.low == pytest.approx(2 * 0.025 ** (1 / 4))  # Clopper–Pearson: 0 of 4
    assert few.low < many.low < 2


# Rates


def test_the_bound_is_the_textbook_one():
    # Zero events: -ln(0.05)/W. Three events: Garwood's table gives 7.754.
    assert rate_bound(0, 2.0, 0.95) == pytest.approx(-np.log(0.05) / 2.0)
    assert rate_bound(3, 1.0, 0.95) == pytest.approx(7.754, abs=1e-3)


def test_the_poisson_bound_covers_single_and_pooled():
    random = np.random.default_rng(5)
    time_ps = random.uniform(2, 8, size=8)
    single = [rate_bound(n, 10, 0.95) >= 0.6 for n in random.poisson(6, size=1000)]
    counts = random.poisson(0.2 * time_ps, size=(1000, 8)).sum(axis=1)
    pooled = [rate_bound(n, time_ps.sum(), 0.95) >= 0.2 for n in counts]
    assert 0.93 < np.mean(single) < 0.99
    assert 0.93 < np.mean(pooled) < 0.99


def test_the_bound_covers_replicas_that_stop_when_they_fail():
    # The time is then random, too: the bound is no longer exact. It stays on the safe side.
    random = np.random.default_rng(6)
    covered = []
    for _ in range(1000):
        times, failed = exponential(random, 12, mean=3.0)
        rate = failure_rate(
            [Ending(time_ps=t, cli_ps=0, failed=f) for t, f in zip(times, failed, strict=True)]
        )
        covered.append(rate.bound_per_ps >= 1 / 3)
    assert 0.93 < np.mean(covered) < 0.99


def test_failure_rate():
    assert failure_rate(ends([0, 0], [True, False])).rate_per_ps == 0.5
    assert failure_rate(ends([0] * 8, [False] * 8)).bound_per_ps == pytest.approx(3.0 / 8, rel=1e-2)
    with pytest.raises(ValueError, match="no simulated time"):
        failure_rate([])


# Critical CLI


def test_critical_cli_recovers_a_known_threshold():
    # All fail at Λ = 2 ± 0.2, unless they are stopped before.
    random = np.random.default_rng(8)
    limit, reached = random.normal(2, 0.2, size=60), random.uniform(1, 4, size=60)
    critical = critical_cli(ends(np.minimum(limit, reached), limit < reached))
    assert critical.median.outcome is Outcome.ESTIMATED
    assert critical.median.low < 2 < critical.median.high
    assert critical.median.high - critical.median.low < 0.3
    assert critical.failures + critical.survivors == 60
    assert critical.missed.value == pytest.approx(0.5, abs=0.15)
    assert critical.false_alarms.value < 0.2


def test_critical_cli_says_what_it_does_not_know():
    few = critical_cli(ends([1, 2, 3, 4], [True] * 4))
    assert few.median.outcome is Outcome.NOT_ENOUGH_FAILURES
    assert few.median.value is None
    calm = critical_cli(ends([*[0.1] * 5, *[9] * 20], [True] * 5 + [False] * 20))
    assert calm.median.outcome is Outcome.NOT_REACHED
    assert calm.missed.value is None
    all_failed = critical_cli(ends([1, 2, 3, 4, 5, 6], [True] * 6))
    assert all_failed.median.value == 3
    assert all_failed.false_alarms.outcome is Outcome.NOT_ENOUGH_SURVIVORS


def test_endings_are_read_from_an_exploration():
    traces = pd.DataFrame(
        {"replica": [0, 0, 1], "time": [0.1, 0.2, 0.1], "cli_label": [0.01, 0.03, 0.02]}
    )
    replicas = [
        replica_end(0, 0.2),
        replica_end(1, 0.1, failure="bond broken"),
        replica_end(2, 0.0, failure="values not finite"),
    ]
    assert endings(traces, replicas) == [
        Ending(time_ps=0.2, cli_ps=0.03, failed=False),
        Ending(time_ps=0.1, cli_ps=0.02, failed=True),
        Ending(time_ps=0.0, cli_ps=0.0, failed=True),
    ]


# Warnings
