"""A campaign's model in ASE, with the CLI monitor on: molecular dynamics that watches itself.

    from halcyon.final.monitor.ase import CliMonitor, MonitoredMace

    atoms.calc = MonitoredMace("results/quickstart/ethanol/final")
    dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=500, friction=0.005 / units.fs)
    monitor = CliMonitor(atoms, dynamics)
    dynamics.run(20_000)  # raises UnreliableDynamics where a threshold is passed
    print(monitor.summary())

The calculator has no memory: it answers for any positions, and its results hold the scores of the
atoms. Time passes in the monitor alone. The dynamics call it after each step, so that energy calls
in between (a minimiser, a Monte Carlo move) count for nothing.

Not for: fast production (a forward pass a step, one trajectory), or LAMMPS, which has no monitor.
"""

import logging
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.io import write
from ase.stress import full_3x3_to_voigt_6_stress

from halcyon import files
from halcyon.domain.intervals import Domain
from halcyon.errors import InputError
from halcyon.final.card import Card
from halcyon.final.monitor.watch import Alarm, Thresholds, Watch, Watched
from halcyon.models.batched import BatchedMace
from halcyon.models.mace import load

MODEL, DOMAIN, CARD = "model.model", "domain.json", "card.json"
"""Files of a `final` folder that are read here."""

logger = logging.getLogger("halcyon")


class UnreliableDynamics(RuntimeError):  # noqa: N818 - it says what it is
    """A threshold was passed, or the structure has failed, and the monitor was to stop.

    Attributes:
        alarm: what was passed.
        frame: file with the atoms as they were; None if none was asked for.
    """

    def __init__(self, alarm: Alarm, frame: Path | None) -> None:
        """Say what, and where the frame is."""
        where = f"; the frame is in {frame}" if frame else ""
        super().__init__(f"{alarm.message}{where}")
        self.alarm, self.frame = alarm, frame


class UnreliableDynamicsWarning(UserWarning):
    """The same, where the monitor only warns."""


class MonitoredMace(Calculator):
    """A model and its domain.

    Results beside energy, forces and, in a periodic cell, stress: `node_energy` (interaction
    energies, eV), `score_label` and `score_guard` (distance outside the domain in widths of it, 0
    inside), each of shape (N,).
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "forces",
        "stress",
        "node_energy",
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
            domain: a domain, or its file.
            kind: `molecule`, `liquid` or `reactive`; by default what the folder's card says, else
                `molecule`.
            dtype: `float32` or `float64`; by default what the campaign explored with.
            device: `cpu`, `cuda`, or `auto`.
            **options: of ASE's Calculator.

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
        self._mace = BatchedMace(load(model, device=device, dtype=dtype))
        self._with_stress = BatchedMace(self._mace.model, compute_stress=True)
        self._watched: Watched | None = None

    def watched(self, atoms: Atoms) -> Watched:
        """The atoms as the domain knows them; found out once, then as long as they are the same.

        Raises:
            InputError: none of the domain's structures.
        """
        known = self._watched
        if known is None or not np.array_equal(known.numbers, atoms.numbers):
            known = Watched(self.domain, atoms, kind=self.kind, device=self._mace.device)
            self._watched = known
        return known

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Predict; see ASE."""
        super().calculate(atoms, properties, system_changes)
        mine = cast("Atoms", self.atoms)
        watched = self.watched(mine)
        periodic = bool(mine.pbc.all())
        if mine.pbc.any() and not periodic:
            raise InputError(
                f"pbc {mine.pbc.tolist()}: periodic in all directions or in none is supported"
            )
        model = self._with_stress if periodic else self._mace
        output = model(_State.of(mine, model))
        scores = watched.scores(output)
        energy = float(output["energy"])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": output["forces"].double().cpu().numpy(),
            "node_energy": output["node_energy"].double().cpu().numpy(),
            "score_label": scores[0],
            "score_guard": scores[1],
        }
        if periodic:
            stress = output["stress"][0].double().cpu().numpy()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)


