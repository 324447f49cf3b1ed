"""The CLI monitor of one trajectory that another program integrates: for production runs.

    import numpy as np
    from halcyon.final.monitor.watch import Thresholds, Watch, WatchedAtoms

    watched = WatchedAtoms(domain, atoms, system_kind="molecule")
    watch = Watch(watched, Thresholds(rate=0.05), timestep_ps=0.0005)
    inside = np.zeros((3, len(atoms)))  # else watched.scores(the model's output)
    watch.step(atoms, energy=-310.0, forces=np.zeros((len(atoms), 3)), scores=inside)  # []

At each step the monitor gets the model's output. It accumulates Λ_i of every atom, computes λ over
a short window, and raises an alarm when a threshold is exceeded or the structure has failed. Any
program may move the atoms: `monitor.ase` and `monitor.openmm` connect two.

Not for: many replicas at once (`exploration.explore`), or where thresholds come from
(docs/production.md).
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from ase import Atoms
from pydantic import Field

from halcyon.domain.failures import FailureMonitor
from halcyon.domain.index import CliIndex
from halcyon.domain.intervals import Domain
from halcyon.domain.signals import TIERS, Scorer, deciding_alone, make_signal
from halcyon.errors import InputError
from halcyon.final.monitor.matching import match
from halcyon.frames import structure_only
from halcyon.systems.lattice import lattice_sites

DECIDING = 0
"""Row of what decides in arrays of shape (S, …): `error`, or `label` for an early domain."""
GUARD = -1
"""Row of the guard domain."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """When the monitor raises an alarm. All thresholds are about what decides.

    Attributes:
        window_ps: time over which λ is computed, ps.
        rate: greatest allowed λ over the window, mean over atoms: the fraction of predictions
            outside the domain.
        atom_rate: greatest allowed λ over the window of any single atom.
        cli_ps: greatest allowed Λ of any atom over the whole run, ps; None by default, because no
            value holds for all models (docs/science.md).
        bond_stretch_A: a bond whose length differs from its mean by more than this is broken, Å.
        min_distance_A: two atoms closer than this overlap, Å.
        site_distance_A: greatest distance of an atom of a crystal from its site, which is where it
            was as the run began, Å; None: any.
    """

    window_ps: float = 0.1
    rate: float = 0.1
    atom_rate: float = 0.5
    cli_ps: float | None = None
    bond_stretch_A: float = 0.5
    min_distance_A: float = 0.5
    site_distance_A: Annotated[
        float | None,
        Field(exclude_if=lambda value: value is None),  # cards of early releases lack it
    ] = None


@dataclass(frozen=True)
class Alarm:
    """A threshold was exceeded, or the structure has failed.

    Attributes:
        cause: `failure`, `rate`, `atom_rate` or `cli`.
        message: what happened, for people.
        time_ps: time since the start of the run, ps.
    """

    cause: str
    message: str
    time_ps: float


class WatchedAtoms:
    """Atoms recognised as a structure of the domain: scores and failures of any positions.

    Attributes:
        structure: name of the structure.
        numbers: atomic numbers in the atoms' own order, shape (N,).
        columns: what scores are against, by row: `error`, `label`, `guard`; without `error` where
            the domain has no expected errors, or the signal `committee` decides.
    """

    def __init__(
        self,
        domain: Domain,
        atoms: Atoms,
        *,
        system_kind: str,
        device: torch.device | str = "cpu",
    ) -> None:
        """Find out which structure the atoms are.

        Args:
            domain: of the model.
            atoms: with bonds near their usual lengths, in any order.
            system_kind: `molecule`, `liquid`, `reactive`, `solid` or `slab`.
            device: where scores are computed.

        Raises:
            InputError: the atoms are none of the domain's structures.
        """
        recognised = match(atoms, domain, system_kind)
        self.structure, self._domain, self._system_kind = (
            recognised.structure,
            domain,
            system_kind,
        )
        self._device = torch.device(device)
        self._order = torch.as_tensor(recognised.order, device=self._device)
        self._scorers: dict[int, list[Scorer]] = {}  # by number of frames
        ordered = atoms[recognised.order]
        sites = lattice_sites(ordered, kind=system_kind)
        self._sites = {} if sites is None else {recognised.structure: sites}
        self._start = structure_only(ordered)
        self._start.info["structure"] = recognised.structure
        self.numbers = atoms.numbers.copy()
        tiers = [make_signal(domain, name, ()) for name in TIERS]
        self._signals = {signal.column: signal for signal in (deciding_alone(domain), *tiers)}
        self.columns = list(self._signals)

    def scores(self, output: Mapping[str, torch.Tensor], frames: int = 1) -> np.ndarray:
        """Scores against each of `columns`, shape (S, frames · N), in the atoms' own order.

        Args:
            output: of the model, for so many frames of these atoms: `node_energy`, `descriptors`.
            frames: how many.
        """
        begins = torch.arange(frames, device=self._device) * len(self.numbers)
        order = (begins[:, None] + self._order).flatten()
        in_domain_order = {
            name: output[name].index_select(0, order)
            for name in ("node_energy", "descriptors")
            if name in output
        }
        if frames not in self._scorers:
            starts = [self._start] * frames
            self._scorers[frames] = [
                signal.for_batch(starts, self._device) for signal in self._signals.values()
            ]
        ordered = torch.stack([score(None, in_domain_order) for score in self._scorers[frames]])
        scores = torch.empty_like(ordered)
        scores[:, order] = ordered
        return scores.double().cpu().numpy()

    def failure_monitor(self, thresholds: Thresholds) -> "Failures":
        """The failure criteria for these atoms."""
        monitor = FailureMonitor(
            [self._start],
            self._domain.bonds,
            kind=self._system_kind,
            bond_stretch_A=thresholds.bond_stretch_A,
            min_distance_A=thresholds.min_distance_A,
            site_distance_A=thresholds.site_distance_A,
            sites=self._sites,
            device=torch.device("cpu"),
        )
        return Failures(monitor, self._order.cpu(), periodic=bool(self._start.pbc.any()))


class Failures:
    """The campaign's failure criteria, for atoms in an order of their own."""

    def __init__(self, monitor: FailureMonitor, order: torch.Tensor, *, periodic: bool) -> None:
        """Take the structure's monitor, and the index of each of its atoms among the given ones."""
        self._monitor, self._order, self._periodic = monitor, order, periodic

    def check(self, atoms: Atoms, energy: float, forces: np.ndarray) -> str | None:
        """Say why the atoms have failed; None if they have not.

        Args:
            atoms: at their present positions.
            energy: eV.
            forces: eV/Å, shape (N, 3).
        """
        cells = torch.tensor(atoms.cell.array.T[None]) if self._periodic else None
        failures = self._monitor.check(
            torch.tensor(atoms.positions)[self._order],
            torch.tensor([energy], dtype=torch.float64),
            torch.tensor(np.asarray(forces, dtype=float))[self._order],
            cells,
        )
        return failures.get(0)


