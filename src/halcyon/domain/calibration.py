"""Thresholds of signals, from frames: the whole domain of a model.

1. The intervals of the two tiers and their margin are found (see `bounds.build`).
2. Each other signal gets what it needs besides a threshold: distributions of descriptors, or mean
   energies of structures.
3. Its distances on the held-out frames are computed, by the code that runs at every step.
4. Its threshold is calibrated on them as the margin is, and is never less than the greatest
   distance on the training frames.
5. How often atoms are outside is measured on frames used for nothing else.
6. Distances become expected force errors (see `expected`), by pairs of distance and error of single
   atoms: on the held-out frames, and on frames of earlier generations as the model that visited
   them predicted them, before any model learned from them.

    from halcyon.config import DomainSettings
    from halcyon.domain.calibration import fit_domain
    from halcyon.domain.samples import Samples

    samples = Samples(train=labelled, teacher=labelled, held_out=candidates, check=candidates)
    bonds = {"water": [(0, 1, 0.97), (0, 2, 0.97)]}
    fit_domain(samples, classes=classes, bonds=bonds, settings=DomainSettings(), seed=1)

Not for: the signals themselves (see `signals`), statistics of thresholds (see `margins`), or
evaluating a model on frames (see `halcyon.models.domains`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch
from ase import Atoms

from halcyon.config import AccuracySettings, DomainSettings
from halcyon.domain.bounds import FEWEST_VALUES, ClassEnergies, build, by_class
from halcyon.domain.curves import Pairs
from halcyon.domain.environments import (
    Environments,
    descriptor_scale,
    environment_classes,
    fit_environments,
)
from halcyon.domain.expected import ExpectedErrors, fit_expected
from halcyon.domain.intervals import (
    Bond,
    Calibration,
    Domain,
    LatentSet,
    Normal,
    PackedArray,
    SignalData,
)
from halcyon.domain.margins import Margin, calibrate_margin, exceedance
from halcyon.domain.samples import Sample, Samples, is_outlier
from halcyon.domain.signals import (
    TIERS,
    Committee,
    Latent,
    Model,
    PotentialEnergy,
    Signal,
    Thresholded,
    make_signal,
)

SMALLEST_SPREAD_EV = 1e-3
"""Standard deviation given to a structure whose training energies coincide, eV."""
TEACHER_HELD_OUT = 5
"""One in so many of the teacher's frames calibrates the distance to the others."""
ROUNDING = 1e-4
"""Of descriptors in single precision, as a part of the greatest of all."""
NARROWER = 4.0
"""How much narrower free atoms are than their class. As wide as it, they took in atoms of broken
molecules that were wrong by 2 eV/Å, and far from both (`benchmarks/expected_errors.py`)."""
DEFAULT_ACCURACY = AccuracySettings()


_UNIT = Margin(value=1.0, low=1.0, high=1.0, method="none", alpha=1.0, n=0)


def distances_of_atoms(
    signal: Signal, sample: Sample, device: torch.device | str = "cpu"
) -> list[np.ndarray]:
    """Raw distances of the atoms of some frames, by the code that runs at every step.

    Args:
        signal: any.
        sample: any number of frames.
        device: of the other models that the signal needs.

    Returns:
        Per frame, shape (N,).
    """
    device = torch.device(device)
    per_frame: list[np.ndarray] = []
    for frames, state, output in sample.steps(device, torch.float64):
        raw = signal.distance(frames, device)(state, output).cpu()
        per_frame += [part.numpy() for part in raw.split([len(atoms) for atoms in frames])]
    return per_frame


def distances(signal: Thresholded, sample: Sample) -> list[np.ndarray]:
    """As `distances_of_atoms`; of `potential_energy` (1,) per frame, since its atoms share it."""
    members = signal.members if isinstance(signal, Committee) else ()
    per_frame = distances_of_atoms(signal, sample, device_of(members))
    if isinstance(signal, PotentialEnergy):  # a frame's atoms share one number: count it once
        per_frame = [values[:1] for values in per_frame]
    return per_frame


def device_of(models: Sequence[Model]) -> torch.device:
    """Where models compute; the processor without any."""
    return getattr(models[0], "device", torch.device("cpu")) if models else torch.device("cpu")


