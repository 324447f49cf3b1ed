"""Signals: by how much each atom is outside of what the model knows, at one step.

A signal turns the model's output for a batch into a score per atom: 0 inside the signal's domain,
else the distance outside in the signal's own width or threshold, infinite where a number is not
finite. Scores of different signals can thus be compared, and `index` accumulates any of them. How
thresholds are found: see `calibration`. The signal `error` decides: it is the force error that the
raw distances of others let expect (see `expected`), beyond the tolerance and in tolerances.

A scorer makes no transfer and does not wait for the device. It depends on structures and cells of
the batch, not on its size or order; when replicas leave, make a new one: it is cheap.

    from halcyon.domain.signals import make_signals

    signals = make_signals(domain, [])  # `error` and those of `ALWAYS`, and none besides
    score = signals["error"].for_batch(starts, device)
    score(state, output)  # at one step; shape (N,), float64, on the device

Not for: what a score means for a campaign (see `halcyon.verdict.saturation`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms

from halcyon.domain.intervals import Calibration, Domain
from halcyon.domain.pairs import Pairs
from halcyon.domain.rows import Groups, Lines
from halcyon.errors import InputError

ALWAYS = ("node_energy", "guard", "latent")
"""Signals that are always watched, after `error`, which decides."""
TIERS = {"node_energy": "label", "guard": "guard"}
"""Tier of the domain by signal of atomic energies."""

Output = Mapping[str, torch.Tensor]
"""What a model returns for a batch: energy (R,), forces (N, 3), node_energy (N,), descriptors
(N, D); R replicas, N atoms of all; eV, Å."""
Scorer = Callable[[Any, Output], torch.Tensor]
"""(state, output) → a number per atom, shape (N,), float64. Of the torch-sim state, signals read
`positions` (N, 3) and, where there is one, `moving_cell` (R, 3, 3), vectors in columns: the cells
where they are no longer those of the start; other models may read all of it."""
FromDistances = Callable[[Output, Mapping[str, torch.Tensor]], torch.Tensor]
"""(output, raw distances of a signal's parts by name) → scores, shape (N,)."""
Model = Callable[[Any], Output]


class Signal(ABC):
    """What every signal has.

    Attributes:
        name: as in the configuration.
        column: what its trace columns end in.
        forward_passes: passes through other models that it takes at every step; the pass that
            gives the forces is free.
        unit: of the raw distance.
    """

    name: str
    unit: str
    forward_passes: int = 0

    @property
    def column(self) -> str:
        """What its trace columns end in: its name, or, for the label domain, `label`."""
        return self.name

    @abstractmethod
    def distance(self, starts: Sequence[Atoms], device: torch.device) -> Scorer:
        """Scorer of a batch, see `for_batch`, that gives the raw distance ≥ 0, in `unit`."""

    @property
    def parts(self) -> "Sequence[Signal]":
        """Signals whose raw distances the score is made of."""
        return (self,)

    @abstractmethod
    def raw_score(self, starts: Sequence[Atoms], device: torch.device) -> "FromDistances":
        """From raw distances to scores of a batch; they may be NaN where inputs are not finite."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people: what is measured, and what it costs."""

    def for_batch(self, starts: Sequence[Atoms], device: torch.device) -> Scorer:
        """Scorer of a batch.

        Args:
            starts: a frame of each replica, in the batch's order, with `info["structure"]`.
            device: where the batch is.
        """
        together = score_together([self], starts, device)
        return lambda state, output: together(state, output)[0]

    def _cost(self) -> str:
        passes = self.forward_passes
        return f"{passes or 'no'} more forward pass{'' if passes == 1 else 'es'} a step"


class NodeEnergy(Signal):
    """Distance of an atomic energy outside its interval of one tier, in widths of it.

    The raw distance is that from the interval's middle, in half widths: 1 at its ends.
    """

    unit = "half widths"

    def __init__(self, domain: Domain, tier: str) -> None:
        """Take the tier `label` or `guard` of a domain."""
        self.name = "node_energy" if tier == "label" else tier
        self.tier, self.domain = tier, domain

    @property
    def column(self) -> str:
        """`label` or `guard`."""
        return self.tier

    def describe(self) -> str:
        """One line for people."""
        return f"{self.name}: atomic energies against the {self.tier} domain; {self._cost()}"

    @property
    def parts(self) -> Sequence[Signal]:
        """None: a rounded distance from the middle could put the ends of the interval outside."""
        return ()

    def raw_score(self, starts: Sequence[Atoms], device: torch.device) -> FromDistances:
        """In widths of the interval."""
        bounds = self._bounds(starts, device)

        def score(output: Output, _: Mapping[str, torch.Tensor]) -> torch.Tensor:
            energy = output["node_energy"]
            lower, upper, width = bounds(output)
            return (energy - energy.clamp(lower, upper)).abs_() / width

        return score

    def distance(self, starts: Sequence[Atoms], device: torch.device) -> Scorer:
        """In half widths of the interval, from its middle."""
        bounds = self._bounds(starts, device)

        def raw(_: Any, output: Output) -> torch.Tensor:
            lower, upper, width = bounds(output)
            return (2 * output["node_energy"] - lower - upper).abs_() / width

        return raw

    def _bounds(
        self, starts: Sequence[Atoms], device: torch.device
    ) -> Callable[[Output], Sequence[torch.Tensor]]:
        """From a model's output to lower end, upper end and width of each atom's interval, eV."""
        if self.domain.environments:
            return self._bounds_by_environment(starts, device)
        structures = [atoms.info["structure"] for atoms in starts]
        bounds = torch.as_tensor(self.domain.intervals(self.tier, structures), device=device)
        lower, upper = bounds.unbind()
        fixed = lower, upper, upper - lower
        return lambda _: fixed

    def _bounds_by_environment(
        self, starts: Sequence[Atoms], device: torch.device
    ) -> Callable[[Output], Sequence[torch.Tensor]]:
        groups = Groups(self.domain.classes, starts, device)
        environments = [self.domain.environments[element] for element in groups.names]
        scale = torch.as_tensor(np.array([e.scale for e in environments]), device=device)[
            :, None, None
        ]
        # Elements of fewer environments repeat their first: the nearest stays the nearest.
        most = max(len(environment.centroids) for environment in environments)
        padded = [e.centroids + e.centroids[:1] * (most - len(e.centroids)) for e in environments]
        centroids = torch.as_tensor(np.array(padded), device=device)[:, :, None]
        intervals = self.domain.tier(self.tier)
        bounds = [
            [intervals[f"{name}/{i if i < len(e.centroids) else 0}"] for i in range(most)]
            for name, e in zip(groups.names, environments, strict=True)
        ]
        lower, upper = torch.as_tensor(np.array(bounds), device=device).unbind(dim=2)
        width = upper - lower

        def of_atoms(output: Output) -> Sequence[torch.Tensor]:
            descriptors = groups.pack(output["descriptors"].double())
            difference = (descriptors[:, None] - centroids) / scale
            nearest = (difference * difference).sum(dim=3).argmin(dim=1)
            return [groups.unpack(table.gather(1, nearest)) for table in (lower, upper, width)]

        return of_atoms


class Thresholded(Signal):
    """A distance ≥ 0 with a calibrated threshold; scores are in thresholds beyond it."""

    def __init__(self, calibration: Calibration) -> None:
        """Take a calibration, as `calibrate` makes it."""
        self.calibration = calibration

    @property
    def limit(self) -> float:
        """Distance from which an atom is outside."""
        return max(self.calibration.threshold.value, float(np.finfo(float).tiny))

    @property
    @abstractmethod
    def meaning(self) -> str:
        """What the distance is, for people."""

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.name}: {self.meaning}, outside from {self.limit:.3g} {self.unit} on; "
            f"{self._cost()}"
        )

    def raw_score(
        self,
        starts: Sequence[Atoms],  # noqa: ARG002
        device: torch.device,  # noqa: ARG002
    ) -> FromDistances:
        """In thresholds beyond the threshold."""
        name, limit = self.name, self.limit
        return lambda _, distances: (distances[name] / limit - 1).clamp_(min=0.0)


