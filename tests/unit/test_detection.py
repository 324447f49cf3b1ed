import itertools

import numpy as np
import pytest
from scipy import stats

from halcyon.verdict.estimates import Outcome
from validity.detection import detection, fails_within, lead_time


def test_what_counts_as_shortly_before_a_failure():
    time = np.array([0.0, 0.8, 1.0, 0.0, 0.8, 1.0])
    failed = np.array([True] * 3 + [False] * 3)
    truth, known = fails_within(time, np.ones(6), failed, horizon_ps=0.3)
    assert truth.tolist() == [False, True, True, False, False, False]
    assert known.tolist() == [True, True, False, True, False, False]


def points(random, n_replicas, n_points, *, gain=1.0, own=0.0):
    """Replicas with points; a third of those of each even replica are before its failure."""
    replica = np.repeat(np.arange(n_replicas), n_points)
    truth = (replica % 2 == 0) & (np.tile(np.arange(n_points), n_replicas) >= 2 * n_points // 3)
    score = random.normal(size=len(replica)) + gain * truth
    score += own * np.repeat(random.normal(size=n_replicas), n_points)
    return score, truth, replica


def test_auroc_is_the_pair_count():
    random = np.random.default_rng(9)
    score, truth, replica = points(random, 12, 9)
    score = np.round(score)  # with ties
    pairs = list(itertools.product(score[truth], score[~truth]))
    wins = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    found = detection(score, truth, replica, false_alarm_rate=0.1, seed=1, resamples=200)
    assert found.auroc.value == pytest.approx(wins)
    assert found.auroc.low < wins < found.auroc.high
    hits = [
        np.mean(score[truth] >= limit)
        for limit in np.unique(score)
        if np.mean(score[~truth] >= limit) <= 0.1
    ]
    assert found.hit_rate.value == pytest.approx(max(hits))


def test_a_useless_and_a_perfect_score():
    _, truth, replica = points(np.random.default_rng(1), 12, 9)
    constant = detection(np.zeros(len(truth)), truth, replica, false_alarm_rate=0.1, seed=1)
    assert constant.auroc.value == constant.auroc.low == constant.auroc.high == 0.5
    assert constant.hit_rate.value == 0
    score = np.where(truth, np.inf, 0.0)
    perfect = detection(score, truth, replica, false_alarm_rate=0.1, seed=1)
    assert perfect.auroc.value == perfect.hit_rate.value == 1
    with pytest.raises(ValueError, match="NaN"):
        detection(score * np.nan, truth, replica, false_alarm_rate=0.1, seed=1)


def test_what_a_score_gains_over_another_is_bounded_more_closely_than_either():
    score, truth, replica = points(np.random.default_rng(3), 60, 10)
    other = score + np.random.default_rng(4).normal(scale=0.3, size=len(score))
    options = {"false_alarm_rate": 0.1, "seed": 1, "resamples": 200}
    found = detection(score, truth, replica, against=other, **options)
    beaten = detection(other, truth, replica, **options)
    assert found.gain.value == pytest.approx(found.auroc.value - beaten.auroc.value)
    assert found.gain.low < found.gain.value < found.gain.high
    assert found.gain.high - found.gain.low < 0.5 * (found.auroc.high - found.auroc.low)
    assert detection(score, truth, replica, against=score, **options).gain.high == 0
    assert beaten.gain.value == pytest.approx(beaten.auroc.value - 0.5)  # by default over chance


def test_too_few_failures_give_no_auroc():
    score, truth, replica = points(np.random.default_rng(1), 8, 9)
    found = detection(score, truth, replica, false_alarm_rate=0.1, seed=1)
    assert found.auroc.outcome is Outcome.NOT_ENOUGH_FAILURES
    assert found.auroc.value is None


def test_intervals_count_replicas_not_points():
    # Each replica has a level of its own: its 30 points are hardly more than one.
    random = np.random.default_rng(10)
    score, truth, _ = points(random, 4000, 6, gain=2, own=2)
    wins = stats.mannwhitneyu(score[truth], score[~truth]).statistic
    expected = wins / (truth.sum() * (~truth).sum())
    covered = []
    for seed in range(150):
        score, truth, replica = points(random, 30, 30, gain=2, own=2)
        found = detection(score, truth, replica, false_alarm_rate=0.1, seed=seed, resamples=200)
        covered.append(found.auroc.low <= expected <= found.auroc.high)
    assert np.mean(covered) > 0.87


def warnings(rise_ps, *, survivors=19, doomed=8):
    """Survivors score at most 1; doomed ones exceed it `rise_ps` before they fail at 1 ps."""
    time = np.tile(np.arange(0, 1.01, 0.1), survivors + doomed)
    replica = np.repeat(np.arange(survivors + doomed), 11)
    failed = replica >= survivors
    doomed_score = np.where(time >= 1 - rise_ps - 1e-9, 5.0, 0.0)
    score = np.where(failed, doomed_score, replica / survivors * 0.9)
    return score, time, replica, np.ones(len(time)), failed


def test_lead_time_by_hand():
    found = lead_time(*warnings(0.3), false_alarm_rate=0.05, seed=1)
    assert found.threshold == pytest.approx(18 / 19 * 0.9)  # the greatest of 19 survivors
    assert found.median_ps.value == pytest.approx(0.3)
    assert found.warned.value == 1
    assert found.warned.low == pytest.approx(0.025 ** (1 / 8))  # Clopper–Pearson: 8 of 8
    lax = lead_time(*warnings(0.3), false_alarm_rate=0.5, seed=1)
    assert lax.threshold == pytest.approx(9 / 19 * 0.9)


def test_a_warning_at_the_failure_itself_is_none():
    found = lead_time(*warnings(0.0), false_alarm_rate=0.05, seed=1)
    assert found.median_ps.value == 0
    assert found.warned.value == 0


def test_lead_time_needs_failures_and_survivors():
    few = lead_time(*warnings(0.3, doomed=4), false_alarm_rate=0.1, seed=1)
    assert few.median_ps.outcome is Outcome.NOT_ENOUGH_FAILURES
    short = lead_time(*warnings(0.3, survivors=8), false_alarm_rate=0.1, seed=1)
    assert short.warned.outcome is Outcome.NOT_ENOUGH_SURVIVORS
    assert short.threshold is None


def test_new_survivors_are_warned_about_as_rarely_as_promised():
    random = np.random.default_rng(11)
    alarms = []
    for seed in range(300):
        maxima = random.normal(size=25)
        score = np.append(maxima[:19], np.full(6, 9.0))
        replica, time = np.arange(25), np.full(25, 0.5)
        failed = replica >= 19
        found = lead_time(
            score, time, replica, np.ones(25), failed, false_alarm_rate=0.1, seed=seed, resamples=1
        )
        alarms.append(np.mean(random.normal(size=100) > found.threshold))
    assert np.mean(alarms) == pytest.approx(0.1, abs=0.01)
