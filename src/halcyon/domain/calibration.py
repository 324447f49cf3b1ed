"""Thresholds of signals, from frames: the whole domain of a model.

Thresholds are calibrated as the margin of the label domain is: peaks over threshold on held-out
labelled frames, never less than the greatest value on the training frames, and checked on frames
used for nothing else. The distances are computed by the code that runs at every step.

Not for: the signals themselves (see `signals`), or statistics of margins (see `domain`).
"""

import base64
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from sklearn.covariance import ledoit_wolf

from halcyon.config import DomainSettings
from halcyon.domain.intervals import (
    Calibration,
    Domain,
    Environments,
    Margin,
    build,
    by_class,
    calibrate_margin,
    descriptor_scale,
    environment_classes,
    exceedance,
    fit_environments,
)
from halcyon.domain.signals import (
    ALWAYS,
    Committee,
    Latent,
    Model,
    Output,
    PotentialEnergy,
    Thresholded,
    make_signal,
)

SMALLEST_SPREAD_EV = 1e-3
"""Standard deviation given to a structure whose training energies coincide, eV."""
TEACHER_HELD_OUT = 5
"""Every so many of the teacher's frames calibrates the distance to the others."""
FRAMES_AT_ONCE = 32


@dataclass(frozen=True)
class Sample:
    """Frames with what the model predicts for them.

    Attributes:
        frames: with `info["structure"]`.
        node_energy: per frame, shape (N,), eV.
        descriptors: per frame, shape (N, D).
        forces: per frame, shape (N, 3), eV/Å.
    """

    frames: Sequence[Atoms]
    node_energy: Sequence[np.ndarray]
    descriptors: Sequence[np.ndarray]
    forces: Sequence[np.ndarray]

    def __getitem__(self, which: slice) -> "Sample":
        return Sample(*(values[which] for values in vars(self).values()))

    def described(self) -> Iterator[tuple[Atoms, np.ndarray]]:
        """Frames with their descriptors."""
        return zip(self.frames, self.descriptors, strict=True)

    def steps(
        self, device: torch.device, dtype: torch.dtype
    ) -> Iterator[tuple[Sequence[Atoms], "_State", Output]]:
        """The frames as steps of batches of equal periodicity: (frames, state, output)."""
        begin = 0
        for end in range(1, len(self.frames) + 1):
            last = end == len(self.frames)
            if (
                last
                or end - begin == FRAMES_AT_ONCE
                or (self.frames[end].pbc.all() != self.frames[begin].pbc.all())
            ):
                part, begin = self[begin:end], end
                output = {
                    name: torch.as_tensor(np.concatenate(list(values)), device=device)
                    for name, values in (
                        ("node_energy", part.node_energy),
                        ("descriptors", part.descriptors),
                        ("forces", part.forces),
                    )
                }
                yield part.frames, _State.of(part.frames, device, dtype), output


@dataclass(frozen=True)
class _State:
    """As much of a torch-sim state as models and signals read."""

    positions: torch.Tensor
    atomic_numbers: torch.Tensor
    system_idx: torch.Tensor
    cell: torch.Tensor
    pbc: bool

    @classmethod
    def of(cls, frames: Sequence[Atoms], device: torch.device, dtype: torch.dtype) -> "_State":
        sizes = [len(atoms) for atoms in frames]
        arrays = (
            np.concatenate([atoms.positions for atoms in frames]),
            np.concatenate([atoms.numbers for atoms in frames]).astype(np.int64),
            np.repeat(np.arange(len(frames)), sizes),
            np.stack([atoms.cell.array.T for atoms in frames]),
        )
        positions, numbers, replica, cell = (torch.as_tensor(a, device=device) for a in arrays)
        periodic = bool(frames[0].pbc.all())
        return cls(positions.to(dtype), numbers, replica, cell.to(dtype), periodic)


_UNIT = Margin(value=1.0, low=1.0, high=1.0, method="none", alpha=1.0, n=0)


