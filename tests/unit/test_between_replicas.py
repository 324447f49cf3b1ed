"""Prediction-powered intervals, against simulations of replicas whose frames are alike."""

import numpy as np
import pytest

from halcyon.verdict.between_replicas import Predicted, mean_interval, powered_interval

LABELLED, OTHERS = 10, 190


def simulated(random, *, replicas, between, noise):
    """Errors of frames drawn at random from lognormal histories of replicas, and predictions.

    A history has 60 points, each much like the one before (0.8 of it). Their mean is exp(0.08)
    whatever the shares, since the variances add up to 0.16.

    Args:
        random: source of randomness.
        replicas: that frames are drawn from.
        between: part of the variance that is between replicas.
        noise: standard deviation of the prediction's error; None: it knows nothing of the truth,
            and its own replicas differ just as much.
    """

    def histories():
        chain = np.empty((replicas, 60))
        chain[:, 0] = random.normal(size=replicas)
        for i in range(1, 60):
            chain[:, i] = 0.8 * chain[:, i - 1] + 0.6 * random.normal(size=replicas)
        shift = 0.4 * np.sqrt(between) * random.normal(size=(replicas, 1))
        return np.exp(shift + 0.4 * np.sqrt(1 - between) * chain)

    of_frame = random.integers(0, replicas, LABELLED + OTHERS)
    when = random.integers(0, 60, LABELLED + OTHERS)
    values = histories()[of_frame, when]
    predicted = (
        histories()[of_frame, when]
        if noise is None
        else np.abs(values + noise * random.normal(size=len(values)))
    )
    return (
        values[:LABELLED],
        of_frame[:LABELLED],
        Predicted(
            measured=predicted[:LABELLED],
            others=predicted[LABELLED:],
            replicas=of_frame[LABELLED:],
        ),
    )


def compared(*, replicas, between, noise, runs=600):
    """Of both intervals, plain first: how often upper and lower ends hold, and median upper end."""
    random, truth = np.random.default_rng(23), np.exp(0.08)
    ends = []
    while len(ends) < runs:
        values, of_frame, predicted = simulated(
            random, replicas=replicas, between=between, noise=noise
        )
        if len(set(of_frame.tolist())) > 1:
            plain = mean_interval(values, of_frame, 0.95)
            powered, _ = powered_interval(values, of_frame, predicted, 0.95)
            ends.append([[i.low, i.high] for i in (plain, powered)])
    low, high = np.moveaxis(np.array(ends), 2, 0)
    return (high >= truth).mean(axis=0), (low <= truth).mean(axis=0), np.median(high, axis=0)


SIGMA = np.sqrt(0.05 * 0.95 / 600)
"""Standard deviation of a measured coverage of 95 % by chance."""


@pytest.mark.parametrize("replicas", [2, 4, 8])
@pytest.mark.parametrize("between", [0.0, 0.3])
def test_a_useless_prediction_makes_no_interval_narrower(replicas, between):
    upper, lower, median = compared(replicas=replicas, between=between, noise=None)
    assert upper[1] > upper[0] - SIGMA, "holds as often as the plain one"
    assert upper[1] > 0.95 - 0.05 - 3 * SIGMA, "as much under 95 % as the plain one may be"
    assert lower[1] > 0.95 - 3 * SIGMA
    # Medians of 600 skewed ends are good to some 2 %.
    assert median[0] * 0.98 < median[1] < median[0] * 1.12


@pytest.mark.parametrize("replicas", [4, 8])
@pytest.mark.parametrize("between", [0.0, 0.3])
def test_a_good_prediction_makes_it_narrower_and_it_holds(replicas, between):
    upper, lower, median = compared(replicas=replicas, between=between, noise=0.1)
    assert upper[1] > upper[0] - SIGMA
    assert upper[1] > 0.95 - 0.05 - 3 * SIGMA
    assert lower[1] > 0.95 - 3 * SIGMA
    assert median[1] - 1 < 0.85 * (median[0] - 1)


def test_tuning_on_all_frames_at_once_would_cheat():
    """Why each replica's factor is that of the others: two replicas have no spread left then."""
    random = np.random.default_rng(5)
    spreads = []
    for _ in range(50):
        values, of_frame, predicted = simulated(random, replicas=2, between=0.3, noise=None)
        sums = [
            np.bincount(of_frame, part - part.mean(), 2) / LABELLED
            for part in (values, predicted.measured)
        ]
        sums[1] -= (
            np.bincount(predicted.replicas, predicted.others - predicted.others.mean(), 2) / OTHERS
        )
        best = sums[0] @ sums[1] / (sums[1] @ sums[1])
        spreads.append(np.abs(sums[0] - best * sums[1]).max() / np.abs(sums[0]).max())
    assert max(spreads) < 1e-6


def test_a_constant_prediction_leaves_the_plain_interval():
    values, of_frame, predicted = simulated(
        np.random.default_rng(1), replicas=4, between=0.2, noise=0.1
    )
    constant = Predicted(
        measured=np.full(LABELLED, 3.0), others=np.full(OTHERS, 3.0), replicas=predicted.replicas
    )
    interval, factor = powered_interval(values, of_frame, constant, 0.95)
    plain = mean_interval(values, of_frame, 0.95)
    assert factor == 0.0
    assert [interval.value, interval.low, interval.high] == pytest.approx(
        [plain.value, plain.low, plain.high]
    )


def test_the_mean_is_corrected_by_what_is_predicted_of_the_others():
    """By hand: four frames of two replicas whose errors are just as predicted, 1 to 4, mean 2.5.

    Of the eight others, four in each replica, 4 to 7 are predicted, mean 5.5. No replica has three
    labelled frames besides its own, so none is used; with two more replicas of two each, the factor
    of each replica is 1/(1 + 8/8), since measured and predicted are equal: the mean is
    2.5 + 0.5 (5.5 - 2.5).
    """
    few = Predicted(
        measured=np.arange(1.0, 5.0),
        others=np.tile(np.arange(4.0, 8.0), 2),
        replicas=np.repeat([0, 1], 4),
    )
    interval, factor = powered_interval(np.arange(1.0, 5.0), np.array([0, 0, 1, 1]), few, 0.9)
    assert (interval.value, factor) == (2.5, 0.0)
    values = np.tile(np.arange(1.0, 5.0), 2)
    more = Predicted(measured=values, others=few.others, replicas=np.repeat([0, 1, 2, 3], 2))
    interval, factor = powered_interval(values, np.repeat([0, 1, 2, 3], 2), more, 0.9)
    assert factor == pytest.approx(0.5)
    assert interval.value == pytest.approx(4.0)


def test_a_mean_that_would_not_be_positive_is_the_plain_one():
    values = np.array([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    of_frame = np.array([0, 0, 1, 1, 2, 2])
    far_below = Predicted(
        measured=10 * values, others=np.full(90, -100.0), replicas=np.tile([0, 1, 2], 30)
    )
    interval, factor = powered_interval(values, of_frame, far_below, 0.95)
    assert (interval, factor) == (mean_interval(values, of_frame, 0.95), 0.0)