class Latent(Thresholded):
    """Distance of an atom's descriptor to what was seen, by normal distributions per class.

    The distance is P. C. Mahalanobis' to the nearest of the class's distributions, each divided by
    its calibrated radius. The signal `latent` has the distributions of the labelled training frames
    (one per class, or per environment of an element). `latent_guard` has, besides, one per class
    of the teacher's frames, with a radius of its own: an atom is outside where it is far from both
    sets, however wide the intervals of the guard domain are.
    """

    unit = "radii"

    def __init__(self, name: str, calibration: Calibration, classes: dict[str, list[str]]) -> None:
        """Take a calibration and the domain's classes of atoms."""
        super().__init__(calibration)
        self.name, self.classes = name, classes

    @property
    def limit(self) -> float:
        """Distances are in radii, of which each set of frames has its own."""
        return 1.0

    @property
    def meaning(self) -> str:
        """What the distance is, for people."""
        nearest = " or the teacher's" if self.name == "latent_guard" else ""
        return f"distance of descriptors to those of the labels{nearest}"

    def distance(self, starts: Sequence[Atoms], device: torch.device) -> Scorer:
        """In radii of the nearest distribution."""
        groups = Groups(self.classes, starts, device)
        in_radii = [
            [
                (normal.mean.unpacked(), normal.whiten.unpacked() / latent_set.radius.value)
                for latent_set in self.calibration.data.sets
                for normal in latent_set.normals.get(name, [])
            ]
            for name in groups.names
        ]
        most = max(len(normals) for normals in in_radii)
        # Classes of fewer distributions repeat their first: the nearest stays the nearest.
        padded = [normals + normals[:1] * (most - len(normals)) for normals in in_radii]
        means, whiten = (
            torch.as_tensor(np.array([[n[part] for n in row] for row in padded]), device=device)
            for part in (0, 1)
        )
        means = means[:, :, None]

        def raw(_: Any, output: Output) -> torch.Tensor:
            # In the model's precision: its descriptors are no better, and float64 takes six times
            # as long.
            descriptors = groups.pack(output["descriptors"])
            of_model = descriptors.dtype
            white = torch.matmul(descriptors[:, None] - means.to(of_model), whiten.to(of_model))
            nearest = torch.linalg.vector_norm(white, dim=3).amin(dim=1)
            return groups.unpack(nearest).double()

        return raw


