"""The CLI monitor of one trajectory that somebody else integrates: for production runs.

At each step it is told the model's output; it accumulates Λ_i, knows λ over a short window, and
says when a threshold is passed or the structure has failed. Whose program moves the atoms does not
matter: see `calculator` (ASE) and `openmm_monitor`.

Not for: many replicas at once (`explore`), or where thresholds come from (docs/production.md).
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms

from halcyon.domain.failures import FailureMonitor
from halcyon.domain.index import CliIndex
from halcyon.domain.intervals import Domain
from halcyon.domain.signals import make_signals
from halcyon.errors import InputError
from halcyon.final.monitor.matching import match
from halcyon.frames import structure_only

LABEL = 0
"""Row of the label domain; the guard domain is the other."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """When the monitor speaks up. All are about the label domain.

    Attributes:
        window_ps: λ is taken over this time, ps.
        rate: greatest λ over the window, mean over atoms: the fraction of predictions outside.
        atom_rate: greatest λ over the window of any one atom.
        cli_ps: greatest atomic Λ of the whole run, ps; none by default: no value of it holds for
            all models (see docs/science.md).
        bond_stretch_A: a bond further than this from its mean is broken, Å.
        min_distance_A: atoms closer than this overlap, Å.
    """

    window_ps: float = 0.1
    rate: float = 0.1
    atom_rate: float = 0.5
    cli_ps: float | None = None
    bond_stretch_A: float = 0.5
    min_distance_A: float = 0.5


@dataclass(frozen=True)
class Alarm:
    """What the monitor has to say.

    Attributes:
        cause: `failure`, `rate`, `atom_rate` or `cli`.
        message: for people.
        time_ps: of the run.
    """

    cause: str
    message: str
    time_ps: float


class Watched:
    """Some atoms as the domain knows them: scores and failures of any of their positions.

    Attributes:
        structure: name of the structure that they are.
    """

    def __init__(
        self, domain: Domain, atoms: Atoms, *, kind: str, device: torch.device | str = "cpu"
    ) -> None:
        """Find out which structure the atoms are.

        Raises:
            InputError: none of the domain's.
        """
        found = match(atoms, domain, kind)
        self.structure, self._domain, self._kind = found.structure, domain, kind
        self._device = torch.device(device)
        self._order = torch.as_tensor(found.order, device=self._device)
        self._start = structure_only(atoms[found.order])
        self._start.info["structure"] = found.structure
        self.numbers = atoms.numbers.copy()
        self._scorers = [
            signal.for_batch([self._start], self._device)
            for signal in make_signals(domain, ()).values()
        ]

    def scores(self, output: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Scores of label and guard domain, shape (2, N), in the atoms' own order.

        Args:
            output: of the model, for these atoms alone: `node_energy`, `descriptors`.
        """
        mine = {
            name: output[name].index_select(0, self._order)
            for name in ("node_energy", "descriptors")
            if name in output
        }
        scores = torch.stack([score(None, mine) for score in self._scorers])
        found = torch.empty_like(scores)
        found[:, self._order] = scores
        return found.double().cpu().numpy()

    def failure_monitor(self, thresholds: Thresholds) -> "Failures":
        """What says whether the atoms have failed."""
        monitor = FailureMonitor(
            [self._start],
            self._domain.bonds,
            kind=self._kind,
            bond_stretch_A=thresholds.bond_stretch_A,
            min_distance_A=thresholds.min_distance_A,
            device=torch.device("cpu"),
        )
        return Failures(monitor, self._order.cpu(), periodic=bool(self._start.pbc.any()))


class Failures:
    """The campaign's failure criteria for atoms in an order of their own."""

    def __init__(self, monitor: FailureMonitor, order: torch.Tensor, *, periodic: bool) -> None:
        """Take the monitor of the structure, and where its atoms are."""
        self._monitor, self._order, self._periodic = monitor, order, periodic

    def check(self, atoms: Atoms, energy: float, forces: np.ndarray) -> str | None:
        """Why the atoms have failed; None if they have not.

        Args:
            atoms: now.
            energy: eV.
            forces: eV/Å, shape (N, 3).
        """
        cells = torch.tensor(atoms.cell.array.T[None]) if self._periodic else None
        found = self._monitor.check(
            torch.tensor(atoms.positions)[self._order],
            torch.tensor([energy], dtype=torch.float64),
            torch.tensor(np.asarray(forces, dtype=float))[self._order],
            cells,
        )
        return found.get(0)


