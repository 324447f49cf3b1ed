"""A campaign's model in ASE, with the CLI monitor on: molecular dynamics that watches itself.

    from ase import units
    from ase.io import read
    from ase.md.langevin import Langevin
    from halcyon.final.monitor.ase import CliMonitor, MonitoredMace

    atoms = read("results/quickstart/ethanol/final/structures/ethanol.xyz")
    atoms.calc = MonitoredMace("results/quickstart/ethanol/final")
    dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=500, friction=0.005 / units.fs)
    monitor = CliMonitor(atoms, dynamics)
    dynamics.run(200)  # raises UnreliableDynamics when a threshold is exceeded
    print(monitor.summary())

The calculator has no memory: it predicts for any positions, and its results hold the scores of the
atoms. Only the monitor counts steps. The dynamics call it after each step, so that energy
evaluations in between (a minimiser, a Monte Carlo move) do not count.

Not for: fast production (one forward pass for each step of one trajectory), or LAMMPS (see
`monitor.lammps`).
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.io import write
from ase.stress import full_3x3_to_voigt_6_stress

from halcyon import files
from halcyon.domain.intervals import Domain
from halcyon.domain.signals import deciding_alone
from halcyon.domain.states import State, is_periodic
from halcyon.errors import InputError
from halcyon.final.card import Card
from halcyon.final.monitor.watch import Alarm, Thresholds, Watch, WatchedAtoms
from halcyon.models.batched import BatchedMace
from halcyon.models.mace import load

MODEL, DOMAIN, CARD = "model.model", "domain.json", "card.json"
"""Files of a `final` folder that this module reads."""

logger = logging.getLogger("halcyon")


class UnreliableDynamics(RuntimeError):  # noqa: N818 - it says what it is
    """A threshold was exceeded, or the structure has failed, and the monitor stops the run.

    Attributes:
        alarm: what happened.
        frame: file with the atoms at that step; None if no file was to be written.
    """

    def __init__(self, alarm: Alarm, frame: Path | None) -> None:
        """Put the alarm and the file's name into the message."""
        where = f". The atoms of this step are in {frame}" if frame else ""
        super().__init__(f"{alarm.message}{where}")
        self.alarm, self.frame = alarm, frame


class UnreliableDynamicsWarning(UserWarning):
    """A threshold was exceeded, or the structure has failed, and the monitor only warns."""