class Committee(Thresholded):
    """Disagreement of k more models and the model itself about the force on an atom.

    The standard deviation over models, `sqrt(mean |F - mean F|²)` (L. Zhang et al., Phys. Rev.
    Materials 3, 023804, 2019).
    """

    name = "committee"
    unit = "eV/Å"
    meaning = "standard deviation of forces over models"

    def __init__(self, calibration: Calibration, members: Sequence[Model]) -> None:
        """Take a calibration and the other models, e.g. `halcyon.models.batched.BatchedMace`."""
        super().__init__(calibration)
        self.members = members
        self.forward_passes = len(members)

    def distance(self, starts: Sequence[Atoms], device: torch.device) -> Scorer:  # noqa: ARG002
        """In eV/Å."""

        def raw(state: Any, output: Output) -> torch.Tensor:
            others = [member(state)["forces"].double() for member in self.members]
            forces = torch.stack([output["forces"].double(), *others])
            difference = forces - forces.mean(dim=0)
            return (difference * difference).sum(dim=2).mean(dim=0).sqrt()

        return raw


class PotentialEnergy(Thresholded):
    """How unusual the total energy is: its z-score on the training frames, for all atoms alike."""

    name = "potential_energy"
    unit = "standard deviations"
    meaning = "total energy against the training frames"

    def distance(self, starts: Sequence[Atoms], device: torch.device) -> Scorer:
        """In standard deviations of the structure's training energies."""
        # Interaction energies are added up: the elements' own energies are constant, and so large
        # that rounding would lose meV.
        moments = [self.calibration.data.structures[atoms.info["structure"]] for atoms in starts]
        mean, spread = torch.as_tensor(np.array(moments), device=device).unbind(dim=1)
        sizes = [len(atoms) for atoms in starts]
        replica = torch.as_tensor(np.repeat(np.arange(len(starts)), sizes), device=device)

        def raw(_: Any, output: Output) -> torch.Tensor:
            energy = torch.zeros_like(mean).index_add_(0, replica, output["node_energy"].double())
            return ((energy - mean) / spread).abs_().index_select(0, replica)

        return raw