class Watch:
    """Accumulates the CLI of one trajectory and compares it with thresholds.

    Attributes:
        watched: the atoms.
        thresholds: what the CLI is compared with.
        timestep_ps: time step, ps.
        steps: steps so far.
    """

    def __init__(
        self, watched: WatchedAtoms, thresholds: Thresholds, *, timestep_ps: float
    ) -> None:
        """Begin with Λ = 0 of all atoms.

        Raises:
            InputError: the window is shorter than a time step.
        """
        if not 0 < timestep_ps <= thresholds.window_ps:
            raise InputError(
                f"window_ps = {thresholds.window_ps:g}: expected at least the time step, "
                f"{timestep_ps:g} ps"
            )
        self.watched, self.thresholds, self.timestep_ps = watched, thresholds, timestep_ps
        self._failures = watched.failure_monitor(thresholds)
        shape = len(watched.columns), len(watched.numbers)
        self._index = CliIndex(*shape, timestep_ps=timestep_ps)
        self._length = max(1, round(thresholds.window_ps / timestep_ps))
        self._window: deque[np.ndarray] = deque()
        self._in_window = np.zeros(shape, dtype=np.int64)
        self.steps = 0

    @property
    def time_ps(self) -> float:
        """Time since the start of the run, ps."""
        return self.steps * self.timestep_ps

    @property
    def cli(self) -> np.ndarray:
        """Λ_i of every atom, ps, shape (S, N): against each of the atoms' `columns`."""
        return self._index.cli.numpy()

    @property
    def excursions(self) -> np.ndarray:
        """Excursions that each atom has begun, shape (S, N): against each of `columns`."""
        return self._index.excursions.numpy()

    @property
    def rate(self) -> np.ndarray:
        """λ over the window, mean over atoms, shape (S,): against each of `columns`."""
        return self._in_window.mean(axis=1) / self._length

    def step(
        self, atoms: Atoms, energy: float, forces: np.ndarray, scores: np.ndarray
    ) -> list[Alarm]:
        """Count one more step.

        Args:
            atoms: at their positions after the step.
            energy: eV.
            forces: eV/Å, shape (N, 3).
            scores: from `WatchedAtoms.scores`, shape (S, N).

        Returns:
            An alarm for each threshold that is exceeded now, and for a failure.
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
        """Alarms of thresholds; λ is looked at in the label domain, too.

        The expected errors of a first generation rest on few labels near equilibrium, and far from
        these they may be too low. The intervals of atomic energies are left there all the same.
        """
        limits, alarms = self.thresholds, []
        label = self.watched.columns.index("label")

        def add(
            cause: str,
            quantity: str,
            value: float,
            limit: float,
            unit: str = "",
            *,
            row: int = DECIDING,
        ) -> None:
            meaning = "forces are expected to be wrong by more than the tolerance"
            if row == label:
                meaning = "predictions are outside the model's training domain"
            message = (
                f"{quantity} is {value:.3g}{unit} at {self.time_ps:.4g} ps, above its threshold "
                f"{limit:.3g}{unit}: {meaning}"
            )
            alarms.append(Alarm(cause, message, self.time_ps))

        window = f"over {limits.window_ps:g} ps"
        rate, row = max((float(self.rate[row]), row) for row in {DECIDING, label})
        if rate > limits.rate:
            add("rate", f"λ {window}", rate, limits.rate, row=row)
        atom = int(self._in_window[DECIDING].argmax())
        worst = float(self._in_window[DECIDING, atom]) / self._length
        if worst > limits.atom_rate:
            name = f"{atoms.symbols[atom]}{atom}"
            add("atom_rate", f"λ of atom {name} {window}", worst, limits.atom_rate)
        if limits.cli_ps is not None:
            atom = int(self.cli[DECIDING].argmax())
            value = float(self.cli[DECIDING, atom])
            if value > limits.cli_ps:
                add("cli", f"Λ of atom {atoms.symbols[atom]}{atom}", value, limits.cli_ps, " ps")
        return alarms

    def summary(self) -> dict[str, Any]:
        """Numbers of the run so far, for a log."""
        decides = self.watched.columns[DECIDING]
        return {
            "structure": self.watched.structure,
            "time_ps": self.time_ps,
            "decides": decides,
            f"cli_{decides}_ps": float(self.cli[DECIDING].mean()),
            f"cli_{decides}_max_ps": float(self.cli[DECIDING].max()),
            f"rate_{decides}": float(self.rate[DECIDING]),
            f"excursions_{decides}": int(self.excursions[DECIDING].sum()),
            "rate_label": float(self.rate[self.watched.columns.index("label")]),
            "cli_guard_ps": float(self.cli[GUARD].mean()),
        }