def distances(signal: Thresholded, sample: Sample) -> list[np.ndarray]:
    """Raw distances of the atoms of some frames, by the code that runs at every step.

    Args:
        signal: any.
        sample: any number of frames.

    Returns:
        Per frame, shape (N,); of `potential_energy` (1,), since its atoms share it.
    """
    members = signal.members if isinstance(signal, Committee) else ()
    device = getattr(members[0], "device", torch.device("cpu")) if members else torch.device("cpu")
    found: list[np.ndarray] = []
    for frames, state, output in sample.steps(device, torch.float64):
        raw = signal.distance(frames, device)(state, output).cpu()
        found += [part.numpy() for part in raw.split([len(atoms) for atoms in frames])]
    if isinstance(signal, PotentialEnergy):  # a frame's atoms share one number: count it once
        found = [values[:1] for values in found]
    return found


def fit_domain(
    *,
    train: Sample,
    teacher: Sample,
    held_out: Sample,
    check: Sample,
    classes: dict[str, list[str]],
    bonds: dict[str, list[tuple[int, int, float]]],
    settings: DomainSettings,
    seed: int,
    committee: Sequence[Model] = (),
) -> Domain:
    """The whole domain of a model: both tiers, and all signals that the settings name.

    Args:
        train: labelled frames that the model was trained on.
        teacher: the teacher's frames; none without pre-training.
        held_out: labelled frames not trained on: they set margin and thresholds.
        check: labelled frames used for nothing: the exceedance is measured on them.
        classes: class of every atom, per structure; its element where environments are asked for.
        bonds: per structure, (i, j, mean length in Å).
        settings: alpha, kind of classes, signals.
        seed: of bootstraps and clusters.
        committee: the other models of the signal `committee`.

    Raises:
        InputError: no held-out frames, a class without training structures, or a committee
            without models.
    """
    environments = {}
    if settings.classes == "environment":
        elements = [classes[atoms.info["structure"]] for atoms in train.frames]
        environments = fit_environments(elements, train.descriptors, seed=seed)

    def pooled(sample: Sample) -> dict[str, np.ndarray]:
        names = [_kinds(classes, environments, *one) for one in sample.described()]
        return by_class(sample.node_energy, names)

    def by_frame(sample: Sample) -> list[dict[str, np.ndarray]]:
        return [pooled(sample[i : i + 1]) for i in range(len(sample.frames))]

    domain = build(
        train=pooled(train),
        teacher=pooled(teacher),
        held_out=by_frame(held_out),
        check=by_frame(check),
        classes=classes,
        bonds=bonds,
        alpha=settings.alpha,
        seed=seed,
        environments=environments,
    )
    return calibrate(
        domain,
        settings.signals,
        train=train,
        teacher=teacher,
        held_out=held_out,
        check=check,
        alpha=settings.alpha,
        seed=seed,
        committee=committee,
    )


def _kinds(
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
    names: Sequence[str],
    *,
    train: Sample,
    teacher: Sample,
    held_out: Sample,
    check: Sample,
    alpha: float,
    seed: int,
    committee: Sequence[Model] = (),
) -> Domain:
    """Add the calibration of signals to a domain.

    Args:
        domain: as `domain.build` makes it.
        names: signals, as in the configuration; those of `ALWAYS` need nothing more.
        train: labelled frames that the model was trained on.
        teacher: the teacher's frames; none without pre-training.
        held_out: labelled frames not trained on: they set the thresholds.
        check: labelled frames used for nothing: the exceedance is measured on them.
        alpha: wanted exceedance per atom.
        seed: of the bootstrap.
        committee: the other models of the signal `committee`.

    Raises:
        InputError: no held-out frames, or `committee` without models.
    """
    done = {}
    for name in dict.fromkeys(names):
        if name in ALWAYS:
            continue
        data: dict[str, Any] = {}
        if name == "potential_energy":
            data = {"structures": _energies(train)}
        elif name in ("latent", "latent_guard"):
            sets = [_distributions(domain, train, held_out, alpha=alpha, seed=seed, covers=True)]
            if name == "latent_guard" and len(teacher.frames):
                sets.append(_of_teacher(domain, teacher, alpha=alpha, seed=seed))
            data = {"sets": sets}
        unfitted = Calibration(threshold=_UNIT, exceedance={}, data=data)
        signal = make_signal(replace(domain, signals={name: unfitted}), name, committee)
        assert isinstance(signal, Thresholded)  # noqa: S101  # the others are in ALWAYS
        if isinstance(signal, Latent):
            threshold = Margin(**data["sets"][0]["radius"])
        else:
            floor = max(float(values.max()) for values in distances(signal, train))
            threshold = calibrate_margin(distances(signal, held_out), alpha, seed=seed, floor=floor)
        signal.calibration = replace(unfitted, threshold=threshold)
        outside = [values > signal.limit for values in distances(signal, check)]
        done[name] = replace(signal.calibration, exceedance=exceedance(outside))
    return replace(domain, signals=domain.signals | done)


