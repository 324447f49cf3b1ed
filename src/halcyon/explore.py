"""Exploration: many replicas of molecular dynamics in one batch, every step watched by the CLI.

Each forward pass is handed to the signals; replicas that fail are stopped and replaced, candidate
frames kept, traces thinned, and the run saves itself so that a killed one goes on as the same
trajectory. Steps are looked at a block at a time: the monitors then cost little, and the device is
waited for once a block. Nothing depends on how long blocks are: what a failed replica did in the
rest of its block is forgotten.

    model = BatchedMace(load(path))
    result = explore(model, domain, replicas, settings, kind="molecule", work=work, seed=1)

Not for: integrators (see `dynamics`), choosing frames (`select`), or long production runs.
"""

import hashlib
import io
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch_sim as ts
from ase import Atoms
from torch_sim.integrators.md import MDState
from torch_sim.models.interface import ModelInterface
from torch_sim.quantities import calc_kinetic_energy, calc_kT

from halcyon import files
from halcyon.bias import Metadynamics
from halcyon.blocks import LABEL, Judged, Layout, Step
from halcyon.candidates import Candidates, Kept, Slot
from halcyon.cli_index import CliIndex, per_replica
from halcyon.config import VARIABLES_AT_MOST, DomainSettings, ExplorationSettings, MetadynamicsBias
from halcyon.domain import Domain
from halcyon.dynamics import KELVIN, Dynamics, Replica
from halcyon.errors import InputError, Interrupted
from halcyon.frames import structure_only
from halcyon.signals import Signal, make_signals
from halcyon.traces import Traces
from halcyon.trajectory import Trajectory

PROGRESS_EVERY_S = 10.0
CHECKPOINT_VERSION = 2
"""Checkpoints of another version are not continued."""
BLOCK_STEPS = 50
BLOCK_PAIRS = 250_000
"""Pairs of atoms that a block's failure monitor looks at, at most: what bounds its memory."""
_STATE = ("positions", "momenta", "forces", "energy", "cell")

__all__ = ["Exploration", "Progress", "Replica", "explore"]


@dataclass(frozen=True)
class Progress:
    """How far a run is: simulated part of all, ns per day of all replicas, seconds left."""

    done: float
    ns_per_day: float
    seconds_left: float
    failed: int


@dataclass
class Exploration:
    """What a run found.

    Attributes:
        traces: one row per replica and trace point, columns as `traces.trace_columns`.
        candidates: frames outside the label domain or shortly before a failure.
        replicas: per replica: number, structure, temperature, time_ps, atoms, failure (or null),
            and `began_ps`, when it took the place of a failed one.
        steps: replica-steps integrated, up to each replica's failure.
        passed_over: candidates that gave way to others of their replica, since memory is bounded.
        trajectory: files with the trajectory, in order; none unless asked for.
    """

    traces: pd.DataFrame
    candidates: list[Atoms]
    replicas: list[dict[str, Any]]
    steps: int
    passed_over: int
    trajectory: list[Path]


