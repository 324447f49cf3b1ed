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
from halcyon.domain.environments import Environments
from halcyon.domain.expected import ExpectedErrors
from halcyon.domain.margins import Exceedance, Margin
from halcyon.errors import InputError

Bond = tuple[int, int, float]
"""Indices of two atoms, and the mean length of their bond, Å."""

SCHEMA_VERSION = 4
"""Schema 1 had neither environments nor signals, schema 2 no expected errors; expected errors of
schema 3 were not taken at the upper end of their interval. All are read, and used as they were."""


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
        """Read what `write` wrote, now or under an earlier schema.

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
