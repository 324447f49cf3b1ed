"""Intervals of a mean over frames that come from a few replicas.

    import numpy as np
    from halcyon.verdict.between_replicas import mean_interval

    errors, replicas = np.array([20.0, 25.0, 31.0, 24.0]), np.array([0, 0, 1, 2])
    mean_interval(errors, replicas, confidence=0.95).high

Frames of one replica resemble each other, so that the replica is the unit of every interval. There
are few replicas, and errors are skewed: resampling them gives upper ends that hold in 59 to 92 %
of cases where 95 % are asked for (lognormal errors, 2 to 8 replicas, 10 frames). So the logarithm
of the mean gets a Student interval, from the spread between replicas, with as many degrees of
freedom as equally large replicas of the same spread of sizes would have, less one (L. Kish, Survey
Sampling, 1965, for that number). It holds in 88 to 96 % of the same cases.

Where a cheap prediction of the error is known for many more frames, `powered_interval` uses it
(prediction-powered inference: A. N. Angelopoulos et al., Science 382, 669, 2023). Any prediction is
allowed: a bad one makes no interval wrong. How much of it is used is tuned, so that a useless one
is hardly used (J. N. K. Rao's difference estimator with its optimal factor; PPI++, A. N.
Angelopoulos, J. C. Duchi, T. Zrnic, arXiv:2311.01453, 2023). Two or eight replicas cannot tune and
measure at once, since a factor that suits them best would leave no spread at all: each replica's
factor comes from the labelled frames of the others.

Not for: what is measured (`audit`), or numbers of one replica (`estimates`).
"""

from dataclasses import dataclass

import numpy as np

from halcyon.verdict.estimates import Interval

FEWEST_TO_TUNE = 3
"""With fewer labelled frames of other replicas, a replica does not use its predictions."""
WIDEST = 1000.0
"""Factor from a value to the end of its interval at most: a wider one says nothing more."""


def mean_interval(values: np.ndarray, replicas: np.ndarray, confidence: float) -> Interval:
    """Mean of positive values of n frames, with the interval that the module describes.

    Args:
        values: shape (n,).
        replicas: the replica of each, shape (n,); at least two differ.
        confidence: one-sided, of each end.
    """
    mean = float(values.mean())
    if mean <= 0:
        return Interval(value=0.0, low=0.0, high=0.0)
    relative = spread_of_mean(values - mean, replicas) / mean
    return logarithmic(mean, relative, replicas, confidence)


def logarithmic(value: float, relative: float, replicas: np.ndarray, confidence: float) -> Interval:
    """Student's interval of the logarithm of a value with this relative standard error."""
    factor = float(np.exp(min(student(replicas, confidence) * relative, np.log(WIDEST))))
    return Interval(value=value, low=value / factor, high=value * factor)


def spread_of_mean(deviations: np.ndarray, replicas: np.ndarray) -> float:
    """Standard error of a mean, from deviations of single frames added up by replica."""
    names, of_frame = np.unique(replicas, return_inverse=True)
    sums = np.bincount(of_frame, weights=deviations)
    number = len(names)
    return float(np.sqrt(number / (number - 1) * (sums**2).sum()) / len(deviations))


def student(replicas: np.ndarray, confidence: float) -> float:
    """Quantile of Student's distribution for replicas of unequal numbers of frames."""
    from scipy import stats

    sizes = np.unique(replicas, return_counts=True)[1]
    effective = len(replicas) ** 2 / float((sizes**2).sum())
    return float(stats.t.ppf(confidence, max(effective - 1, 0.5)))


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Cheap predictions of a number for frames of which some are measured.

    Attributes:
        measured: for the n measured frames, shape (n,).
        others: for m frames that are not measured, drawn from the same dynamics, shape (m,).
        replicas: the replica of each of the others, shape (m,).
    """

    measured: np.ndarray
    others: np.ndarray
    replicas: np.ndarray


def powered_interval(
    values: np.ndarray, replicas: np.ndarray, predicted: Predicted, confidence: float
) -> tuple[Interval, float]:
    """Prediction-powered mean of positive values of n frames, as the module describes.

    Args:
        values: measured, shape (n,).
        replicas: the replica of each, shape (n,); at least two differ.
        predicted: for these frames and for at least one other.
        confidence: one-sided, of each end.

    Returns:
        The mean with its interval, and the factor that the predictions had, on average: 0 to 1.
        Where the mean would not be positive, it is the plain one, with the factor 0.
    """
    number, others = len(values), len(predicted.others)
    names = np.unique([*replicas, *predicted.replicas])
    factors = np.array(
        [
            _factor(values[kept], predicted.measured[kept], number / others)
            for kept in (replicas != name for name in names)
        ]
    )
    where, other_where = (
        np.searchsorted(names, replicas),
        np.searchsorted(names, predicted.replicas),
    )
    centre = np.concatenate([predicted.measured, predicted.others]).mean()
    corrected = values - factors[where] * (predicted.measured - centre)
    correction = factors[other_where] * (predicted.others - centre)
    mean = float(corrected.mean() + correction.mean())
    if mean <= 0:
        return mean_interval(values, replicas, confidence), 0.0
    sums = np.bincount(where, corrected - corrected.mean(), len(names)) / number
    sums += np.bincount(other_where, correction - correction.mean(), len(names)) / others
    independent = len(np.unique(replicas))
    spread = float(np.sqrt(independent / (independent - 1) * (sums**2).sum()))
    interval = logarithmic(mean, spread / mean, replicas, confidence)
    return interval, float(factors[where].mean())


def _factor(values: np.ndarray, predicted: np.ndarray, ratio: float) -> float:
    """The factor of predictions that makes the mean's variance least, between 0 and 1.

    Args:
        values: measured, shape (k,).
        predicted: for the same frames, shape (k,).
        ratio: number of measured frames over that of others.
    """
    if len(values) < FEWEST_TO_TUNE or np.ptp(predicted) == 0:
        return 0.0
    covariance = np.cov(values, predicted)
    return float(np.clip(covariance[0, 1] / covariance[1, 1] / (1 + ratio), 0.0, 1.0))
