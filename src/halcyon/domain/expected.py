"""Expected force errors: from a signal's raw distance of an atom to eV/Å.

A signal is a number without a meaning until it is held against errors. Here it is, on *pairs* of
single atoms: the signal's raw distance, and the force error |F_model - F_reference| of a frame that
was labelled before the model learned from it.

1. Of some atoms and a signal, pairs in the order of their distance are averaged in groups of
   `GROUP`, and the error is fitted as a function of the distance that never falls (isotonic
   regression: R. E. Barlow et al., Statistical Inference under Order Restrictions, 1972;
   scikit-learn's). Beyond the greatest distance it grows as a power of the distance: the slope of
   ln(error) over ln(distance) within classes, at least 1 and at most `GREATEST_GROWTH`.
2. The curve of a class leans on that of its element, and this on that of all atoms (partial
   pooling: B. Efron, C. Morris, J. Am. Stat. Assoc. 70, 311, 1975): of the logarithm of the error,
   n / (n + `EVEN_FRAMES`) is of its own pairs, which are of n frames. So a scale that few frames
   give a class is believed half.
3. Signals are compared on errors predicted by cross-validation over frames: by AUROC (0.5 is
   chance) for "error over the tolerance", bad and good atoms of one class against each other; or,
   with too few bad atoms, by the squared error of the logarithm of the error. A signal whose AUROC
   may be chance is *blind* and does not decide, unless all are.
4. The best signal decides; or all that see together, where that is better beyond its uncertainty:
   the geometric mean of their expected errors, calibrated once more as in 1, for all atoms alike.
5. What is acted upon is the upper end of the curve's 90 % interval (bootstrap over frames): few
   frames near equilibrium let expect too little where the dynamics goes. With frames, the interval
   gets narrow.

    import numpy as np
    from halcyon.domain.curves import Pairs
    from halcyon.domain.expected import fit_expected

    random = np.random.default_rng(1)
    distance = random.uniform(0, 3, 300)
    pairs = Pairs(
        distances={"latent": distance},
        error=0.1 * distance * random.exponential(size=300),
        classes=np.repeat(["H", "O"], 150),
        frame=np.arange(300) // 10,
        weight=np.ones(300),
    )
    expected = fit_expected(pairs, {"H": "H", "O": "O"}, tolerance_eV_per_A=0.3, seed=1)
    expected.curves["latent"]["O"].limit  # distance from which an atom of O is unreliable

Not for: the curves themselves (see `curves`), raw distances (`signals`), or where pairs come from
(`calibration`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from halcyon.domain.curves import (
    SMALLEST_ERROR_EV_PER_A,
    Curve,
    Layer,
    Pairs,
    leaning,
    of_classes,
    steps,
)
from halcyon.verdict.estimates import Interval

FOLDS = 5
FEWEST_BAD = 10
"""With fewer atoms over the tolerance, or fewer within it, no AUROC is given."""
FEWEST_BAD_FRAMES = 5
"""They must be of so many frames: the interval is a bootstrap over frames."""
RESAMPLES = 200
LEANING = 0.5
"""A class with a smaller part in its own curve is named."""
COMPARED_ONLY = ("bond_stretch", "potential_energy")
"""Signals that never decide: monitors for comparison, which know no environment of an atom."""
COMBINED = "combination"


@dataclass(frozen=True, kw_only=True)
class Skill:
    """How well a signal foretells force errors, by cross-validation over frames.

    Attributes:
        auroc: probability that a bad atom (error over the tolerance) has a greater expected error
            than a good one of its class, with its 95 % bootstrap interval; None: too few bad atoms.
        log_error: root mean square of ln(expected error) - ln(error).
        blind: whether the AUROC may be 0.5, which is chance.
    """

    auroc: Interval | None
    log_error: float
    blind: bool

    @property
    def rank(self) -> float:
        """Greater is better; all signals are ranked by AUROC, or all by `log_error`."""
        return -self.log_error if self.auroc is None else self.auroc.value


@dataclass(frozen=True, kw_only=True)
class ExpectedErrors:
    """From raw distances to expected force errors.

    Attributes:
        tolerance_eV_per_A: an atom with a greater expected error is unreliable.
        signals: whose distances decide; of several, the geometric mean of their expected errors.
        curves: per deciding signal and class of atoms.
        combined: calibrates the geometric mean; None where a single signal decides.
        skill: of each signal that was compared, and of `combination`.
        frames: number of frames that the pairs are of.
        pairs: number of pairs.
        bad: number of these whose error is over the tolerance.
    """

    tolerance_eV_per_A: float
    signals: list[str]
    curves: dict[str, dict[str, Curve]]
    combined: Curve | None = None
    skill: dict[str, Skill] = field(default_factory=dict)
    frames: int = 0
    pairs: int = 0
    bad: int = 0

    @property
    def deciding(self) -> str:
        """Name of what decides: a signal, or `combination`."""
        return COMBINED if self.combined else self.signals[0]

    def at(self, distances: Mapping[str, np.ndarray], classes: Sequence[str]) -> np.ndarray:
        """Expected errors of N atoms.

        Args:
            distances: per deciding signal, shape (N,).
            classes: class of each atom.

        Returns:
            Shape (N,), eV/Å.
        """
        mean = _mean(self.curves, distances, np.asarray(classes))
        return mean if self.combined is None else self.combined.at(mean)

    def lines(self) -> Iterator[str]:
        """Sentences for people: what decides, how well it sees, and what is extrapolated."""
        skill = self.skill.get(self.deciding)
        what = " and ".join(self.signals)
        yield (
            f"An atom is unreliable where its expected force error{self._end()} is over "
            f"{self.tolerance_eV_per_A:g} eV/Å; {what} decide{'s' * (len(self.signals) == 1)}: "
            f"{self._skill_text(skill)}"
        )
        if blind := [name for name, of in self.skill.items() if of.blind]:
            yield f"blind, no better than chance at finding bad atoms: {', '.join(blind)}"
        if skill and skill.blind:
            yield "all signals are blind: the index cannot be trusted to see errors"
        curves = self.curves[self.signals[0]]
        limits = {"all atoms": self.combined} if self.combined else curves
        if beyond := [curve.extrapolated for curve in limits.values() if curve.extrapolated > 1]:
            yield (
                f"{len(beyond)} of {len(limits)} limits are extrapolated, by a factor of up to "
                f"{max(beyond):.3g}: no pair there is expected to be that wrong"
            )
        if leaning := [name for name, curve in curves.items() if curve.own < LEANING]:
            yield (
                f"few frames of their own, so that their expected errors are mostly by pairs of "
                f"other classes: {', '.join(leaning)}"
            )

    def _end(self) -> str:
        """Which end of an interval is acted upon, as a part of a sentence."""
        deciding = self.combined or next(iter(self.curves[self.signals[0]].values()))
        return ", at the upper end of its 90 % interval," if deciding.cautious else ""

    def _skill_text(self, skill: Skill | None) -> str:
        measured = f"{self.pairs} atoms of {self.frames} frames, {self.bad} of them bad"
        if skill is None:
            return "nothing was measured"
        if skill.auroc is None:
            return f"too few bad atoms for an AUROC ({measured})"
        auroc = skill.auroc
        return f"AUROC {auroc.value:.2f} (95 %: {auroc.low:.2f}–{auroc.high:.2f}; {measured})"

    def content(self) -> dict[str, Any]:
        """As plain JSON. What was not measured, or is not there, is `{}`."""
        content = asdict(self)
        content["combined"] = content["combined"] or {}
        for entry in content["skill"].values():
            entry["auroc"] = entry["auroc"] or {}
        return content

    @classmethod
    def of(cls, content: dict[str, Any]) -> "ExpectedErrors":
        """From what `content` gives."""
        combined = content["combined"]
        return cls(
            **content
            | {
                "curves": {
                    signal: {name: Curve(**curve) for name, curve in curves.items()}
                    for signal, curves in content["curves"].items()
                },
                "combined": Curve(**combined) if combined else None,
                "skill": {
                    name: Skill(
                        **entry | {"auroc": Interval(**entry["auroc"]) if entry["auroc"] else None}
                    )
                    for name, entry in content["skill"].items()
                },
            }
        )


def fit_expected(
    pairs: Pairs, elements: Mapping[str, str], *, tolerance_eV_per_A: float, seed: int
) -> ExpectedErrors:
    """Compare signals, and fit what decides; see the module for the method.

    Args:
        pairs: at least one pair whose distance by all signals is known.
        elements: chemical symbol of every class that an atom may have.
        tolerance_eV_per_A: an atom with a greater expected error is unreliable.
        seed: of bootstraps.
    """
    known = pairs.known(list(pairs.distances))
    trial = _Trial(known, elements, tolerance_eV_per_A, seed)
    names = list(known.distances)
    predicted = {name: trial.foretold([name]) for name in names}
    skill = {name: trial.skill(of) for name, of in predicted.items()}
    may_decide = [name for name in names if name not in COMPARED_ONLY] or names
    seeing = [name for name in may_decide if not skill[name].blind]
    best = max(seeing or may_decide, key=lambda name: skill[name].rank)
    deciding = [best]
    if len(seeing) > 1:
        together = trial.foretold(seeing)
        skill[COMBINED] = trial.skill(together)
        if trial.is_better(together, predicted[best]):
            deciding = seeing
    usable = pairs.known(deciding)
    curves, combined = _fitted(usable, elements, deciding)
    curves, combined = _with_intervals(usable, elements, curves, combined, seed=seed)
    if combined:  # it is fitted to means of what the signals let expect, not of their upper ends
        combined = replace(combined, cautious=True)
    return ExpectedErrors(
        tolerance_eV_per_A=tolerance_eV_per_A,
        signals=deciding,
        curves={
            signal: {
                name: replace(curve, cautious=not combined).limited(tolerance_eV_per_A)
                for name, curve in of_class.items()
            }
            for signal, of_class in curves.items()
        },
        combined=combined and combined.limited(tolerance_eV_per_A),
        skill=skill,
        frames=len(np.unique(usable.frame)),
        pairs=len(usable),
        bad=int((usable.error > tolerance_eV_per_A).sum()),
    )


def _fitted(
    pairs: Pairs, elements: Mapping[str, str], signals: Sequence[str]
) -> tuple[dict[str, dict[str, Curve]], Curve | None]:
    """Curves of each signal and class, and that of their geometric mean where there are several."""
    curves = {signal: of_classes(pairs, elements, signal) for signal in signals}
    if len(signals) == 1:
        return curves, None
    mean = _mean(curves, pairs.distances, pairs.classes)
    used = pairs.weight > 0
    everyone = Layer("all atoms", steps(mean, pairs, used), int(used.sum()), 1.0)
    return curves, leaning([everyone], power=1.0)


def _mean(
    curves: Mapping[str, Mapping[str, Curve]],
    distances: Mapping[str, np.ndarray],
    classes: np.ndarray,
) -> np.ndarray:
    """Geometric mean over signals of the expected errors of N atoms, shape (N,), eV/Å."""
    logarithms = np.zeros(len(classes))
    for signal, of_class in curves.items():
        for name in np.unique(classes):
            rows = classes == name
            logarithms[rows] += np.log(of_class[str(name)].at(distances[signal][rows]))
    return np.exp(logarithms / len(curves))


def _with_intervals(
    pairs: Pairs,
    elements: Mapping[str, str],
    curves: dict[str, dict[str, Curve]],
    combined: Curve | None,
    *,
    seed: int,
) -> tuple[dict[str, dict[str, Curve]], Curve | None]:
    """The curves with 90 % intervals at their knots, by a bootstrap over frames."""
    of_all: dict[tuple[str, str], list[np.ndarray]] = {}
    of_combined = []
    for times in _drawn(pairs.frame, seed):
        again, mean = _fitted(replace(pairs, weight=pairs.weight * times), elements, list(curves))
        for signal, of_class in again.items():
            for name, curve in of_class.items():
                knots = np.array(curves[signal][name].distance)
                of_all.setdefault((signal, name), []).append(curve.at(knots))
        if mean and combined:
            of_combined.append(mean.at(np.array(combined.distance)))
    with_intervals = {
        signal: {name: curve.between(of_all[signal, name]) for name, curve in of_class.items()}
        for signal, of_class in curves.items()
    }
    return with_intervals, combined and combined.between(of_combined)


def _drawn(frame: np.ndarray, seed: int) -> np.ndarray:
    """Bootstrap over frames: how often each pair is drawn, shape (RESAMPLES, P)."""
    names, of_pair = np.unique(frame, return_inverse=True)
    even = np.full(len(names), 1 / len(names))
    return np.random.default_rng(seed).multinomial(len(names), even, size=RESAMPLES)[:, of_pair]


class _Trial:
    """Foretells the errors of pairs from other frames' pairs, and judges what was foretold."""

    def __init__(
        self, pairs: Pairs, elements: Mapping[str, str], tolerance_eV_per_A: float, seed: int
    ) -> None:
        self._pairs, self._elements = pairs, elements
        self._bad = pairs.error > tolerance_eV_per_A
        self._log_error = np.log(np.maximum(pairs.error, SMALLEST_ERROR_EV_PER_A))
        once = np.ones((1, len(pairs)), dtype=int)
        self._times = np.concatenate([once, _drawn(pairs.frame, seed)])

    def foretold(self, signals: Sequence[str]) -> np.ndarray:
        """Expected errors by curves that a pair's own frame has no part in, shape (P,), eV/Å."""
        pairs, everything = self._pairs, np.arange(len(self._pairs))
        folds = min(FOLDS, len(np.unique(pairs.frame)))
        parts = [(everything, everything)]  # a single frame foretells nothing but itself
        if folds > 1:
            from sklearn.model_selection import GroupKFold

            parts = list(GroupKFold(folds).split(everything, groups=pairs.frame))
        errors = np.empty(len(pairs))
        for learned, rest in parts:
            curves, combined = _fitted(pairs[learned], self._elements, signals)
            mean = _mean(curves, pairs[rest].distances, pairs[rest].classes)
            errors[rest] = combined.at(mean) if combined else mean
        return errors

    def skill(self, expected: np.ndarray) -> Skill:
        """How well errors were foretold."""
        log_error = float(np.sqrt(np.mean((np.log(expected) - self._log_error) ** 2)))
        drawn = self._aurocs(expected)
        if drawn is None:
            return Skill(auroc=None, log_error=log_error, blind=False)
        low, high = np.nanquantile(drawn[1:], [0.025, 0.975])
        auroc = Interval(value=float(drawn[0]), low=float(low), high=float(high))
        return Skill(auroc=auroc, log_error=log_error, blind=bool(low <= 0.5))

    def is_better(self, expected: np.ndarray, than: np.ndarray) -> bool:
        """Whether errors are foretold better, beyond the uncertainty (95 %)."""
        first, second = self._aurocs(expected), self._aurocs(than)
        if first is not None and second is not None:
            gain = first - second
        else:
            squares = [(np.log(values) - self._log_error) ** 2 for values in (than, expected)]
            gain = self._times @ (squares[0] - squares[1])
        return bool(np.nanquantile(gain[1:], 0.025) > 0)

    def _aurocs(self, expected: np.ndarray) -> np.ndarray | None:
        """AUROC of bad atoms against good ones of their class, as drawn and of each resample.

        Returns:
            Shape (1 + RESAMPLES,), NaN where a resample has no bad or no good atoms; None where
            there are too few of them.
        """
        bad, frames = self._bad, self._pairs.frame
        few_frames = len(np.unique(frames[bad])) < FEWEST_BAD_FRAMES
        if min(bad.sum(), (~bad).sum()) < FEWEST_BAD or few_frames:
            return None
        above, both = np.zeros(len(self._times)), np.zeros(len(self._times))
        for name in np.unique(self._pairs.classes):
            rows = np.flatnonzero(self._pairs.classes == name)
            rows = rows[np.argsort(expected[rows], kind="stable")]
            begins = np.flatnonzero(np.diff(expected[rows], prepend=-np.inf))  # of equal values
            worse, good = (
                np.add.reduceat(self._times[:, rows] * which[rows], begins, axis=1)
                for which in (bad, ~bad)
            )
            below = good.cumsum(axis=1) - good
            above += (worse * (below + good / 2)).sum(axis=1)
            both += worse.sum(axis=1) * good.sum(axis=1)
        if not both[0]:
            return None
        with np.errstate(invalid="ignore"):
            return above / both