def fit_domain(
    samples: Samples,
    *,
    classes: dict[str, list[str]],
    bonds: dict[str, list[Bond]],
    settings: DomainSettings,
    seed: int,
    committee: Sequence[Model] = (),
    accuracy: AccuracySettings = DEFAULT_ACCURACY,
) -> Domain:
    """The whole domain of a model: tiers, all signals that the settings name, expected errors.

    Args:
        samples: frames with what the model predicts for them.
        classes: class of every atom, per structure; its element where environments are asked for.
        bonds: per structure, (i, j, mean length in Å).
        settings: alpha, how atoms are classified, signals.
        seed: of bootstraps and clusters.
        committee: the other models of the signal `committee`.
        accuracy: its `atom_force_eV_per_A` is the greatest expected error inside the domain.

    Raises:
        InputError: no held-out frames, a class without training structures, or a committee
            without models.
    """
    all_samples, samples = samples, samples.without_outliers()
    environments = {}
    if settings.classes == "environment":
        elements = [classes[atoms.info["structure"]] for atoms in samples.train.frames]
        environments = fit_environments(elements, samples.train.descriptors, seed=seed)

    def pooled(sample: Sample) -> dict[str, np.ndarray]:
        names = [
            _atom_classes(classes, environments, atoms, descriptors)
            for atoms, descriptors in sample.described()
        ]
        return by_class(sample.node_energy, names)

    def by_frame(sample: Sample) -> list[dict[str, np.ndarray]]:
        return [pooled(sample[i : i + 1]) for i in range(len(sample.frames))]

    domain = build(
        ClassEnergies(
            train=pooled(samples.train),
            teacher=pooled(samples.teacher),
            held_out=by_frame(samples.held_out),
            check=by_frame(samples.check),
        ),
        classes=classes,
        bonds=bonds,
        alpha=settings.alpha,
        seed=seed,
        environments=environments,
    )
    used = sum(map(is_outlier, samples.held_out.frames))
    left_out = len(all_samples.held_out.frames) - len(samples.held_out.frames)
    domain = calibrate(
        replace(
            domain,
            report=replace(domain.report, selected_left_out=left_out, selected_used=used),
        ),
        samples,
        ["latent", *settings.signals],
        alpha=settings.alpha,
        seed=seed,
        committee=committee,
    )
    return replace(
        domain,
        expected=_expected(
            domain, all_samples, accuracy.atom_force_eV_per_A, seed=seed, committee=committee
        ),
    )


def _expected(
    domain: Domain,
    samples: Samples,
    tolerance_eV_per_A: float,
    *,
    seed: int,
    committee: Sequence[Model],
) -> ExpectedErrors | None:
    """Expected errors from the held-out and the earlier frames; None where none has forces."""
    with_forces = [i for i, atoms in enumerate(samples.held_out.frames) if "forces" in atoms.arrays]
    if not with_forces:
        return None
    held_out = samples.held_out.take(with_forces)
    names = [*TIERS, *domain.signals]
    per_frame = [
        *_predicted_now(domain, held_out, names, committee),
        *_predicted_before(samples.earlier, names),
    ]
    frames = [*held_out.frames, *samples.earlier]
    classes = [domain.classes[atoms.info["structure"]] for atoms in frames]
    sizes = [len(atoms) for atoms in frames]
    keys = [atoms.info.get("key", f"without key {i}") for i, atoms in enumerate(frames)]
    numbers = np.unique(keys, return_inverse=True)[1]
    weights = [1.0] * len(held_out.frames) + _by_age(samples.earlier)
    pairs = Pairs(
        distances={name: np.concatenate([values[name] for values in per_frame]) for name in names},
        error=np.concatenate([values["error"] for values in per_frame]),
        classes=np.concatenate([np.asarray(names) for names in classes]),
        frame=np.repeat(numbers, sizes),
        weight=np.repeat(weights, sizes),
    )
    elements = {
        name: symbol
        for sample in (samples.train, held_out)
        for atoms in sample.frames
        for name, symbol in zip(domain.classes[atoms.info["structure"]], atoms.symbols, strict=True)
    }
    return fit_expected(pairs, elements, tolerance_eV_per_A=tolerance_eV_per_A, seed=seed)


def _predicted_now(
    domain: Domain, sample: Sample, names: Sequence[str], committee: Sequence[Model]
) -> list[dict[str, np.ndarray]]:
    """Per frame, raw distances by signal and the force `error`, shape (N,) each."""
    device = device_of(committee)
    of_signals = {
        name: distances_of_atoms(make_signal(domain, name, committee), sample, device)
        for name in names
    }
    errors = [
        np.linalg.norm(predicted - atoms.arrays["forces"], axis=1)
        for atoms, predicted in zip(sample.frames, sample.forces, strict=True)
    ]
    return [
        {name: values[i] for name, values in of_signals.items()} | {"error": error}
        for i, error in enumerate(errors)
    ]


