"""Intervals of atomic energies, from predictions: the two tiers of a domain, with their margin.

    import numpy as np
    from halcyon.domain.bounds import bare_interval, signed_scores

    energies = np.array([-0.21, -0.15, -0.18])
    low, high = bare_interval(energies)  # of one class on the training structures, eV
    signed_scores(energies, low, high)  # distances outside, in widths; below 0 inside

Not for: what an interval is and how it is kept (see `intervals`), or statistics of a margin (see
`margins`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from halcyon.domain.environments import Environments, no_training_frames
from halcyon.domain.intervals import Bond, Domain, DomainReport
from halcyon.domain.margins import Exceedance, calibrate_margin, exceedance

SMALLEST_WIDTH_EV = 1e-3
"""Width given to a class whose training values coincide, e.g. a single value, eV."""
FEWEST_VALUES = 10
"""The range of fewer training values says little: distances outside it, in widths, are huge."""


@dataclass(frozen=True, kw_only=True)
class ClassEnergies:
    """Interaction energies of atoms, eV, by class.

    Attributes:
        train: on the labelled training structures.
        teacher: on the teacher's structures; empty without pre-training.
        held_out: per frame, on labelled structures not trained on: they calibrate the margin.
        check: per frame, on labelled structures used for nothing: the achieved exceedance is
            measured on them.
    """

    train: dict[str, np.ndarray]
    teacher: dict[str, np.ndarray]
    held_out: Sequence[dict[str, np.ndarray]]
    check: Sequence[dict[str, np.ndarray]]


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


def build(
    energies: ClassEnergies,
    *,
    classes: dict[str, list[str]],
    bonds: dict[str, list[Bond]],
    alpha: float,
    seed: int,
    environments: dict[str, Environments] | None = None,
) -> Domain:
    """Intervals of both tiers with a calibrated margin.

    1. Of each class, the bare interval is the range of its energies on the training structures.
    2. The margin, in widths of these intervals, is calibrated on the held-out frames, by classes of
       at least `FEWEST_VALUES` training values that do not coincide (by all if there is none).
    3. The label domain is the bare intervals, widened by the margin on both sides; those of other
       classes reach at least as far as their held-out values.
    4. The guard domain is the label domain, widened to hold the teacher's structures.
    5. How often atoms are outside is measured on the check frames.

    Args:
        energies: of all frames, by class.
        classes: class of every atom, per structure.
        bonds: per structure, (i, j, mean length in Å).
        alpha: exceedance per atom that is asked for.
        seed: of the bootstrap.
        environments: where they are the classes; `classes` then holds elements.

    Raises:
        InputError: a class has no training structure.
    """
    train = energies.train
    names = _class_names(classes, environments or {})
    if missing := sorted(names - train.keys()):
        raise no_training_frames(missing)
    bare = {name: bare_interval(train[name]) for name in sorted(names)}
    sampled = {name for name in bare if _is_sampled(train[name])}
    if not any(sampled & frame.keys() for frame in energies.held_out):
        sampled = set(bare)
    margin = calibrate_margin(
        [
            _scores({name: values for name, values in frame.items() if name in sampled}, bare)
            for frame in energies.held_out
            if sampled & frame.keys()
        ],
        alpha,
        seed=seed,
    )
    label = {}
    for name, (low, high) in bare.items():
        margins = [margin.value]
        if name not in sampled:
            margins += [
                float(signed_scores(frame[name], low, high).max())
                for frame in energies.held_out
                if name in frame
            ]
        label[name] = (low - max(margins) * (high - low), high + max(margins) * (high - low))
    guard = {}
    for name, (low, high) in label.items():
        taught = energies.teacher.get(name, np.empty(0))
        guard[name] = (float(min([low, *taught])), float(max([high, *taught])))
    report = DomainReport(
        training_frames_values={name: len(train[name]) for name in sorted(names)},
        held_out_frames=len(energies.held_out),
        check_frames=len(energies.check),
        exceedance_bare=_exceedance(energies.check, bare),
        exceedance_with_margin=_exceedance(energies.check, label),
        mean_width_label_eV=float(np.mean([high - low for low, high in label.values()])),
        mean_width_guard_eV=float(np.mean([high - low for low, high in guard.values()])),
    )
    return Domain(
        classes=classes,
        label=label,
        guard=guard,
        margin=margin,
        bonds=bonds,
        report=report,
        environments=environments or {},
    )


def _class_names(classes: dict[str, list[str]], environments: dict[str, Environments]) -> set[str]:
    """All classes that atoms of the structures may have."""
    names = {name for of_atoms in classes.values() for name in of_atoms}
    if not environments:
        return names
    if missing := sorted(names - environments.keys()):
        raise no_training_frames(missing)
    return {f"{e}/{i}" for e in names for i in range(len(environments[e].centroids))}


def _is_sampled(values: np.ndarray) -> bool:
    """Whether the range of these training values says enough of their class."""
    return len(values) >= FEWEST_VALUES and float(np.ptp(values)) > SMALLEST_WIDTH_EV


def _scores(frame: dict[str, np.ndarray], bounds: dict[str, tuple[float, float]]) -> np.ndarray:
    return np.concatenate([signed_scores(values, *bounds[name]) for name, values in frame.items()])


def _exceedance(
    frames: Sequence[dict[str, np.ndarray]], bounds: dict[str, tuple[float, float]]
) -> Exceedance | None:
    return exceedance([_scores(frame, bounds) > 0 for frame in frames])
