"""Natural interpolation domain (NID): the interval of atomic energies that counts as known.

`E_i` is the interaction energy of atom *i* that the model predicts (node energy without E0, eV).
Atoms of one class share an interval `[l - m, u + m]`: `l`, `u` are the least and greatest `E_i`
on the structures the model learned from, `m` is a margin calibrated on labelled structures that it
did not learn from. Two tiers: the *label* domain over the reference-labelled structures, and the
*guard* domain over all structures, the teacher's included.

This is our operationalisation of the idea in B. K. Isamura and P. L. A. Popelier, "Cumulative
latent instability (CLI) analysis of data-driven molecular dynamics simulations" (abstract; no
formula is public).

Atom classes are fixed per atom (symmetry, element), or, where surroundings change, an element's
*environments*: clusters of the model's invariant descriptors, to which an atom is assigned anew at
every step. Descriptors come from the forward pass that gives the forces, so that this needs no
neighbour list and no cutoff of its own.

Not for: what accumulates over a trajectory (see `cli_index`), or other signals than atomic
energies (see `signals`; this file only keeps their calibration).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.cluster import vq

from halcyon import files
from halcyon.errors import InputError
from halcyon.verdict.estimates import Interval

SCHEMA_VERSION = 2
"""1 knew neither environments nor signals; it is still read."""
SMALLEST_WIDTH_EV = 1e-3
"""Width given to a class whose training values coincide, e.g. a single value, eV."""
FEWEST_TAIL_POINTS = 10
"""With fewer exceedances a generalised Pareto fit says nothing; split conformal is used."""
TAIL_POINTS_FOR_SHAPE = 200
"""With fewer, the tail is taken as exponential: a shape fitted to 16 to 25 points put margins of
successive generations at 0.01 to 5 widths, the exponential at 0.15 to 0.9."""
ENVIRONMENTS_AT_MOST = 4
"""Clusters per element."""
ENVIRONMENT_VALUES = 30
"""Training atoms of the smallest cluster: the range of fewer says little (see `bare_interval`)."""
SMALLEST_SCALE = 1e-3
"""Least scale of a descriptor, as a part of the greatest one of its element or class."""


@dataclass(frozen=True, kw_only=True)
class Margin(Interval):
    """A calibrated threshold, with its 90 % bootstrap interval, and how far it can be trusted.

    Attributes:
        value: the threshold, ≥ 0; of the label domain: its margin m/(u - l).
        method: `peaks-over-threshold` or `conformal`.
        alpha: exceedance per atom it is made for: as asked, or, where the sample is too small for
            that, 1/(n + 1).
        n: number of held-out atomic energies it rests on.
    """

    method: str
    alpha: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a signal needs, and how well it keeps its promise; see `signals`.

    Attributes:
        threshold: raw value from which an atom is outside, in the signal's own unit.
        exceedance: fraction of atoms outside on frames not used for the fit (see `exceedance`).
        data: the signal's own; plain JSON.
    """

    threshold: Margin
    exceedance: dict[str, float]
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Environments:
    """Clusters of one element's descriptors.

    Attributes:
        scale: unit of each descriptor, D values.
        centroids: of each cluster, the largest cluster first, in the descriptors' own units.
    """

    scale: list[float]
    centroids: list[list[float]]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Intervals per atom class, margins included.

    Attributes:
        classes: class of every atom, for each structure name; with `environments` its element.
        label: per class, (lower, upper) of the label domain, eV.
        guard: per class, (lower, upper) of the guard domain, eV.
        margin: the calibrated margin of the label domain.
        bonds: per structure, (i, j, mean length in Å) over the training structures.
        report: numbers for people: exceedance on held-out frames, counts.
        environments: per element, its clusters; empty where classes are fixed per atom. Class
            `O/0` is the first of oxygen.
        signals: calibration of the signals other than the two tiers, by name.
    """

    classes: dict[str, list[str]]
    label: dict[str, tuple[float, float]]
    guard: dict[str, tuple[float, float]]
    margin: Margin
    bonds: dict[str, list[tuple[int, int, float]]]
    report: dict[str, Any]
    environments: dict[str, Environments] = field(default_factory=dict)
    signals: dict[str, Calibration] = field(default_factory=dict)

    def tier(self, name: str) -> dict[str, tuple[float, float]]:
        """Intervals per class of the tier `label` or `guard`, eV."""
        return {"label": self.label, "guard": self.guard}[name]

    def intervals(self, tier: str, structures: Sequence[str]) -> np.ndarray:
        """Intervals of every atom of a batch, where classes are fixed per atom.

        Args:
            tier: `label` or `guard`.
            structures: name of each replica's structure.

        Returns:
            Lower and upper bounds, shape (2, N) with N the atoms of all replicas, eV.
        """
        bounds = self.tier(tier)
        atoms = [bounds[name] for structure in structures for name in self.classes[structure]]
        return np.array(atoms).T

    def write(self, path: Path | str) -> None:
        """Write as JSON, atomically."""
        files.write_json(path, {"schema": SCHEMA_VERSION, "unit": "eV"} | asdict(self))

    @classmethod
    def read(cls, path: Path | str) -> "Domain":
        """Read what `write` wrote, now or under schema 1.

        Raises:
            InputError: missing, damaged, or of another schema.
        """
        content = files.read_json(path)
        if content.pop("schema", None) not in range(1, SCHEMA_VERSION + 1):
            raise InputError(f"{path}: not a domain file of schema 1 to {SCHEMA_VERSION}")
        del content["unit"]
        for tier in ("label", "guard"):
            content[tier] = {name: (low, high) for name, (low, high) in content[tier].items()}
        content["bonds"] = {
            structure: [(i, j, length) for i, j, length in entries]
            for structure, entries in content["bonds"].items()
        }
        content["margin"] = Margin(**content["margin"])
        content["environments"] = {
            element: Environments(**entry)
            for element, entry in content.get("environments", {}).items()
        }
        content["signals"] = {
            name: Calibration(**(entry | {"threshold": Margin(**entry["threshold"])}))
            for name, entry in content.get("signals", {}).items()
        }
        return cls(**content)


def fit_environments(
    elements: Sequence[Sequence[str]], descriptors: Sequence[np.ndarray], *, seed: int
) -> dict[str, Environments]:
    """Clusters of each element's descriptors on the training structures, by k-means.

    As many as leave `ENVIRONMENT_VALUES` training atoms to the smallest, at most
    `ENVIRONMENTS_AT_MOST`.

    Args:
        elements: per frame, symbol of each atom.
        descriptors: per frame, shape (N, D).
        seed: of the first guess of the centroids.
    """
    symbols = np.concatenate([np.asarray(names) for names in elements])
    values = np.concatenate(list(descriptors)).astype(float)
    found = {}
    for element in sorted(set(symbols.tolist())):
        mine = values[symbols == element]
        scale = descriptor_scale(mine)
        for number in range(ENVIRONMENTS_AT_MOST, 0, -1):
            random = np.random.default_rng(seed)
            centroids, _ = vq.kmeans2(mine / scale, number, iter=50, minit="++", rng=random)
            sizes = np.bincount(vq.vq(mine / scale, centroids)[0], minlength=number)
            if number == 1 or sizes.min() >= ENVIRONMENT_VALUES:
                break
        centroids = centroids[np.argsort(-sizes, kind="stable")] * scale
        found[element] = Environments(scale=scale.tolist(), centroids=centroids.tolist())
    return found


def descriptor_scale(descriptors: np.ndarray) -> np.ndarray:
    """Standard deviation of each descriptor; never zero, shape (D,)."""
    deviation = descriptors.std(axis=0)
    greatest = float(deviation.max())
    return np.maximum(deviation, SMALLEST_SCALE * greatest if greatest > 0 else 1.0)


def environment_classes(
    environments: dict[str, Environments], elements: Sequence[str], descriptors: np.ndarray
) -> list[str]:
    """Class of each atom of a frame: its element and the nearest of that element's centroids.

    Args:
        environments: from `fit_environments`.
        elements: symbol of each atom.
        descriptors: shape (N, D).

    Raises:
        InputError: an element without training structures.
    """
    names = []
    for element, values in zip(elements, descriptors, strict=True):
        if element not in environments:
            raise _untaught([element])
        mine = environments[element]
        apart = (np.array(mine.centroids) - values) / mine.scale
        names.append(f"{element}/{int((apart**2).sum(axis=1).argmin())}")
    return names


def by_class(
    energies: Sequence[np.ndarray], classes: Sequence[Sequence[str]]
) -> dict[str, np.ndarray]:
    """Pool atomic energies of many frames by atom class.

    Args:
        energies: per frame, shape (N,), eV.
        classes: per frame, class of each atom.

    Returns:
        Per class, all its energies, eV.
    """
    pooled: dict[str, list[float]] = {}
    for frame, names in zip(energies, classes, strict=True):
        for energy, name in zip(frame, names, strict=True):
            pooled.setdefault(name, []).append(float(energy))
    return {name: np.array(values) for name, values in sorted(pooled.items())}


def bare_interval(energies: np.ndarray) -> tuple[float, float]:
    """Least and greatest energy, at least `SMALLEST_WIDTH_EV` apart."""
    low, high = float(energies.min()), float(energies.max())
    missing = max(0.0, SMALLEST_WIDTH_EV - (high - low))
    return low - missing / 2, high + missing / 2


def signed_scores(energies: np.ndarray, low: float, high: float) -> np.ndarray:
    """Distance outside [low, high] in widths; negative inside (-0.5 in the middle)."""
    return np.maximum(low - energies, energies - high) / (high - low)


def calibrate_margin(
    scores: Sequence[np.ndarray],
    alpha: float,
    *,
    seed: int,
    floor: float = 0.0,
    resamples: int = 500,
) -> Margin:
    """Threshold beyond which an in-distribution atom lies with probability `alpha`.

    Peaks over threshold: a generalised Pareto distribution, fitted by L-moments (J. R. M. Hosking
    and J. R. Wallis, Technometrics 29, 339, 1987) to the largest 15 % of the scores. Where they
    are too few, split conformal: the greatest score, which a further draw exceeds with
    probability 1/(n + 1).

    Args:
        scores: per held-out frame, the raw scores of its atoms, e.g. `signed_scores`.
        alpha: wanted exceedance per atom.
        seed: of the bootstrap over frames.
        floor: least threshold, e.g. the greatest score on the training structures.
        resamples: bootstrap samples.

    Raises:
        InputError: no held-out frames at all.
    """
    if not scores:
        raise InputError("calibration of the domain: no held-out labels (seed_labels.validation)")
    pooled = np.concatenate(scores)
    fitted = _tail_quantile(pooled, alpha)
    if fitted is None:
        method, alpha, value = "conformal", 1 / (len(pooled) + 1), float(pooled.max())
    else:
        method, value = "peaks-over-threshold", fitted
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
    """Score exceeded with probability alpha; None where the tail has too few points."""
    in_tail = int(0.15 * len(scores))
    if in_tail < FEWEST_TAIL_POINTS:
        return None
    ordered = np.sort(scores)
    threshold = ordered[-in_tail - 1]
    excess = ordered[-in_tail:] - threshold
    first, second = stats.lmoment(excess, order=[1, 2])
    if second <= 0:
        return float(ordered[-1])
    # Atomic energies are about quadratic in thermal displacements: their tail is no heavier than
    # exponential, and exponential is what a tail too short to show its own shape is taken for.
    shape = min(0.0, 2 - first / second) if in_tail >= TAIL_POINTS_FOR_SHAPE else 0.0
    scale = first * (1 - shape)
    return float(threshold + stats.genpareto.isf(alpha * len(scores) / in_tail, shape, scale=scale))


def build(
    *,
    train: dict[str, np.ndarray],
    teacher: dict[str, np.ndarray],
    held_out: Sequence[dict[str, np.ndarray]],
    check: Sequence[dict[str, np.ndarray]],
    classes: dict[str, list[str]],
    bonds: dict[str, list[tuple[int, int, float]]],
    alpha: float,
    seed: int,
    environments: dict[str, Environments] | None = None,
) -> Domain:
    """Intervals of both tiers with a calibrated margin.

    Args:
        train: per class, energies on the labelled training structures, eV.
        teacher: per class, energies on the teacher's structures, eV; empty without pre-training.
        held_out: per frame and class, energies on labelled structures not trained on: they
            calibrate the margin.
        check: likewise, on frames used for nothing: the achieved exceedance is measured on them.
        classes: class of every atom, per structure.
        bonds: per structure, (i, j, mean length in Å).
        alpha: wanted exceedance per atom.
        seed: of the bootstrap.
        environments: where they are the classes; `classes` then holds elements.

    Raises:
        InputError: a class has no training structure.
    """
    wanted = {name for names in classes.values() for name in names}
    if environments:
        if missing := sorted(wanted - environments.keys()):
            raise _untaught(missing)
        wanted = {f"{e}/{i}" for e in wanted for i in range(len(environments[e].centroids))}
    if missing := sorted(wanted - train.keys()):
        raise _untaught(missing)
    bare = {name: bare_interval(train[name]) for name in sorted(wanted)}
    margin = calibrate_margin([_scores(frame, bare) for frame in held_out], alpha, seed=seed)
    label = {
        name: (low - margin.value * (high - low), high + margin.value * (high - low))
        for name, (low, high) in bare.items()
    }
    guard = {}
    for name, (low, high) in label.items():
        seen = teacher.get(name, np.empty(0))
        guard[name] = (float(min([low, *seen])), float(max([high, *seen])))
    report = {
        "training_frames_values": {name: len(train[name]) for name in sorted(wanted)},
        "held_out_frames": len(held_out),
        "check_frames": len(check),
        "exceedance_bare": _exceedance(check, bare),
        "exceedance_with_margin": _exceedance(check, label),
        "mean_width_label_eV": float(np.mean([high - low for low, high in label.values()])),
        "mean_width_guard_eV": float(np.mean([high - low for low, high in guard.values()])),
    }
    return Domain(
        classes=classes,
        label=label,
        guard=guard,
        margin=margin,
        bonds=bonds,
        report=report,
        environments=environments or {},
    )


def _untaught(classes: Sequence[str]) -> InputError:
    return InputError(
        f"domain: no labelled training structure has atoms of class {', '.join(classes)}; "
        "raise seed_labels.train, or see why those labels failed in the summary"
    )


def _scores(frame: dict[str, np.ndarray], bounds: dict[str, tuple[float, float]]) -> np.ndarray:
    return np.concatenate([signed_scores(values, *bounds[name]) for name, values in frame.items()])


def _exceedance(
    frames: Sequence[dict[str, np.ndarray]], bounds: dict[str, tuple[float, float]]
) -> dict[str, float]:
    return exceedance([_scores(frame, bounds) > 0 for frame in frames])


def exceedance(outside: Sequence[np.ndarray]) -> dict[str, float]:
    """Fraction of atoms outside, with its exact 95 % (Clopper-Pearson) interval.

    The interval takes atoms for independent; those of one frame are not quite.

    Args:
        outside: per frame, whether each atom is outside.
    """
    if not outside:
        return {}
    pooled = np.concatenate(list(outside))
    interval = stats.binomtest(int(pooled.sum()), pooled.size).proportion_ci(0.95)
    return {
        "fraction": float(pooled.mean()),
        "low": float(interval.low),
        "high": float(interval.high),
        "atoms": int(pooled.size),
    }