def _energies(train: Sample) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the interaction energy per structure, eV."""
    pooled: dict[str, list[float]] = {}
    for atoms, energies in zip(train.frames, train.node_energy, strict=True):
        pooled.setdefault(atoms.info["structure"], []).append(float(energies.sum()))
    return {
        name: (float(np.mean(values)), max(float(np.std(values)), SMALLEST_SPREAD_EV))
        for name, values in pooled.items()
    }


def _of_teacher(domain: Domain, teacher: Sample, *, alpha: float, seed: int) -> dict[str, Any]:
    """Distributions of the teacher's frames; every so many of them sets the radius."""
    fifth = teacher[::TEACHER_HELD_OUT]
    number = np.arange(len(teacher.frames))
    others = [int(i) for i in number[number % TEACHER_HELD_OUT > 0]]
    rest = Sample(*([values[i] for i in others] for values in vars(teacher).values()))
    return _distributions(domain, rest, fifth, alpha=alpha, seed=seed, covers=False)


def _distributions(
    domain: Domain, train: Sample, held_out: Sample, *, alpha: float, seed: int, covers: bool
) -> dict[str, Any]:
    """Normal distributions per class, and the radius that a further atom is within.

    Args:
        domain: for its classes.
        train: what the distributions are fitted to.
        held_out: what the radius is fitted to.
        alpha: part of the held-out atoms that may be outside.
        seed: of the bootstrap.
        covers: whether the radius must hold all of `train`, too.
    """
    pooled: dict[tuple[str, str], list[np.ndarray]] = {}
    for atoms, descriptors in train.described():
        groups = domain.classes[atoms.info["structure"]]
        # The teacher's frames leave the surroundings that the labels have: one distribution.
        environments = domain.environments if covers else {}
        kinds = _kinds(domain.classes, environments, atoms, descriptors)
        for group, kind, values in zip(groups, kinds, descriptors, strict=True):
            pooled.setdefault((group, kind), []).append(values)
    normals: dict[str, list[dict[str, Any]]] = {}
    for (group, _), values in sorted(pooled.items()):
        mean, whiten = fit_normal(np.array(values, dtype=float))
        normals.setdefault(group, []).append({"mean": _encoded(mean), "whiten": _encoded(whiten)})
    data = {"sets": [{"radius": asdict(_UNIT), "normals": normals}]}
    bare = Latent("latent", Calibration(threshold=_UNIT, exceedance={}, data=data), domain.classes)
    floor = max(float(v.max()) for v in distances(bare, train)) if covers else 0.0
    radius = calibrate_margin(distances(bare, held_out), alpha, seed=seed, floor=floor)
    return {"radius": asdict(radius), "normals": normals}


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
        covariance, _ = ledoit_wolf(scaled, assume_centered=True)
    variances, axes = np.linalg.eigh(covariance)
    # Descriptors that depend on each other leave directions without variance but for rounding.
    variances = np.maximum(variances, 1e-9 * variances[-1])
    return mean, axes / np.sqrt(variances) / scale[:, None]


def _encoded(array: np.ndarray) -> dict[str, Any]:
    """An array as text: a tenth of what digits would take, and exact."""
    packed = zlib.compress(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return {"shape": list(array.shape), "zlib_f8": base64.b64encode(packed).decode()}