class MonitoredMace(Calculator):
    """An ASE calculator made of a model and its domain.

    Its results are energy (eV), forces (eV/Å), in a periodic cell stress (eV/Å³), and for each
    atom, shape (N,): `node_energy` (interaction energy, eV), `score_error` (expected force error
    over the tolerance, in tolerances), `score_label` and `score_guard` (distance outside the
    domain in widths of the domain); scores are 0 inside. A domain of an early release has no
    expected errors: there is no `score_error`, and the monitor goes by the label domain.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "forces",
        "stress",
        "node_energy",
        "score_error",
        "score_label",
        "score_guard",
    ]

    def __init__(
        self,
        model: Path | str,
        domain: Domain | Path | str | None = None,
        *,
        kind: str | None = None,
        dtype: str | None = None,
        device: str = "auto",
        **options: Any,
    ) -> None:
        """Read a model; its file is a pickle: only open files that you trust.

        Args:
            model: a campaign's `final` folder; or a model file, and then `domain` is needed.
            domain: a domain, or its file; needed where `model` is a file.
            kind: of the system, as its file says it; by default what the folder's
                card says, else `molecule`.
            dtype: `float32` or `float64`; by default the precision of the campaign's dynamics.
            device: `cpu`, `cuda`, or `auto`.
            **options: options of ASE's Calculator.

        Raises:
            InputError: a file is missing or damaged.
        """
        super().__init__(**options)
        folder = Path(model)
        self.kind, self.thresholds = kind or "molecule", Thresholds()
        if folder.is_dir():
            card = Card.read(folder / CARD)
            model, domain = folder / MODEL, domain or folder / DOMAIN
            self.kind, self.thresholds = kind or card.kind, card.watch
            dtype = dtype or card.dtype
        if domain is None:
            raise InputError(
                f"{model}: a model file alone, without its domain: give its domain.json, too "
                "(domain=…)"
            )
        self.domain = domain if isinstance(domain, Domain) else Domain.read(domain)
        if deciding_alone(self.domain).column == "label":
            warnings.warn(
                "the monitor goes by the intervals of atomic energies (the label domain): this "
                "domain has no expected force errors that the model alone could give. A domain of "
                "this release, without the signal `committee`, has them",
                stacklevel=2,
            )
        self._mace = BatchedMace(load(model, device=device, dtype=dtype))
        self._with_stress = BatchedMace(self._mace.model, compute_stress=True)
        self._watched: WatchedAtoms | None = None

    def watched(self, atoms: Atoms) -> WatchedAtoms:
        """The atoms as a structure of the domain; recognised once, until the elements change.

        Raises:
            InputError: the atoms are none of the domain's structures.
        """
        watched = self._watched
        if watched is None or not np.array_equal(watched.numbers, atoms.numbers):
            watched = WatchedAtoms(
                self.domain, atoms, system_kind=self.kind, device=self._mace.device
            )
            self._watched = watched
        return watched

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Predict; see ASE.

        Raises:
            InputError: the atoms are none of the domain's structures, or they are periodic in some
                directions only.
        """
        super().calculate(atoms, properties, system_changes)
        (self.results,) = self.predict([cast("Atoms", self.atoms)])

    def predict(self, frames: Sequence[Atoms]) -> list[dict[str, Any]]:
        """Predict for several frames at once, which is faster than each alone.

        Args:
            frames: of the same atoms in the same order, all periodic or none.

        Returns:
            The results of each, under the names of `implemented_properties`.

        Raises:
            InputError: the atoms are none of the domain's structures, or they are periodic in some
                directions only.
            ValueError: the frames are of different atoms, or some are periodic and others not.
        """
        first, n = frames[0], len(frames[0])
        if any(not alike(first, frame) for frame in frames):
            raise ValueError("expected frames of the same atoms, all periodic or none")
        watched = self.watched(first)
        periodic = is_periodic(first)
        model = self._with_stress if periodic else self._mace
        output = model(State.of(frames, device=model.device, dtype=model.dtype))
        scores = watched.scores(output, len(frames))
        per_atom = {name: output[name].double().cpu().numpy() for name in ("forces", "node_energy")}
        per_atom |= {
            f"score_{name}": row for name, row in zip(watched.columns, scores, strict=True)
        }
        predicted = []
        for number, energy in enumerate(output["energy"].tolist()):
            own = slice(number * n, (number + 1) * n)
            results = {"energy": energy, "free_energy": energy}
            results |= {name: values[own] for name, values in per_atom.items()}
            if periodic:
                stress = output["stress"][number].double().cpu().numpy()
                results["stress"] = full_3x3_to_voigt_6_stress(stress)
            predicted.append(results)
        return predicted


def alike(first: Atoms, other: Atoms) -> bool:
    """Whether frames are of the same atoms in the same order, both periodic or neither."""
    same = np.array_equal(first.numbers, other.numbers)
    return same and is_periodic(first) == is_periodic(other)