def explore(
    model: ModelInterface,
    domain: Domain,
    replicas: Sequence[Replica],
    settings: ExplorationSettings,
    indicator: DomainSettings,
    *,
    kind: str,
    work: Path,
    identity: str,
    seed: int,
    successor: Callable[[int, Replica], Replica] | None = None,
    seconds: float = float("inf"),
    committee: Sequence[ModelInterface] = (),
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda _: None,
) -> Exploration:
    """Run all replicas to their end or failure, or go on where a killed run stopped.

    Args:
        model: returns energy, forces, `node_energy` (interaction energies, eV), at constant
            pressure stress and, where a signal reads them, `descriptors`.
        domain: both tiers, and the calibration of the other signals.
        replicas: what to run. Periodic and other replicas go into separate batches.
        settings: ensemble, time, time step, friction, what counts as failure.
        indicator: which signals, and which h(s) the index uses.
        kind: of system, see `config.System`.
        work: folder of this run's checkpoints.
        identity: of models and domain (their hashes): a checkpoint of another is not continued.
        seed: of momenta and thermostat.
        successor: from a number and a failed replica, the one that takes its place until the asked
            time is over: the same whenever asked. At most `settings.replacements` do.
        seconds: wall time after which the run saves itself and stops.
        committee: the other models of the signal `committee`.
        stop: asked every few steps; true: save and stop (SIGTERM).
        report: called every few seconds.

    Raises:
        InputError: a signal is not calibrated, or constant pressure without a periodic cell.
        Interrupted: stopped in good order; the same call goes on.
    """
    signals = make_signals(domain, indicator.signals, committee)
    deadline = time.monotonic() + seconds
    runs = []
    for periodic in (False, True):
        group = [r for r in replicas if r.start.pbc.all() == periodic]
        if not group:
            continue
        if settings.ensemble == "npt" and not periodic:
            raise InputError(
                f"exploration.ensemble = 'npt': {group[0].start.info['structure']} has no periodic "
                "cell whose volume could change; use nvt"
            )
        run = _Run(
            model,
            domain,
            settings,
            indicator,
            replicas=group,
            successor=successor,
            first_number=1 + max(r.number for r in replicas) + periodic * settings.replacements,
            signals=signals,
            kind=kind,
            seed=seed,
        )
        run.go(work, identity, deadline=deadline, stop=stop, report=report)
        runs.append(run)
    ends = [entry for run in runs for entry in run.replica_reports()]
    return Exploration(
        traces=pd.concat([run.table() for run in runs], ignore_index=True),
        candidates=[frame for run in runs for frame in run.book.frames(run.members)],
        replicas=sorted(ends, key=lambda entry: entry["replica"]),
        steps=sum(run.replica_steps for run in runs),
        passed_over=sum(run.book.passed_over for run in runs),
        trajectory=[path for run in runs for path in run.trajectory.files()],
    )


def _variables(settings: ExplorationSettings) -> int:
    """Columns of collective variables in the traces."""
    return VARIABLES_AT_MOST if isinstance(settings.bias, MetadynamicsBias) else 0


class _Watched(ModelInterface):
    """Passes calls on and keeps the output of the last one; a bias is added to what it returns."""

    def __init__(self, model: ModelInterface) -> None:
        super().__init__()
        self._model = model
        self._device, self._dtype = model.device, model.dtype
        self._compute_forces, self._compute_stress = True, model.compute_stress
        self.output: dict[str, torch.Tensor] = {}
        self.bias: Metadynamics | None = None

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        self.output = self._model(state)
        if self.bias is None:
            return self.output
        push = self.bias.forces(state.positions)[1]
        return self.output | {"forces": self.output["forces"] + push}


