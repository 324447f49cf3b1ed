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
every step (see `environments`). Descriptors come from the forward pass that gives the forces, so
that this needs no neighbour list and no cutoff of its own.

    from halcyon.domain import Domain

    domain = Domain.read("results/quickstart/ethanol/gen000/domain.json")
    domain.label  # lower and upper bound in eV, by class
    domain.margin.value  # in widths of an interval

Not for: what accumulates over a trajectory (see `index`), the statistics of a margin (see
`margins`), or other signals than atomic energies (see `signals`; their calibration is kept here).
"""

import base64
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from halcyon import files
from halcyon.domain.environments import Environments, no_training_frames
from halcyon.domain.expected import ExpectedErrors
from halcyon.domain.margins import Exceedance, Margin, calibrate_margin, exceedance
from halcyon.errors import InputError

Bond = tuple[int, int, float]
"""Indices of two atoms, and the mean length of their bond, Å."""

SCHEMA_VERSION = 3
"""Schema 1 had neither environments nor signals, schema 2 no expected errors; both are read."""
SMALLEST_WIDTH_EV = 1e-3
"""Width given to a class whose training values coincide, e.g. a single value, eV."""
FEWEST_VALUES = 10
"""The range of fewer training values says little: distances outside it, in widths, are huge."""


@dataclass(frozen=True, kw_only=True)
class PackedArray:
    """An array as text: a tenth of what digits would take, and exact.

    Attributes:
        shape: of the array.
        zlib_f8: little-endian float64, compressed by zlib, in base 64.
    """

    shape: list[int]
    zlib_f8: str

    @classmethod
    def of(cls, array: np.ndarray) -> "PackedArray":
        """Pack an array."""
        packed = zlib.compress(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return cls(shape=list(array.shape), zlib_f8=base64.b64encode(packed).decode())

    def unpacked(self) -> np.ndarray:
        """The array, float64."""
        flat = np.frombuffer(zlib.decompress(base64.b64decode(self.zlib_f8)), dtype="<f8")
        return flat.reshape(self.shape).copy()


@dataclass(frozen=True, kw_only=True)
class Normal:
    """A normal distribution of descriptors.

    Attributes:
        mean: shape (D,).
        whiten: shape (D, D): `|(x - mean) @ whiten|` is the Mahalanobis distance.
    """

    mean: PackedArray
    whiten: PackedArray


@dataclass(frozen=True, kw_only=True)
class LatentSet:
    """Normal distributions of the descriptors of some frames, and the distance they reach.

    Attributes:
        radius: Mahalanobis distance within which further atoms are.
        normals: distributions of each class of atoms.
    """

    radius: Margin
    normals: dict[str, list[Normal]]


@dataclass(frozen=True, kw_only=True)
class SignalData:
    """What a signal needs besides its threshold.

    Attributes:
        sets: of the latent signals: the labelled training frames, then the teacher's.
        structures: of `potential_energy`: mean and standard deviation of the interaction energy
            of each structure on the training frames, eV.
    """

    sets: list[LatentSet] = field(default_factory=list)
    structures: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a signal needs, and how well it keeps its promise; see `signals`.

    Attributes:
        threshold: raw value from which an atom is outside, in the signal's own unit.
        exceedance: how often atoms are outside on frames not used for the fit; None without such
            frames.
        data: what the signal needs besides.
    """

    threshold: Margin
    exceedance: Exceedance | None = None
    data: SignalData = field(default_factory=SignalData)