class Monitor:
    """What every monitor does with an alarm: stop the run or warn, and write the atoms down."""

    def __init__(
        self,
        calculator: MonitoredMace,
        atoms: Atoms,
        *,
        timestep_ps: float,
        action: Literal["stop", "warn"] = "stop",
        frame: Path | str | None = "unreliable.xyz",
        **thresholds: Any,
    ) -> None:
        """Begin with Λ = 0 of all atoms.

        Args:
            calculator: gives predictions and scores.
            atoms: at the start of the run.
            timestep_ps: time step of the dynamics, ps.
            action: `stop` raises `UnreliableDynamics`. `warn` gives an `UnreliableDynamicsWarning`
                and a line in the log `halcyon`, and the run goes on; the warning is repeated only
                after the cause was gone for a time.
            frame: file that the atoms are written to when an alarm is raised; None: no file.
            **thresholds: values that replace those of the model card, see `watch.Thresholds`.

        Raises:
            InputError: the atoms are none of the domain's structures; the action is unknown.
        """
        if action not in ("stop", "warn"):
            raise InputError(f"action = {action!r}: expected 'stop' or 'warn'")
        self.calculator, self.action = calculator, action
        self.frame = None if frame is None else Path(frame)
        self.watch = Watch(
            calculator.watched(atoms),
            replace(calculator.thresholds, **thresholds),
            timestep_ps=timestep_ps,
        )
        self.alarms: list[Alarm] = []
        self._standing: set[str] = set()

    def look(self, atoms: Atoms) -> None:
        """Count the step that has led to these positions.

        Raises:
            UnreliableDynamics: a threshold is exceeded, or the structure has failed, and `action`
                is `stop`.
        """
        get = self.calculator.get_property
        columns = self.watch.watched.columns
        scores = np.stack([get(f"score_{name}", atoms) for name in columns])
        alarms = self.watch.step(atoms, get("energy", atoms), get("forces", atoms), scores)
        new = [alarm for alarm in alarms if alarm.cause not in self._standing]
        self._standing = {alarm.cause for alarm in alarms}
        if not new:
            return
        self.alarms += new
        if self.frame is not None:
            with files.replacing(self.frame) as temporary:
                write(temporary, _with_scores(atoms, self.calculator), format="extxyz")
        for alarm in new:
            logger.warning(alarm.message)
        if self.action == "stop":
            raise UnreliableDynamics(new[0], self.frame)
        for alarm in new:
            warnings.warn(UnreliableDynamicsWarning(alarm.message), stacklevel=2)

    def summary(self) -> dict[str, Any]:
        """Numbers of the run so far."""
        return self.watch.summary() | {"alarms": len(self.alarms)}


def _with_scores(atoms: Atoms, calculator: MonitoredMace) -> Atoms:
    """Copy of the atoms with energy, forces and scores, without a calculator."""
    frame = atoms.copy()
    for name, values in calculator.results.items():
        if name == "forces" or name.startswith("score_"):
            frame.arrays[name] = values
    frame.info["energy"] = calculator.results["energy"]
    return frame


class CliMonitor(Monitor):
    """Monitors a molecular dynamics run of ASE at every step."""

    def __init__(self, atoms: Atoms, dynamics: Any, **options: Any) -> None:
        """Attach to the dynamics.

        Args:
            atoms: with a `MonitoredMace` as calculator.
            dynamics: molecular dynamics of ASE; its step counter tells that a step was made.
            **options: see `Monitor`.

        Raises:
            InputError: the atoms have another calculator, or the dynamics have no time step.
        """
        if not isinstance(atoms.calc, MonitoredMace):
            raise InputError(
                f"atoms.calc is a {type(atoms.calc).__name__}; expected a MonitoredMace: set "
                "atoms.calc = MonitoredMace(…) before the monitor is made"
            )
        if not hasattr(dynamics, "dt"):
            raise InputError(
                f"{type(dynamics).__name__} has no time step (dt): the monitor needs molecular "
                "dynamics of ASE, e.g. ase.md.langevin.Langevin"
            )
        timestep_ps = dynamics.dt / (1000 * units.fs)
        super().__init__(atoms.calc, atoms, timestep_ps=timestep_ps, **options)
        self._atoms, self._dynamics, self._seen = atoms, dynamics, dynamics.nsteps
        dynamics.attach(self, interval=1)

    def __call__(self) -> None:
        """Look at a step; the dynamics also call this once before their first step."""
        if self._dynamics.nsteps > self._seen:
            self._seen = self._dynamics.nsteps
            self.look(self._atoms)