class Watch:
    """Accumulates the CLI of one trajectory and holds it against thresholds.

    Attributes:
        thresholds: what it is held against.
        steps: looked at so far.
        cli: atomic Λ_i against label and guard domain, ps, shape (2, N).
        excursions: begun so far by each atom, shape (2, N).
        rate: λ over the window of the thresholds, label and guard domain.
    """

    def __init__(self, watched: Watched, thresholds: Thresholds, *, timestep_ps: float) -> None:
        """Begin at zero.

        Raises:
            InputError: the window is shorter than a step.
        """
        if not 0 < timestep_ps <= thresholds.window_ps:
            raise InputError(
                f"window_ps = {thresholds.window_ps:g}: expected at least the time step, "
                f"{timestep_ps:g} ps"
            )
        self.watched, self.thresholds, self.timestep_ps = watched, thresholds, timestep_ps
        self._failures = watched.failure_monitor(thresholds)
        self._index = CliIndex(2, len(watched.numbers), timestep_ps=timestep_ps)
        self._length = max(1, round(thresholds.window_ps / timestep_ps))
        self._window: deque[np.ndarray] = deque()
        self._in_window = np.zeros((2, len(watched.numbers)), dtype=np.int64)
        self.steps = 0

    @property
    def time_ps(self) -> float:
        """Time looked at so far."""
        return self.steps * self.timestep_ps

    @property
    def cli(self) -> np.ndarray:
        """Atomic Λ_i, ps, shape (2, N): label and guard domain."""
        return self._index.cli.numpy()

    @property
    def excursions(self) -> np.ndarray:
        """Excursions begun by each atom, shape (2, N)."""
        return self._index.excursions.numpy()

    @property
    def rate(self) -> np.ndarray:
        """λ over the window, mean over atoms: label and guard domain, shape (2,)."""
        return self._in_window.mean(axis=1) / self._length

    def step(
        self, atoms: Atoms, energy: float, forces: np.ndarray, scores: np.ndarray
    ) -> list[Alarm]:
        """Take one more step into account.

        Args:
            atoms: after it.
            energy: eV.
            forces: eV/Å, shape (N, 3).
            scores: from `Watched.scores`, shape (2, N).

        Returns:
            What is over a threshold now; empty most of the time.
        """
        self.steps += 1
        self._index.update(torch.as_tensor(scores)[:, None, :])
        outside = scores > 0
        self._window.append(outside)
        self._in_window += outside
        if len(self._window) > self._length:
            self._in_window -= self._window.popleft()
        alarms = []
        if reason := self._failures.check(atoms, energy, forces):
            alarms.append(Alarm("failure", f"{reason} at {self.time_ps:.4g} ps", self.time_ps))
        return alarms + self._over(atoms)

    def _over(self, atoms: Atoms) -> list[Alarm]:
        limits, alarms = self.thresholds, []

        def add(cause: str, what: str, value: float, limit: float, unit: str = "") -> None:
            said = f"{what} is {value:.3g}{unit} at {self.time_ps:.4g} ps, over {limit:.3g}{unit}"
            alarms.append(Alarm(cause, f"{said}: the model does not know this", self.time_ps))

        window = f"over {limits.window_ps:g} ps"
        rate = float(self.rate[LABEL])
        if rate > limits.rate:
            add("rate", f"λ {window}", rate, limits.rate)
        atom = int(self._in_window[LABEL].argmax())
        worst = float(self._in_window[LABEL, atom]) / self._length
        if worst > limits.atom_rate:
            name = f"{atoms.symbols[atom]}{atom}"
            add("atom_rate", f"λ of atom {name} {window}", worst, limits.atom_rate)
        if limits.cli_ps is not None:
            atom = int(self.cli[LABEL].argmax())
            value = float(self.cli[LABEL, atom])
            if value > limits.cli_ps:
                add("cli", f"Λ of atom {atoms.symbols[atom]}{atom}", value, limits.cli_ps, " ps")
        return alarms

    def summary(self) -> dict[str, Any]:
        """Numbers of the run so far, for a log."""
        return {
            "structure": self.watched.structure,
            "time_ps": self.time_ps,
            "cli_label_ps": float(self.cli[LABEL].mean()),
            "cli_label_max_ps": float(self.cli[LABEL].max()),
            "rate_label": float(self.rate[LABEL]),
            "excursions_label": int(self.excursions[LABEL].sum()),
            "cli_guard_ps": float(self.cli[1].mean()),
        }