class _Run:
    """One batch of replicas of equal periodicity."""

    def __init__(
        self,
        model: ModelInterface,
        domain: Domain,
        settings: ExplorationSettings,
        indicator: DomainSettings,
        *,
        replicas: Sequence[Replica],
        successor: Callable[[int, Replica], Replica] | None,
        first_number: int,
        signals: dict[str, Signal],
        kind: str,
        seed: int,
    ) -> None:
        self.signals = signals
        self.model = _Watched(model)
        self.domain, self.settings = domain, settings
        self.indicator, self.kind, self.seed = indicator, kind, seed
        self.timestep_ps = settings.timestep_fs / 1000
        self.steps = max(1, round(settings.time_ps / self.timestep_ps))
        self.trace_every = max(1, round(1 / (settings.trace_points_per_ps * self.timestep_ps)))
        self.interval = max(1, round(settings.candidate_interval_fs / settings.timestep_fs))
        self.ring_every = max(1, self.interval // 2)
        self.write_every = 0
        if settings.trajectory_every_fs:
            self.write_every = max(1, round(settings.trajectory_every_fs / settings.timestep_fs))
        if isinstance(settings.bias, MetadynamicsBias):
            self.hill_every = max(1, round(settings.bias.pace_fs / settings.timestep_fs))
        self.dynamics = Dynamics(self.model, settings, seed=seed)
        self.members, self.successor = list(replicas), successor
        self.first_number = first_number
        self.step = 0
        self.replica_steps = 0
        self.failures: dict[int, tuple[float, str]] = {}
        self.began: dict[int, int] = {}
        self.replaced: list[int] = []
        self.pending: list[int] = []
        self.slots: list[Slot] = []
        self.traces = Traces(list(signals), variables=_variables(settings))
        self.book = Candidates(settings.candidates_per_replica, self.timestep_ps)
        self.index = CliIndex(
            len(signals),
            0,
            timestep_ps=self.timestep_ps,
            device=model.device,
            indicator=indicator.indicator,
            kappa=indicator.kappa,
        )
        self.state: MDState
        self.stress: torch.Tensor | None = None
        self.energy_at_start = torch.empty(0)

    def fingerprint(self, identity: str) -> str:
        """Hash of all that determines the trajectory."""
        digest = hashlib.sha256(f"{CHECKPOINT_VERSION} {identity}".encode())
        digest.update(self.settings.model_dump_json(exclude={"checkpoint_s"}).encode())
        digest.update(self.indicator.model_dump_json().encode())
        digest.update(json.dumps([self.kind, self.seed, str(self.model.dtype)]).encode())
        for replica in self.members:
            digest.update(f"{replica.number} {replica.temperature_K}".encode())
            digest.update(replica.start.numbers.tobytes() + replica.start.positions.tobytes())
        return digest.hexdigest()[:16]

    def go(
        self,
        work: Path,
        identity: str,
        *,
        deadline: float,
        stop: Callable[[], bool],
        report: Callable[[Progress], None],
    ) -> None:
        """Integrate to the end, saving a checkpoint in `work` now and then."""
        name = self.fingerprint(identity)
        checkpoint = work / f"{name}.checkpoint"
        self.trajectory = Trajectory(work / f"{name}.trajectory")
        if checkpoint.exists():
            self._restore(checkpoint)
        else:
            self._enter(range(len(self.members)))
        saved = reported = begun = time.monotonic()
        steps_before = self.replica_steps
        while self.step < self.steps and (self.slots or self.pending):
            self._advance()
            now = time.monotonic()
            if stop() or now > deadline:
                self._save(checkpoint)
                raise Interrupted(f"stopped at {self.step} of {self.steps} steps; saved")
            if now - saved > self.settings.checkpoint_s:
                self._save(checkpoint)
                saved = now
            if now - reported > PROGRESS_EVERY_S:
                reported = now
                report(self._progress(now - begun, self.replica_steps - steps_before))
        self._close_interval()
        self._save(checkpoint)

    def _progress(self, elapsed: float, replica_steps: int) -> Progress:
        rate = max(replica_steps, 1) / elapsed
        left = (self.steps - self.step) * max(len(self.slots), 1)
        return Progress(
            done=self.step / self.steps,
            ns_per_day=rate * self.timestep_ps / 1000 * 86400,
            seconds_left=left / rate,
            failed=len(self.failures),
        )

    def _advance(self) -> None:
        """Make the steps of a block, look at them, and do what their last step asks for."""
        if not self.slots:  # all failed; the next ones enter where an interval begins
            self.step = min(self.steps, self._next(self.interval))
        else:
            made = self._made(self._block_length())
            before = self.index.steps
            block = self._judged(made)
            self._note(block, before)
            self.step += len(made)
            self._trace(block)
            if block.failed:
                self._retire(block)
        if self.step % self.interval == 0:
            self._close_interval()
            if self.pending and self.step < self.steps:
                self._enter(self.pending)
                self.pending = []
        if self.step % self.ring_every == 0:
            cli = self.index.cli[LABEL]
            for i, (slot, atoms) in enumerate(zip(self.slots, self.atoms_of, strict=True)):
                frame = self.state.positions[atoms], self.state.cell[i], cli[atoms]
                slot.ring.append((self.step - slot.began, *frame))
        if self.write_every and self.step % self.write_every == 0:
            self.trajectory.add(self._frames_now())

    def _next(self, every: int) -> int:
        return (self.step // every + 1) * every

    def _block_length(self) -> int:
        """Steps until something must be done, at most a block's."""
        pairs = sum((atoms.stop - atoms.start) ** 2 for atoms in self.atoms_of) // 2
        most = max(1, min(BLOCK_STEPS, BLOCK_PAIRS // max(1, pairs)))
        stops = [self.interval, self.trace_every, self.ring_every]
        if self.write_every:
            stops.append(self.write_every)
        left = min(self.steps, *(self._next(every) for every in stops)) - self.step
        blocks = -(-left // most)
        return -(-left // blocks)

    def _made(self, number: int) -> list[Step]:
        """Integrate some steps."""
        made = []
        for i in range(number):
            state = self.state = self.dynamics.step(self.state, self.step + i, self.stress)
            if self.stress is not None:
                self.stress = self.model.output["stress"]
            if self.model.bias and (self.step + i + 1) % self.hill_every == 0:
                self.model.bias.deposit(state.positions)
            made.append(
                Step(
                    state.positions,
                    state.momenta,
                    state.energy,
                    state.forces,
                    state.cell,
                    self.model.output,
                )
            )
        return made

    def _judged(self, made: list[Step]) -> Judged:
        """Look at steps, and add them to the index."""
        n = len(made)
        if n not in self._layouts:
            self._layouts[n] = Layout(
                [self.members[slot.member].start for slot in self.slots],
                self.state,
                n,
                signals=self.signals.values(),
                domain=self.domain,
                kind=self.kind,
                settings=self.settings,
            )
        block = self._layouts[n].judge(made)
        if self.settings.ensemble == "nve":
            self._check_drift(block)
        for i, (k, _) in block.failed.items():
            block.scores[:, k + 1 :, self.atoms_of[i]] = 0.0
        self.index.update(block.scores)
        self.replica_steps += n * len(self.slots) - sum(n - 1 - k for k, _ in block.failed.values())
        return block

    def _check_drift(self, block: Judged) -> None:
        """Without a thermostat the total energy stays; a replica that gains or loses it failed."""
        gone = self._total_energy(self.state) - self.energy_at_start
        limit = self.settings.energy_drift_eV_per_atom
        for i, per_atom in enumerate((gone.abs() / self.state.n_atoms_per_system).tolist()):
            if not per_atom <= limit:  # NaN, too
                block.failed.setdefault(i, (len(block.made) - 1, "total energy not conserved"))

    @staticmethod
    def _total_energy(state: MDState) -> torch.Tensor:
        """Shape (R,), eV, float64."""
        kinetic = calc_kinetic_energy(
            masses=state.masses, momenta=state.momenta, system_idx=state.system_idx
        )
        return state.energy.double() + kinetic.double()

    def _note(self, block: Judged, before: torch.Tensor) -> None:
        """Keep frames where a replica leaves its label domain and where it is furthest outside.

        Args:
            block: the steps.
            before: the index's steps before them.
        """
        for i, slot in enumerate(self.slots):
            # The frame of a failure is no candidate.
            mine = block.worst[: block.failed[i][0] if i in block.failed else None, i]
            outside = mine > 0
            if not outside.any():
                slot.outside = False
                continue
            left = outside & ~np.concatenate([[slot.outside], outside[:-1]])
            slot.outside = bool(outside[-1])
            top = int(mine.argmax())
            if slot.onset is None and left.any():
                slot.onset = self._kept(i, int(left.argmax()), block, before)
            if slot.worst is None or mine[top] > slot.worst.score:
                slot.worst = self._kept(i, top, block, before)

    def _kept(self, i: int, k: int, block: Judged, before: torch.Tensor) -> Kept:
        """The frame of a replica at a step of the block."""
        atoms, step = self.atoms_of[i], block.made[k]
        weights = self.index.weight(block.scores[LABEL, : k + 1, atoms]).sum(dim=0)
        return Kept(
            score=float(block.worst[k, i]),
            step=self.step + k + 1 - self.slots[i].began,
            positions=step.positions[atoms],
            cell=step.cell[i],
            scores=block.scores[LABEL, k, atoms].clone(),
            cli=(before[LABEL, atoms] + weights) * self.timestep_ps,
            force_max=float(step.output["forces"][atoms].double().norm(dim=1).max()),
        )

    def _trace(self, block: Judged) -> None:
        """Write points down: of failed replicas when they failed, of the others if it is time."""
        for i, (k, _) in block.failed.items():
            self._write_down(block.made[k], [i], self.step - len(block.made) + k + 1)
        alive = [i for i in range(len(self.slots)) if i not in block.failed]
        if alive and self.step % self.trace_every == 0:
            self._write_down(block.made[-1], alive, self.step)

    def _write_down(self, made: Step, places: list[int], step: int) -> None:
        state, n, index = self.state, len(self.slots), self.index
        replica, cli = state.system_idx, self.index.cli
        kT = calc_kT(masses=state.masses, momenta=made.momenta, system_idx=replica).double()
        rows = torch.cat(
            [
                per_replica(cli, replica, n, "mean"),
                per_replica(cli, replica, n, "amax"),
                per_replica(index.excursions, replica, n, "sum").double(),
                made.output["energy"].double().unsqueeze(0),
                (kT / KELVIN).unsqueeze(0),
                *self._pushed(made.positions),
            ]
        ).T.cpu()
        slots = [self.slots[i] for i in places]
        known = [[slot.member, (step - slot.began) * self.timestep_ps] for slot in slots]
        self.traces.add(torch.cat([torch.tensor(known, dtype=torch.float64), rows[places]], dim=1))

    def _pushed(self, positions: torch.Tensor) -> list[torch.Tensor]:
        """Of a bias: its energy, shape (1, R), eV, and the variables, shape (V, R)."""
        if self.model.bias is None:
            return []
        energy, _ = self.model.bias.forces(positions)
        values = self.model.bias.values(positions).T
        missing = _variables(self.settings) - len(values)
        return [energy.unsqueeze(0), values, values.new_full((missing, len(self.slots)), torch.nan)]

    def _close_interval(self) -> None:
        for slot, atoms in zip(self.slots, self.atoms_of, strict=True):
            slot.close_interval(self.index.cli[LABEL, atoms], self.book)

    def _retire(self, block: Judged) -> None:
        """Record failed replicas, propose the frames before, and take them out of the batch."""
        for i, (k, reason) in sorted(block.failed.items()):
            slot = self.slots[i]
            cli = self.index.cli[LABEL, self.atoms_of[i]]
            slot.propose_ring(cli, self.book)
            slot.close_interval(cli, self.book)
            steps = self.step - len(block.made) + k + 1 - slot.began
            self.failures[slot.member] = (steps * self.timestep_ps, reason)
            self._succeed(slot.member)
        self._keep([i for i in range(len(self.slots)) if i not in block.failed])

    # Who is in the batch

    def _succeed(self, member: int) -> None:
        """Let another take the place of a failed replica where the next interval begins."""
        if self.successor and len(self.replaced) < self.settings.replacements:
            self.pending.append(len(self.members))
            number = self.first_number + len(self.replaced)
            self.members.append(self.successor(number, self.members[member]))
            self.replaced.append(member)

    def _enter(self, members: Sequence[int]) -> None:
        """Add replicas to the batch, at their start."""
        hills: list[Any] = self.model.bias.state() if self.model.bias else []
        self.model.bias = None  # new replicas have no hills yet
        new = self.dynamics.begin([self.members[i] for i in members])
        stress = self.model.output.get("stress")
        energy = self._total_energy(new)
        if self.slots:
            self.state = ts.concatenate_states([self.state, new])
            if stress is not None and self.stress is not None:
                stress = torch.cat([self.stress, stress])
            energy = torch.cat([self.energy_at_start, energy])
        else:
            self.state = new
        self.stress = stress if self.settings.ensemble == "npt" else None
        self.energy_at_start = energy
        self.index.join(new.n_atoms)
        for member in members:
            none = torch.zeros(len(self.members[member].start), dtype=torch.float64)
            self.slots.append(Slot(member, self.step, none.to(self.model.device)))
            self.began[member] = self.step
        self._lay_out(hills + [None] * len(members))

    def _keep(self, kept: list[int]) -> None:
        """Take the other replicas out of the batch."""
        atoms = torch.isin(self.state.system_idx, torch.tensor(kept, device=self.model.device))
        self.index.keep(atoms)
        self.slots = [self.slots[i] for i in kept]
        if kept:
            self.state = self.state[kept]
            self.energy_at_start = self.energy_at_start[kept]
            self.stress = None if self.stress is None else self.stress[kept]
        self._lay_out([self.model.bias.take(i) for i in kept] if self.model.bias else [])

    def _lay_out(self, hills: Sequence[Any]) -> None:
        """Places in the batch of the replicas that are running, and what pushes them."""
        running = [self.members[slot.member] for slot in self.slots]
        ends = list(itertools.accumulate((len(r.start) for r in running), initial=0))
        self.atoms_of = [slice(*pair) for pair in itertools.pairwise(ends)]
        self._layouts: dict[int, Layout] = {}
        if running:
            self.dynamics.lay_out(self.state, running, [slot.began for slot in self.slots])
        if isinstance(self.settings.bias, MetadynamicsBias):
            self.model.bias = Metadynamics(
                [replica.start for replica in running],
                [replica.temperature_K for replica in running],
                self.settings.bias,
                device=self.model.device,
                states=hills,
            )

    # Checkpoints

    def _save(self, path: Path) -> None:
        parts = self.trajectory.flush()  # before the checkpoint that knows of them
        content = {
            "step": self.step,
            "replica_steps": self.replica_steps,
            "replaced": self.replaced,
            "pending": self.pending,
            "began": self.began,
            "failures": self.failures,
            "slots": [slot.state() for slot in self.slots],
            "state": {name: getattr(self.state, name) for name in _STATE},
            "stress": self.stress,
            "energy_at_start": self.energy_at_start,
            "hills": self.model.bias.state() if self.model.bias else [],
            "index": self.index.state(),
            "book": self.book.state(),
            "traces": self.traces.state(),
            "trajectory_parts": parts,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with files.replacing(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def _restore(self, path: Path) -> None:
        saved = torch.load(path, map_location=self.model.device, weights_only=True)
        for member in saved["replaced"]:
            self._succeed(member)
        for name in ("step", "replica_steps", "pending", "began", "failures"):
            setattr(self, name, saved[name])
        self.slots = [Slot.restored(slot) for slot in saved["slots"]]
        if self.slots:
            starts = [self.members[slot.member].start for slot in self.slots]
            plain = ts.io.atoms_to_state(starts, self.model.device, self.model.dtype)
            self.state = MDState(
                **saved["state"],
                masses=plain.masses,
                pbc=plain.pbc,
                system_idx=plain.system_idx,
                atomic_numbers=plain.atomic_numbers,
            )
        self.stress, self.energy_at_start = saved["stress"], saved["energy_at_start"]
        self.index.restore(saved["index"])
        self.book.restore(saved["book"])
        self.traces.restore(saved["traces"].cpu())
        self.trajectory.restore(saved["trajectory_parts"])
        self._lay_out(saved["hills"])

    # What came out

    def _frames_now(self) -> list[Atoms]:
        """The running replicas as frames of the trajectory."""
        found = []
        for i, slot in enumerate(self.slots):
            replica, atoms = self.members[slot.member], self.atoms_of[i]
            frame = structure_only(replica.start)
            frame.positions = self.state.positions[atoms].double().cpu().numpy()
            if frame.pbc.any():
                frame.cell = self.state.cell[i].double().cpu().numpy().T
            frame.arrays["forces"] = self.state.forces[atoms].double().cpu().numpy()
            frame.info |= {
                "energy": float(self.state.energy[i]),
                "origin": "exploration",
                "temperature": replica.temperature_K,
                "replica": replica.number,
                "time": (self.step - slot.began) * self.timestep_ps,
            }
            found.append(frame)
        return found

    def table(self) -> pd.DataFrame:
        """All trace points so far, rates included."""
        return self.traces.table(
            [replica.number for replica in self.members],
            [replica.start.info["structure"] for replica in self.members],
            [replica.temperature_K for replica in self.members],
        )

    def replica_reports(self) -> list[dict[str, Any]]:
        """How each replica that ran ended."""
        reports = []
        for i, began in sorted(self.began.items()):
            replica = self.members[i]
            whole = (self.steps - began) * self.timestep_ps
            ended, reason = self.failures.get(i, (whole, None))
            reports.append(
                {
                    "replica": replica.number,
                    "structure": replica.start.info["structure"],
                    "temperature_K": replica.temperature_K,
                    "atoms": len(replica.start),
                    "began_ps": began * self.timestep_ps,
                    "time_ps": ended,
                    "failure": reason,
                }
            )
        return reports