@dataclass(frozen=True, kw_only=True)
class DomainReport:
    """Numbers for people about a domain; as they are here where `build` did not make it.

    Attributes:
        training_frames_values: per class, number of training values.
        held_out_frames: number of frames that the margin rests on.
        selected_left_out: number of held-out frames that it does not rest on, because the index
            or their strangeness selected them: outliers would open the domain.
        selected_used: number of such frames that it does rest on, since too few others are there.
        check_frames: number of frames that the exceedances rest on.
        exceedance_bare: how often atoms of these are outside the intervals without margin.
        exceedance_with_margin: how often they are outside the label domain.
        mean_width_label_eV: mean width of the label domain's intervals, eV.
        mean_width_guard_eV: mean width of the guard domain's intervals, eV.
    """

    training_frames_values: dict[str, int] = field(default_factory=dict)
    held_out_frames: int = 0
    selected_left_out: int = 0
    selected_used: int = 0
    check_frames: int = 0
    exceedance_bare: Exceedance | None = None
    exceedance_with_margin: Exceedance | None = None
    mean_width_label_eV: float = 0.0
    mean_width_guard_eV: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Intervals per atom class, margins included.

    Attributes:
        classes: class of every atom, for each structure name; with `environments` its element.
        label: per class, (lower, upper) of the label domain, eV.
        guard: per class, (lower, upper) of the guard domain, eV.
        margin: the calibrated margin of the label domain.
        bonds: per structure, (i, j, mean length in Å) over the training structures.
        report: numbers for people.
        environments: per element, its clusters; empty where classes are fixed per atom. Class
            `O/0` is the first of oxygen.
        signals: calibration of the signals other than the two tiers, by name.
        expected: from raw distances of signals to expected force errors; None: an earlier release
            made the domain, or no frame held out of training has forces.
    """

    classes: dict[str, list[str]]
    label: dict[str, tuple[float, float]]
    guard: dict[str, tuple[float, float]]
    margin: Margin
    bonds: dict[str, list[Bond]]
    report: DomainReport = field(default_factory=DomainReport)
    environments: dict[str, Environments] = field(default_factory=dict)
    signals: dict[str, Calibration] = field(default_factory=dict)
    expected: ExpectedErrors | None = None

    def tier(self, name: str) -> dict[str, tuple[float, float]]:
        """Intervals per class of the tier `label` or `guard`, eV."""
        return {"label": self.label, "guard": self.guard}[name]

    @property
    def limits(self) -> dict[str, float]:
        """Raw distance over which an atom is outside, by signal; see `signals`."""
        own_unit = {"node_energy": 1.0, "guard": 1.0}  # half widths; of latent ones radii
        return own_unit | {
            name: 1.0 if name.startswith("latent") else calibration.threshold.value
            for name, calibration in self.signals.items()
        }

    @property
    def deciding(self) -> str:
        """Name of the signal that the index counts by: `error`, or that of early releases."""
        return "error" if self.expected else "node_energy"

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

    def lines(self) -> Iterator[str]:
        """Sentences about what decides, the thresholds and how well they are kept.

        The label domain's is the last.
        """
        if self.expected:
            yield from self.expected.lines()
        if self.report.selected_used:
            yield (
                f"{self.report.selected_used} of the {self.report.held_out_frames} held-out frames "
                "that calibrate were selected as outliers, since there are too few others: "
                "thresholds may be too wide. A larger seed_labels.validation mends that"
            )
        for name, signal in self.signals.items():
            threshold = signal.threshold
            yield (
                f"{name}: threshold {threshold.value:.3g} ({threshold.low:.3g}–"
                f"{threshold.high:.3g}, {threshold.method}), on test frames "
                f"{_text(signal.exceedance)}"
            )
        yield (
            f"{len(self.label)} classes, margin {self.margin.value:.2f} widths "
            f"({self.margin.low:.2f}–{self.margin.high:.2f}, {self.margin.method}), on test frames "
            f"{_text(self.report.exceedance_with_margin)}"
        )

    def content(self) -> dict[str, Any]:
        """As plain JSON. What was not measured, or is not there, is `{}`."""
        content = asdict(self)
        content["expected"] = self.expected.content() if self.expected else {}
        content["report"] = _without_none(content["report"])
        content["signals"] = {
            name: _without_none(entry)
            | {"data": {key: value for key, value in entry["data"].items() if value}}
            for name, entry in content["signals"].items()
        }
        return {"schema": SCHEMA_VERSION, "unit": "eV"} | content

    def write(self, path: Path | str) -> None:
        """Write as JSON, atomically."""
        files.write_json(path, self.content())

    @classmethod
    def read(cls, path: Path | str) -> "Domain":
        """Read what `write` wrote, now or under schema 1 or 2.

        Raises:
            InputError: missing, damaged, or of another schema.
        """
        content = files.read_json(path)
        schema = content.pop("schema", None) if isinstance(content, dict) else None
        if schema not in range(1, SCHEMA_VERSION + 1):
            raise InputError(
                f"{path}: not a domain file of schema 1 to {SCHEMA_VERSION}. A later release may "
                "have written it: update Halcyon"
            )
        try:
            return cls._of(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: damaged ({type(error).__name__}: {error}). Delete this file and run the "
                "same command: it is made again, and no frame is labelled a second time"
            ) from error

    @classmethod
    def _of(cls, content: dict[str, Any]) -> "Domain":
        """The domain of a file's content, without its schema."""
        names = {part.name for part in fields(cls)} | {"unit"}
        if unknown := content.keys() - names:
            raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
        return cls(
            classes=content["classes"],
            label={name: (low, high) for name, (low, high) in content["label"].items()},
            guard={name: (low, high) for name, (low, high) in content["guard"].items()},
            margin=Margin(**content["margin"]),
            bonds={
                structure: [(i, j, length) for i, j, length in entries]
                for structure, entries in content["bonds"].items()
            },
            report=_report(content["report"]),
            environments={
                element: Environments(**entry)
                for element, entry in content.get("environments", {}).items()
            },
            signals={
                name: _calibration(entry) for name, entry in content.get("signals", {}).items()
            },
            expected=ExpectedErrors.of(content["expected"]) if content.get("expected") else None,
        )


def _text(measured: Exceedance | None) -> str:
    return measured.text if measured else "nothing was measured"


def _without_none(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with `{}` in place of None."""
    return {key: {} if value is None else value for key, value in entry.items()}


def _exceedance_of(entry: dict[str, Any]) -> Exceedance | None:
    return Exceedance(**entry) if entry else None


def _report(entry: dict[str, Any]) -> DomainReport:
    measured = {
        name: _exceedance_of(entry.get(name, {}))
        for name in ("exceedance_bare", "exceedance_with_margin")
    }
    return DomainReport(**(entry | measured))


def _calibration(entry: dict[str, Any]) -> Calibration:
    data = entry["data"]
    return Calibration(
        threshold=Margin(**entry["threshold"]),
        exceedance=_exceedance_of(entry["exceedance"]),
        data=SignalData(
            sets=[
                LatentSet(
                    radius=Margin(**part["radius"]),
                    normals={
                        name: [
                            Normal(**{key: PackedArray(**array) for key, array in normal.items()})
                            for normal in normals
                        ]
                        for name, normals in part["normals"].items()
                    },
                )
                for part in data.get("sets", [])
            ],
            structures={
                name: (mean, spread) for name, (mean, spread) in data.get("structures", {}).items()
            },
        ),
    )


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