class BondStretch(Thresholded):
    """How far the worst bond of an atom is from its mean length over the training frames."""

    name = "bond_stretch"
    unit = "Å"
    meaning = "deviation of bonds from their training mean"

    def __init__(
        self, calibration: Calibration, bonds: dict[str, list[tuple[int, int, float]]]
    ) -> None:
        """Take a calibration and the domain's bonds."""
        super().__init__(calibration)
        self.bonds = bonds

    def distance(self, starts: Sequence[Atoms], device: torch.device) -> Scorer:
        """In Å; 0 for an atom without bonds."""
        bonds = [self.bonds.get(atoms.info["structure"], []) for atoms in starts]
        ends = [
            np.array([(i, j) for i, j, _ in part], dtype=int).reshape(-1, 2).T for part in bonds
        ]
        pairs = Pairs(starts, ends, device)
        means = np.array([length for part in bonds for _, _, length in part])
        lengths = torch.as_tensor(means, device=device)
        atoms = torch.cat([pairs.first, pairs.second])

        def raw(state: Any, _: Output) -> torch.Tensor:
            positions = state.positions.double()
            cells = getattr(state, "moving_cell", None)
            deviation = (pairs.squared(positions, cells).sqrt() - lengths).abs_()
            # An atom without bonds gets 0, or NaN where its position is not finite.
            zeros = (positions - positions).sum(dim=1)
            return zeros.scatter_reduce_(0, atoms, deviation.repeat(2), "amax")

        return raw


class ExpectedError(Signal):
    """The force error that an atom is expected to have; outside where it is over the tolerance.

    The raw distance is the expected error, see `expected`.

    Attributes:
        tolerance_eV_per_A: greatest expected error inside.
        forward_passes: those of the signals that it rests on.
    """

    name = "error"
    unit = "eV/Å"

    def __init__(self, domain: Domain, committee: Sequence[Model] = ()) -> None:
        """Take a domain, and the other models where the signal `committee` decides.

        Raises:
            InputError: the domain has no expected errors, or `committee` has no models.
        """
        if domain.expected is None:
            raise no_expected_errors()
        self.expected, self.classes = domain.expected, domain.classes
        self.tolerance_eV_per_A = self.expected.tolerance_eV_per_A
        self._signals = [make_signal(domain, name, committee) for name in self.expected.signals]
        self.forward_passes = sum(signal.forward_passes for signal in self._signals)

    @property
    def parts(self) -> Sequence[Signal]:
        """Those that decide."""
        return self._signals

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.name}: force error that {' and '.join(self.expected.signals)} let expect, "
            f"outside from {self.tolerance_eV_per_A:g} {self.unit} on; {self._cost()}"
        )

    def distance(self, starts: Sequence[Atoms], device: torch.device) -> Scorer:
        """The expected error, eV/Å."""
        expected = self._expectation(starts, device)
        scorers = {signal.name: signal.distance(starts, device) for signal in self.parts}
        return lambda state, output: expected(
            {name: scorer(state, output) for name, scorer in scorers.items()}
        )

    def raw_score(self, starts: Sequence[Atoms], device: torch.device) -> FromDistances:
        """In tolerances over the tolerance."""
        expected, tolerance = self._expectation(starts, device), self.tolerance_eV_per_A
        return lambda _, distances: (expected(distances) / tolerance - 1).clamp_(min=0.0)

    def _expectation(
        self, starts: Sequence[Atoms], device: torch.device
    ) -> Callable[[Mapping[str, torch.Tensor]], torch.Tensor]:
        """From raw distances of the parts to expected errors, eV/Å."""
        groups = Groups(self.classes, starts, device)
        tables = [
            Lines([self.expected.curves[signal][name] for name in groups.names], device)
            for signal in self.expected.signals
        ]
        combined = Lines([self.expected.combined], device) if self.expected.combined else None

        def expected(distances: Mapping[str, torch.Tensor]) -> torch.Tensor:
            single = [
                table.at(groups.pack(distances[signal].unsqueeze(1)).squeeze(2))
                for table, signal in zip(tables, self.expected.signals, strict=True)
            ]
            if combined is None:
                return groups.unpack(single[0])
            mean = torch.stack(single).log_().mean(dim=0).exp_()
            return combined.at(groups.unpack(mean).unsqueeze(0)).squeeze(0)

        return expected