@dataclass(frozen=True)
class _State:
    """As much of a torch-sim state as `BatchedMace` reads."""

    positions: torch.Tensor
    atomic_numbers: torch.Tensor
    system_idx: torch.Tensor
    cell: torch.Tensor
    pbc: bool

    @classmethod
    def of(cls, atoms: Atoms, model: BatchedMace) -> "_State":
        real = {"dtype": model.dtype, "device": model.device}
        return cls(
            positions=torch.tensor(atoms.positions, **real),
            atomic_numbers=torch.tensor(atoms.numbers, dtype=torch.long, device=model.device),
            system_idx=torch.zeros(len(atoms), dtype=torch.long, device=model.device),
            cell=torch.tensor(atoms.cell.array.T[None].copy(), **real),
            pbc=bool(atoms.pbc.all()),
        )


class Monitor:
    """What all monitors do with an alarm: stop or warn, and keep the frame."""

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
        """Begin at zero.

        Args:
            calculator: gives predictions and scores.
            atoms: at their start.
            timestep_ps: of the dynamics.
            action: `stop`: raise `UnreliableDynamics`. `warn`: an `UnreliableDynamicsWarning` and a
                line in the log `halcyon`, once until all is well again; the run goes on.
            frame: file that the atoms are written to when an alarm is raised; None: none.
            **thresholds: to change those that the model card recommends, see `watch.Thresholds`.

        Raises:
            InputError: the atoms are none of the domain's structures; an unknown action.
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
        """Take the step into account that has led to these positions.

        Raises:
            UnreliableDynamics: a threshold is passed, and the monitor is to stop.
        """
        get = self.calculator.get_property
        scores = np.stack([get("score_label", atoms), get("score_guard", atoms)])
        found = self.watch.step(atoms, get("energy", atoms), get("forces", atoms), scores)
        new = [alarm for alarm in found if alarm.cause not in self._standing]
        self._standing = {alarm.cause for alarm in found}
        if not new:
            return
        self.alarms += new
        if self.frame is not None:
            with files.replacing(self.frame) as temporary:
                write(temporary, _plain(atoms, self.calculator), format="extxyz")
        for alarm in new:
            logger.warning(alarm.message)
        if self.action == "stop":
            raise UnreliableDynamics(new[0], self.frame)
        for alarm in new:
            warnings.warn(UnreliableDynamicsWarning(alarm.message), stacklevel=2)

    def summary(self) -> dict[str, Any]:
        """Numbers of the run so far."""
        return self.watch.summary() | {"alarms": len(self.alarms)}


def _plain(atoms: Atoms, calculator: MonitoredMace) -> Atoms:
    """Positions, momenta and scores, without a calculator."""
    frame = atoms.copy()
    for name in ("forces", "score_label", "score_guard"):
        frame.arrays[name] = calculator.results[name]
    frame.info["energy"] = calculator.results["energy"]
    return frame


class CliMonitor(Monitor):
    """Watches a molecular dynamics run of ASE, at every step."""

    def __init__(self, atoms: Atoms, dynamics: Any, **options: Any) -> None:
        """Attach to the dynamics.

        Args:
            atoms: with a `MonitoredMace` as calculator.
            dynamics: of ASE; its step counter says when time has passed.
            **options: see `Monitor`.

        Raises:
            InputError: another calculator; dynamics without a time step.
        """
        if not isinstance(atoms.calc, MonitoredMace):
            raise InputError(
                f"atoms.calc is a {type(atoms.calc).__name__}; expected a MonitoredMace"
            )
        if not hasattr(dynamics, "dt"):
            raise InputError(f"{type(dynamics).__name__} has no time step: not molecular dynamics")
        timestep_ps = dynamics.dt / (1000 * units.fs)
        super().__init__(atoms.calc, atoms, timestep_ps=timestep_ps, **options)
        self._atoms, self._dynamics, self._seen = atoms, dynamics, dynamics.nsteps
        dynamics.attach(self, interval=1)

    def __call__(self) -> None:
        """Called by the dynamics, also once before its first step: then no time has passed."""
        if self._dynamics.nsteps > self._seen:
            self._seen = self._dynamics.nsteps
            self.look(self._atoms)
