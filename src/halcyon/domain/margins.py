"""Thresholds from held-out frames, and how well they are kept on frames used for nothing.

    import numpy as np
    from halcyon.domain.margins import calibrate_margin, exceedance

    scores = [np.random.default_rng(number).normal(size=9) for number in range(50)]
    margin = calibrate_margin(scores, 1e-3, seed=1)
    margin.low, margin.value, margin.high
    exceedance([frame > margin.value for frame in scores]).text

Not for: what a score is (see `intervals` and `signals`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from halcyon.errors import InputError
from halcyon.verdict.estimates import Interval

TAIL = 0.15
"""Part of the scores that counts as their tail."""
FEWEST_TAIL_POINTS = 10
"""With fewer points in the tail a generalised Pareto fit says nothing; split conformal is used."""
TAIL_POINTS_FOR_SHAPE = 200
"""With fewer, the tail is taken as exponential: a shape fitted to 16 to 25 points put margins of
successive generations at 0.01 to 5 widths, the exponential at 0.15 to 0.9."""


@dataclass(frozen=True, kw_only=True)
class Margin(Interval):
    """A calibrated threshold, with its 90 % bootstrap interval, and how far it can be trusted.

    Attributes:
        value: the threshold, ≥ 0; of the label domain: its margin m/(u - l).
        method: `peaks-over-threshold`, `conformal` or `quantile`.
        alpha: exceedance per atom it is made for: as asked, or, where the sample is too small for
            that, 1/(n + 1).
        n: number of held-out atomic energies it rests on.
    """

    method: str
    alpha: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Exceedance:
    """How often atoms are outside.

    Attributes:
        fraction: part of the atoms that is outside.
        low: lower end of its exact 95 % (Clopper-Pearson) interval.
        high: upper end.
        atoms: number of atoms it rests on.
    """

    fraction: float
    low: float
    high: float
    atoms: int

    @property
    def text(self) -> str:
        """`0.50% of atoms outside (95 %: 0.10%–1.20%)`."""
        return f"{self.fraction:.2%} of atoms outside (95 %: {self.low:.2%}–{self.high:.2%})"


def calibrate_margin(
    scores: Sequence[np.ndarray],
    alpha: float,
    *,
    seed: int,
    floor: float = 0.0,
    resamples: int = 500,
) -> Margin:
    """Threshold beyond which an in-distribution atom lies with probability `alpha`.

    1. The scores of all frames are pooled. The largest 15 % are their tail.
    2. Peaks over threshold: a generalised Pareto distribution is fitted to the tail by L-moments
       (J. R. M. Hosking and J. R. Wallis, Technometrics 29, 339, 1987), see `_tail_quantile`. The
       threshold is its quantile that a score exceeds with probability `alpha`.
    3. Where the tail has too few points, split conformal: the threshold is the greatest score,
       which a further draw exceeds with probability 1/(n + 1).
    4. Where `alpha` is 15 % or more, it is not in the tail: the threshold is the scores' quantile.
    5. Its interval comes from a bootstrap over frames.
    6. Threshold and interval are raised to `floor`.

    Args:
        scores: per held-out frame, the raw scores of its atoms, e.g. `bounds.signed_scores`.
        alpha: exceedance per atom that is asked for.
        seed: of the bootstrap over frames.
        floor: least threshold, e.g. the greatest score on the training structures.
        resamples: bootstrap samples.

    Raises:
        InputError: no held-out frames at all.
    """
    if not scores:
        raise InputError(
            "the domain cannot be calibrated: no held-out frame has a label. Raise "
            "seed_labels.validation, or see in the summary why those labels failed"
        )
    pooled = np.concatenate(scores)
    fitted = _tail_quantile(pooled, alpha)
    if fitted is None:
        method, alpha, value = "conformal", 1 / (len(pooled) + 1), float(pooled.max())
    else:
        method, value = "quantile" if alpha >= TAIL else "peaks-over-threshold", fitted
    rng = np.random.default_rng(seed)
    bootstrap = []
    for _ in range(resamples):
        drawn = np.concatenate([scores[i] for i in rng.integers(len(scores), size=len(scores))])
        resampled = _tail_quantile(drawn, alpha) if method != "conformal" else drawn.max()
        if resampled is not None:
            bootstrap.append(resampled)
    low, high = np.quantile(bootstrap, [0.05, 0.95]) if bootstrap else (value, value)
    return Margin(
        value=max(floor, value),
        low=max(floor, float(low)),
        high=max(floor, float(high)),
        method=method,
        alpha=alpha,
        n=len(pooled),
    )


def _tail_quantile(scores: np.ndarray, alpha: float) -> float | None:
    """Score exceeded with probability alpha; None where there are too few points for it.

    With l₁ and l₂ the first two L-moments of the excesses over the tail's begin, the shape is
    2 - l₁/l₂ and the scale l₁ · (1 - shape).
    """
    if alpha >= TAIL and len(scores) >= FEWEST_TAIL_POINTS:
        return float(np.quantile(scores, 1 - alpha))
    in_tail = int(TAIL * len(scores))
    if in_tail < FEWEST_TAIL_POINTS:
        return None
    from scipy import stats

    ordered = np.sort(scores)
    begin = ordered[-in_tail - 1]
    excess = ordered[-in_tail:] - begin
    first, second = stats.lmoment(excess, order=[1, 2])
    if second <= 0:
        return float(ordered[-1])
    # Atomic energies are about quadratic in thermal displacements: their tail is no heavier than
    # exponential, and exponential is what a tail too short to show its own shape is taken for.
    shape = min(0.0, 2 - first / second) if in_tail >= TAIL_POINTS_FOR_SHAPE else 0.0
    scale = first * (1 - shape)
    return float(begin + stats.genpareto.isf(alpha * len(scores) / in_tail, shape, scale=scale))


def exceedance(outside: Sequence[np.ndarray]) -> Exceedance | None:
    """How often atoms are outside; None without frames.

    The interval takes atoms for independent, which those of one frame are not quite.

    Args:
        outside: per frame, whether each atom is outside.
    """
    if not outside:
        return None
    from scipy import stats

    pooled = np.concatenate(list(outside))
    interval = stats.binomtest(int(pooled.sum()), pooled.size).proportion_ci(0.95)
    return Exceedance(
        fraction=float(pooled.mean()),
        low=float(interval.low),
        high=float(interval.high),
        atoms=int(pooled.size),
    )