def _predicted_before(
    earlier: Sequence[Atoms], names: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """As `_predicted_now`, of what earlier models said; NaN where a signal was not watched."""
    return [
        {
            name: np.asarray(
                atoms.arrays.get(f"distance_{name}", np.full(len(atoms), np.nan)), dtype=float
            )
            for name in names
        }
        | {"error": np.linalg.norm(atoms.arrays["model_forces"] - atoms.arrays["forces"], axis=1)}
        for atoms in earlier
    ]


def _by_age(earlier: Sequence[Atoms]) -> list[float]:
    """Weights of earlier frames: half as much for each generation that has passed since."""
    generations = [atoms.info.get("generation", 0) for atoms in earlier]
    return [0.5 ** (1 + max(generations) - generation) for generation in generations]


def _atom_classes(
    classes: dict[str, list[str]],
    environments: dict[str, Environments],
    atoms: Atoms,
    descriptors: np.ndarray,
) -> list[str]:
    """Class of each atom of a frame, its environment where these are the classes."""
    names = classes[atoms.info["structure"]]
    return environment_classes(environments, names, descriptors) if environments else names


def calibrate(
    domain: Domain,
    samples: Samples,
    names: Sequence[str],
    *,
    alpha: float,
    seed: int,
    committee: Sequence[Model] = (),
) -> Domain:
    """Add the calibration of signals to a domain.

    Args:
        domain: as `bounds.build` makes it.
        samples: frames with what the model predicts for them.
        names: signals, as in the configuration; those of atomic energies need nothing more.
        alpha: exceedance per atom that is asked for.
        seed: of the bootstrap.
        committee: the other models of the signal `committee`.

    Raises:
        InputError: no held-out frames, or `committee` without models.
    """
    calibrations = {}
    for name in dict.fromkeys(names):
        if name in TIERS:
            continue
        data = _data(name, domain, samples, alpha=alpha, seed=seed)
        unfitted = Calibration(threshold=_UNIT, data=data)
        signal = make_signal(replace(domain, signals={name: unfitted}), name, committee)
        assert isinstance(signal, Thresholded)  # noqa: S101  # the others are in TIERS
        if isinstance(signal, Latent):
            threshold = data.sets[0].radius
        else:
            floor = max(float(values.max()) for values in distances(signal, samples.train))
            threshold = calibrate_margin(
                distances(signal, samples.held_out), alpha, seed=seed, floor=floor
            )
        signal.calibration = replace(unfitted, threshold=threshold)
        outside = [values > signal.limit for values in distances(signal, samples.check)]
        calibrations[name] = replace(signal.calibration, exceedance=exceedance(outside))
    return replace(domain, signals=domain.signals | calibrations)


def _data(name: str, domain: Domain, samples: Samples, *, alpha: float, seed: int) -> SignalData:
    """What a signal needs besides its threshold."""
    if name == "potential_energy":
        return SignalData(structures=_energies(samples.train))
    if name not in ("latent", "latent_guard"):
        return SignalData()
    sets = [
        _latent_set(
            domain,
            samples.train,
            samples.held_out,
            alpha=alpha,
            seed=seed,
            of_labels=True,
            free=samples.free,
        )
    ]
    if name == "latent_guard" and len(samples.teacher.frames):
        sets.append(_of_teacher(domain, samples.teacher, alpha=alpha, seed=seed))
    return SignalData(sets=sets)


def _energies(train: Sample) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the interaction energy per structure, eV."""
    pooled: dict[str, list[float]] = {}
    for atoms, energies in zip(train.frames, train.node_energy, strict=True):
        pooled.setdefault(atoms.info["structure"], []).append(float(energies.sum()))
    return {
        name: (float(np.mean(values)), max(float(np.std(values)), SMALLEST_SPREAD_EV))
        for name, values in pooled.items()
    }


def _of_teacher(domain: Domain, teacher: Sample, *, alpha: float, seed: int) -> LatentSet:
    """Distributions of the teacher's frames; one frame in `TEACHER_HELD_OUT` sets the radius."""
    held_out = teacher[::TEACHER_HELD_OUT]
    number = np.arange(len(teacher.frames))
    others = [int(i) for i in number[number % TEACHER_HELD_OUT > 0]]
    rest = teacher.take(others)
    return _latent_set(domain, rest, held_out, alpha=alpha, seed=seed, of_labels=False)


def _latent_set(
    domain: Domain,
    train: Sample,
    held_out: Sample,
    *,
    alpha: float,
    seed: int,
    of_labels: bool,
    free: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> LatentSet:
    """Normal distributions per class, and the radius within which further atoms are.

    Args:
        domain: for its classes.
        train: what the distributions are fitted to.
        held_out: what the radius is fitted to.
        alpha: part of the held-out atoms that may be outside.
        seed: of the bootstrap.
        of_labels: whether these are labelled frames: each environment then has a distribution of
            its own, and the radius must hold all of `train`. The teacher's frames leave the
            surroundings that the labels have: they have one distribution per class.
        free: see `Samples`. No force acts on an atom without neighbours, whatever a model has
            learned: its descriptors are a further centre of each class, a quarter as wide as the
            class is, and such atoms do not widen the class's own distributions.

    Returns:
        Distributions; that of a class of fewer than `FEWEST_VALUES` values is widened until it
        holds what is known of the class.
    """
    pooled: dict[tuple[str, str], list[np.ndarray]] = {}
    alone: dict[tuple[str, str], list[np.ndarray]] = {}
    centres: dict[str, np.ndarray] = {}
    environments = domain.environments if of_labels else {}
    greatest = max((float(np.abs(values).max()) for values in train.descriptors), default=0.0)
    for atoms, descriptors in train.described():
        groups = domain.classes[atoms.info["structure"]]
        names = _atom_classes(domain.classes, environments, atoms, descriptors)
        for group, name, symbol, values in zip(
            groups, names, atoms.symbols, descriptors, strict=True
        ):
            part = pooled
            if symbol in free:
                centres[group] = np.asarray(free[symbol], dtype=float)
                away = np.abs(values - centres[group]).max()
                part = alone if away <= ROUNDING * greatest else pooled
            part.setdefault((group, name), []).append(values)
    seen = {group for group, _ in pooled}
    pooled |= {key: values for key, values in alone.items() if key[0] not in seen}
    normals: dict[str, list[Normal]] = {}
    for (group, _), values in sorted(pooled.items()):
        mean, whiten = fit_normal(np.array(values, dtype=float))
        normals.setdefault(group, []).append(
            Normal(mean=PackedArray.of(mean), whiten=PackedArray.of(whiten))
        )
    for group, centre in centres.items():
        whiten = NARROWER * normals[group][0].whiten.unpacked()
        normals[group].append(Normal(mean=PackedArray.of(centre), whiten=PackedArray.of(whiten)))
    unscaled = LatentSet(radius=_UNIT, normals=normals)
    calibration = Calibration(threshold=_UNIT, data=SignalData(sets=[unscaled]))
    signal = Latent("latent", calibration, domain.classes)
    # A class of few values hardly knows its own spread: it must not widen the others' radius.
    few = {
        group
        for group in normals
        if sum(len(values) for (of, _), values in pooled.items() if of == group) < FEWEST_VALUES
    }
    calibrating = set(normals) - few
    if not _distances_of(calibrating, signal, held_out):
        few, calibrating = set(), set(normals)
    reached = _distances_of(calibrating, signal, train) if of_labels else []
    radius = calibrate_margin(
        _distances_of(calibrating, signal, held_out),
        alpha,
        seed=seed,
        floor=max((float(values.max()) for values in reached), default=0.0),
    )
    for group in few:
        own = [*_distances_of({group}, signal, train), *_distances_of({group}, signal, held_out)]
        wider = max(1.0, max(float(values.max()) for values in own) / radius.value)
        normals[group] = [
            replace(n, whiten=PackedArray.of(n.whiten.unpacked() / wider)) for n in normals[group]
        ]
    return replace(unscaled, radius=radius)


def _distances_of(groups: Collection[str], signal: Latent, sample: Sample) -> list[np.ndarray]:
    """Raw distances of the atoms of these classes, of each frame that has any."""
    per_frame = []
    for atoms, values in zip(sample.frames, distances(signal, sample), strict=True):
        chosen = np.array([name in groups for name in signal.classes[atoms.info["structure"]]])
        if chosen.any():
            per_frame.append(values[chosen])
    return per_frame


def fit_normal(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and the matrix that turns deviations into independent ones of unit variance.

    Descriptors are scaled to unit variance, and their correlations shrunk towards none by as much
    as the sample asks for (O. Ledoit and M. Wolf, J. Multivariate Anal. 88, 365, 2004): with fewer
    values than descriptors the plain covariance has no inverse.

    Args:
        values: shape (n, D).

    Returns:
        Mean (D,) and W (D, D): `|(x - mean) @ W|` is the Mahalanobis distance.
    """
    mean = values.mean(axis=0)
    scale = descriptor_scale(values)
    scaled = (values - mean) / scale
    # A single value, or equal ones, have no covariance.
    covariance = np.eye(scaled.shape[1])
    if scaled.any():
        from sklearn.covariance import ledoit_wolf

        covariance, _ = ledoit_wolf(scaled, assume_centered=True)
    variances, axes = np.linalg.eigh(covariance)
    # Descriptors that depend on each other leave directions without variance but for rounding.
    variances = np.maximum(variances, 1e-9 * variances[-1])
    return mean, axes / np.sqrt(variances) / scale[:, None]
