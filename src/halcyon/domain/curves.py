"""Curves of the expected force error over a signal's distance: isotonic, and leaning on each other.

    import numpy as np
    from halcyon.domain.curves import Pairs, of_classes

    distance = np.random.default_rng(1).uniform(0, 3, 300)
    pairs = Pairs(
        distances={"latent": distance},
        error=0.1 * distance,
        classes=np.repeat(["H", "O"], 150),
        frame=np.arange(300) // 10,
        weight=np.ones(300),
    )
    of_classes(pairs, {"H": "H", "O": "O"}, "latent")["O"].at(np.array([1.0]))  # about 0.1 eV/Å

Not for: which signal decides, or how sure a curve is (see `expected`, which has the sources).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

GROUP = 5
"""Pairs averaged before the fit: the end of an isotonic fit otherwise follows a single pair."""
EVEN_FRAMES = 20
"""With so many frames of its own, a class counts as much as what it leans on. Compared were 0 to 80
and no curves of classes, on frames that models visited: all of 10 to 80 rank errors alike."""
GREATEST_GROWTH = 2.0
"""The greatest power by which errors grow with the distance: what is left out of an expansion to
first order grows so."""
BEYOND = np.sqrt(2.0) ** np.arange(1, 13)
"""Where a power is replaced by straight lines, in greatest distances; then by a proportion."""
ROUNDING = 1e-12
"""Distances are the same where they differ by less than this part of the greatest."""
SMALLEST_ERROR_EV_PER_A = 1e-4
"""Least error whose logarithm is taken, eV/Å."""
LARGEST_ERROR_EV_PER_A = 1e6
"""Stands for infinity in intervals, which are written to a file."""


@dataclass(frozen=True)
class Pairs:
    """Single atoms: distances by each signal, and force error. P atoms.

    Attributes:
        distances: per signal, raw distance, shape (P,); NaN where it is not known.
        error: |F_model - F_reference|, shape (P,), eV/Å.
        classes: class of each atom, shape (P,).
        frame: number of the frame it is of, the same for all predictions of one frame, shape (P,).
        weight: how much it counts, shape (P,).
    """

    distances: Mapping[str, np.ndarray]
    error: np.ndarray
    classes: np.ndarray
    frame: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.error)

    def known(self, signals: Sequence[str]) -> "Pairs":
        """Those whose distances by all these signals are known."""
        finite = np.isfinite(np.array([self.distances[name] for name in signals]))
        return self[finite.all(axis=0)]

    def __getitem__(self, which: np.ndarray) -> "Pairs":
        return Pairs(
            {name: values[which] for name, values in self.distances.items()},
            self.error[which],
            self.classes[which],
            self.frame[which],
            self.weight[which],
        )


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Expected force error by raw distance: straight lines between K knots.

    Before the first knot it is constant; beyond the last it grows in proportion to the distance.
    It is taken at the upper end of its interval where it is `cautious`.

    Attributes:
        distance: of the knots, ascending, in the signal's unit; of a combination, eV/Å.
        error: expected at the knots, at least `SMALLEST_ERROR_EV_PER_A`, eV/Å.
        source: whose pairs it is fitted to: `class`, `element`, `all atoms`, or several of these.
        pairs: number of those of the class, or of all where it has none.
        low: lower end of the 90 % bootstrap interval of `error`, eV/Å.
        high: upper end, eV/Å.
        limit: distance beyond which the expectation is over the tolerance.
        extrapolated: limit over the greatest distance of pairs, where it lies beyond; else 1.
        greatest: greatest distance of pairs; None in files of early releases: the last knot.
        own: part of the logarithm of the error that is by the pairs of the class itself.
        cautious: whether `high` is acted upon, and not `error`; not in files of early releases.
    """

    distance: list[float]
    error: list[float]
    source: str
    pairs: int
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    limit: float = 0.0
    extrapolated: float = 1.0
    greatest: float | None = None
    own: float = 1.0
    cautious: bool = False

    @property
    def acted_upon(self) -> np.ndarray:
        """Error at the knots that decides, shape (K,), eV/Å."""
        return np.array(self.high if self.cautious else self.error)

    def at(self, distance: np.ndarray) -> np.ndarray:
        """Expected error, eV/Å, of the shape of the distances."""
        start, slope = self.lines()
        piece = np.searchsorted(self.distance, distance)
        return start[piece] + slope[piece] * distance

    def lines(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the straight pieces before, between and after the knots: value at 0, and slope.

        Returns:
            Two arrays of shape (K + 1,).
        """
        x, y = np.array(self.distance), self.acted_upon
        slope = np.diff(y) / np.diff(x)
        start = y[:-1] - slope * x[:-1]
        # Where all distances are 0, nothing is known beyond.
        last = (0.0, y[-1] / x[-1]) if x[-1] > 0 else (np.inf, 0.0)
        return np.array([y[0], *start, last[0]]), np.array([0.0, *slope, last[1]])

    def between(self, drawn: Sequence[np.ndarray]) -> "Curve":
        """The curve with its interval, from the errors at its knots in each resample.

        A resample pools other pairs than the whole: its errors may be all on one side of the
        curve's. The interval reaches as far as the curve.
        """
        finite = np.minimum(drawn, LARGEST_ERROR_EV_PER_A)
        low, high = np.quantile(finite, [0.05, 0.95], axis=0)
        return replace(
            self,
            low=np.minimum(low, self.error).tolist(),
            high=np.maximum(high, self.error).tolist(),
        )

    def limited(self, tolerance_eV_per_A: float) -> "Curve":
        """The curve with its limit, and how far that is beyond the greatest distance of pairs."""
        x, y = np.array(self.distance), self.acted_upon
        over = np.flatnonzero(y > tolerance_eV_per_A)
        if not over.size:
            limit = x[-1] * tolerance_eV_per_A / y[-1]
        elif over[0] == 0:
            limit = 0.0
        else:
            ends = slice(over[0] - 1, over[0] + 1)
            limit = np.interp(tolerance_eV_per_A, y[ends], x[ends])
        greatest = x[-1] if self.greatest is None else self.greatest
        beyond = limit / greatest if greatest > 0 else 1.0
        return replace(self, limit=float(limit), extrapolated=float(max(beyond, 1.0)))


@dataclass(frozen=True)
class _Steps:
    """An isotonic fit: distances, ascending, and errors that never fall, shape (K,) each."""

    distance: np.ndarray
    error: np.ndarray

    def at(self, distance: np.ndarray, power: float) -> np.ndarray:
        """Error at distances; beyond the last one it grows as this power of the distance."""
        last = self.distance[-1]
        beyond = np.maximum(distance / last, 1.0) if last > 0 else np.ones(len(distance))
        return np.interp(distance, self.distance, self.error) * beyond**power


def of_classes(pairs: Pairs, elements: Mapping[str, str], signal: str) -> dict[str, Curve]:
    """Curve of each class: its own fit, which leans on that of its element and of all atoms."""
    distance, used = pairs.distances[signal], pairs.weight > 0
    power = growth(distance, pairs)
    symbols = np.array([elements[name] for name in pairs.classes.tolist()])
    rows = {("all atoms", ""): used}
    rows |= {("element", symbol): used & (symbols == symbol) for symbol in set(elements.values())}
    rows |= {("class", name): used & (pairs.classes == name) for name in elements}
    layers = {
        key: Layer(key[0], steps(distance, pairs, which), int(which.sum()), share(pairs, which))
        for key, which in rows.items()
        if which.any()
    }
    curves = {}
    for name, symbol in elements.items():
        keys = ("class", name), ("element", symbol), ("all atoms", "")
        present = [layers[key] for key in keys if key in layers]
        # A layer of the same pairs as the one before it adds nothing.
        pairs_of = [0] + [layer.pairs for layer in present]
        useful = [layer for i, layer in enumerate(present) if layer.pairs > pairs_of[i]]
        curves[name] = leaning(useful, power)
    return curves


@dataclass(frozen=True)
class Layer:
    """A fit that a class's curve is made of: its own, its element's, or that of all atoms."""

    source: str
    steps: _Steps
    pairs: int
    share: float


def leaning(layers: Sequence[Layer], power: float) -> Curve:
    """The curve of a class, without interval and limit.

    Args:
        layers: from its own fit to that of all atoms; each leans on the next by its share.
        power: of the distance, by which errors grow beyond what is seen.
    """
    knots = np.unique(np.concatenate([layer.steps.distance for layer in layers]))
    greatest = knots[-1]
    if power > 1 and greatest > 0:
        knots = np.concatenate([knots, greatest * BEYOND])
    logarithm, left = np.zeros(len(knots)), 1.0
    for layer in layers:
        part = left * (layer.share if layer is not layers[-1] else 1.0)
        logarithm += part * np.log(layer.steps.at(knots, power))
        left -= part
        if layer is layers[0]:
            own = part if layer.source == "class" else 0.0
    return Curve(
        distance=knots.tolist(),
        error=np.exp(logarithm).tolist(),
        source=", ".join(layer.source for layer in layers),
        pairs=layers[0].pairs,
        greatest=float(greatest),
        own=own,
    )


def steps(distance: np.ndarray, pairs: Pairs, rows: np.ndarray) -> _Steps:
    """Isotonic regression of the error on the distance.

    Args:
        distance: of all pairs, shape (P,).
        pairs: their errors and weights.
        rows: which pairs are fitted to, shape (P,), at least one.
    """
    order = np.argsort(distance[rows], kind="stable")
    weight = pairs.weight[rows][order]
    begins = np.arange(0, max(len(order) - GROUP + 1, 1), GROUP)  # the last group is the largest
    total = np.add.reduceat(weight, begins)
    x, y = (
        np.add.reduceat(values[rows][order] * weight, begins) / total
        for values in (distance, pairs.error)
    )
    # Equal distances, but for rounding, are one point.
    which = np.cumsum(np.diff(x, prepend=x[0]) > ROUNDING * abs(x[-1]))
    at_one = np.bincount(which, total)
    x, y = (np.bincount(which, total * values) / at_one for values in (x, y))
    from scipy.optimize import isotonic_regression

    y = isotonic_regression(y, weights=at_one).x
    # Of a level part its two ends are enough.
    inside = (y[1:-1] == y[:-2]) & (y[1:-1] == y[2:])
    kept = np.concatenate([[True], ~inside, [True]])[: len(x)]
    return _Steps(x[kept], np.maximum(y[kept], SMALLEST_ERROR_EV_PER_A))


def share(pairs: Pairs, rows: np.ndarray) -> float:
    """Part of a curve that is by these pairs: more where they are of more frames."""
    _, first = np.unique(pairs.frame[rows], return_index=True)
    frames = pairs.weight[rows][first].sum()
    return float(frames / (frames + EVEN_FRAMES))


def growth(distance: np.ndarray, pairs: Pairs) -> float:
    """Slope of ln(error) over ln(distance) within classes, between 1 and `GREATEST_GROWTH`."""
    rows = (distance > 0) & (pairs.weight > 0)
    _, of_class = np.unique(pairs.classes[rows], return_inverse=True)
    weight = pairs.weight[rows]
    of_all = np.bincount(of_class, weight)

    def within(values: np.ndarray) -> np.ndarray:
        return values - (np.bincount(of_class, weight * values) / of_all)[of_class]

    x = within(np.log(distance[rows]))
    y = within(np.log(np.maximum(pairs.error[rows], SMALLEST_ERROR_EV_PER_A)))
    spread = (weight * x**2).sum()
    slope = (weight * x * y).sum() / spread if spread > 0 else 1.0
    return float(np.clip(slope, 1.0, GREATEST_GROWTH))