def make_signals(
    domain: Domain, names: Sequence[str], committee: Sequence[Model] = ()
) -> dict[str, Signal]:
    """Signals to watch, by what their trace columns end in: `error`, then those of `ALWAYS`.

    Args:
        domain: with the calibration of all of them.
        names: as in the configuration.
        committee: the other models of the signal `committee`.

    Raises:
        InputError: the domain has no expected errors, a signal is not calibrated, or `committee`
            has no models.
    """
    always = [name for name in ALWAYS if name in TIERS or name in domain.signals]
    unique = dict.fromkeys((ExpectedError.name, *always, *names))
    signals = [make_signal(domain, name, committee) for name in unique]
    return {signal.column: signal for signal in signals}


def score_together(
    signals: Sequence[Signal], starts: Sequence[Atoms], device: torch.device
) -> Scorer:
    """Scorer of S signals, of shape (S, N); a distance that several rest on is computed once.

    Args:
        signals: at least one.
        starts: a frame of each replica, in the batch's order, with `info["structure"]`.
        device: where the batch is.
    """
    parts = {part.name: part for signal in signals for part in signal.parts}
    distances = {name: part.distance(starts, device) for name, part in parts.items()}
    scores = [signal.raw_score(starts, device) for signal in signals]

    def together(state: Any, output: Output) -> torch.Tensor:
        raw = {name: distance(state, output) for name, distance in distances.items()}
        rows = torch.stack([score(output, raw) for score in scores])
        return torch.nan_to_num_(rows, nan=torch.inf, posinf=torch.inf)

    return together


def deciding_alone(domain: Domain) -> Signal:
    """What decides where only one model is at hand, and its output is all that is known of a step.

    It is `error`; or the label domain, where an earlier release made the domain or the signal
    `committee` decides.
    """
    if domain.expected is None or "committee" in domain.expected.signals:
        return NodeEnergy(domain, "label")
    return ExpectedError(domain)


def no_expected_errors() -> InputError:
    """What to do about a domain of an earlier release."""
    return InputError(
        "the domain has no expected force errors, by which the dynamics is judged: an earlier "
        "release made it, or no frame held out of training has forces. Delete domain.json of this "
        "generation and run the same command: it is made again, and no frame is labelled a second "
        "time"
    )


def make_signal(domain: Domain, name: str, committee: Sequence[Model]) -> Signal:
    """One signal; see `make_signals`."""
    if name == ExpectedError.name:
        return ExpectedError(domain, committee)
    if name in TIERS:
        return NodeEnergy(domain, TIERS[name])
    if name == "committee" and not committee:
        raise InputError(
            "signal committee: domain.committee names no other models: expected at least one file"
        )
    if name not in domain.signals:
        raise InputError(
            f"signal {name}: the domain has no calibration of it, because it was made with other "
            "domain.signals. Delete domain.json of this generation and run the same command: it is "
            "made again"
        )
    calibration = domain.signals[name]
    match name:
        case "latent" | "latent_guard":
            return Latent(name, calibration, domain.classes)
        case "committee":
            return Committee(calibration, committee)
        case "potential_energy":
            return PotentialEnergy(calibration)
        case "bond_stretch":
            return BondStretch(calibration, domain.bonds)
    raise InputError(f"signal {name}: no signal has this name")
