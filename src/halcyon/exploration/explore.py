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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from torch_sim.models.interface import ModelInterface

from halcyon import files
from halcyon.config import DomainSettings, ExplorationSettings
from halcyon.domain.intervals import Domain
from halcyon.domain.signals import make_signals
from halcyon.errors import InputError, Interrupted
from halcyon.exploration.blocks import LABEL, Judged, Step
from halcyon.exploration.candidates import Candidates, Kept, Slot
from halcyon.exploration.dynamics import Replica
from halcyon.exploration.replicas import Batch, keep_freed_memory, variables
from halcyon.exploration.traces import Traces
from halcyon.exploration.trajectory import Trajectory
from halcyon.frames import structure_only

PROGRESS_EVERY_S = 10.0
CHECKPOINT_VERSION = 2
"""Checkpoints of another version are not continued."""

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
            `began_ps`, when it took the place of a failed one, and `cli_atoms_ps`, the CLI of each
            atom against the label domain at its end.
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
    keep_freed_memory()
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
        batch = Batch(model, domain, settings, indicator, signals=signals, kind=kind, seed=seed)
        run = _Run(
            batch,
            group,
            successor=successor,
            first_number=1 + max(r.number for r in replicas) + periodic * settings.replacements,
        )
        whole = json.dumps(
            [identity, indicator.model_dump(mode="json"), kind, seed, str(model.dtype)]
        )
        run.go(work, whole, deadline=deadline, stop=stop, report=report)
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


class _Run:
    """One batch of replicas of equal periodicity, from start to end."""

    def __init__(
        self,
        batch: Batch,
        replicas: Sequence[Replica],
        *,
        successor: Callable[[int, Replica], Replica] | None,
        first_number: int,
    ) -> None:
        self.batch, self.settings = batch, batch.settings
        settings = self.settings
        self.timestep_ps = settings.timestep_fs / 1000
        self.steps = max(1, round(settings.time_ps / self.timestep_ps))
        self.trace_every = max(1, round(1 / (settings.trace_points_per_ps * self.timestep_ps)))
        self.interval = max(1, round(settings.candidate_interval_fs / settings.timestep_fs))
        self.ring_every = max(1, self.interval // 2)
        self.write_every = 0
        if settings.trajectory_every_fs:
            self.write_every = max(1, round(settings.trajectory_every_fs / settings.timestep_fs))
        self.members, self.successor = list(replicas), successor
        self.first_number = first_number
        self.step = 0
        self.replica_steps = 0
        self.failures: dict[int, tuple[float, str]] = {}
        self.cli_at_failure: dict[int, torch.Tensor] = {}
        self.began: dict[int, int] = {}
        self.replaced: list[int] = []
        self.pending: list[int] = []
        self.traces = Traces(list(batch.signals), variables=variables(settings))
        self.book = Candidates(settings.candidates_per_replica, self.timestep_ps)

    def fingerprint(self, identity: str) -> str:
        """Hash of all that determines the trajectory."""
        digest = hashlib.sha256(f"{CHECKPOINT_VERSION} {identity}".encode())
        digest.update(self.settings.model_dump_json(exclude={"checkpoint_s"}).encode())
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
        while self.step < self.steps and (len(self.batch) or self.pending):
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
        left = (self.steps - self.step) * max(len(self.batch), 1)
        return Progress(
            done=self.step / self.steps,
            ns_per_day=rate * self.timestep_ps / 1000 * 86400,
            seconds_left=left / rate,
            failed=len(self.failures),
        )

    def _advance(self) -> None:
        """Make the steps of a block, look at them, and do what their last step asks for."""
        if not len(self.batch):  # all failed; the next ones enter where an interval begins
            self.step = min(self.steps, self._next(self.interval))
        else:
            made = self.batch.make(self._block_length(), step=self.step)
            before = self.batch.index.steps
            block = self.batch.judge(made)
            self._note(block, before)
            self.step += len(made)
            unmade = sum(len(made) - 1 - k for k, _ in block.failed.values())
            self.replica_steps += len(made) * len(self.batch) - unmade
            self._trace(block)
            if block.failed:
                self._retire(block)
        if self.step % self.interval == 0:
            self._close_interval()
            if self.pending and self.step < self.steps:
                self._enter(self.pending)
                self.pending = []
        if self.step % self.ring_every == 0:
            self._keep_frames()
        if self.write_every and self.step % self.write_every == 0:
            self.trajectory.add(self._frames_now())

    def _next(self, every: int) -> int:
        return (self.step // every + 1) * every

    def _block_length(self) -> int:
        """Steps until something must be done, in blocks of about equal length."""
        stops = [self.interval, self.trace_every, self.ring_every]
        if self.write_every:
            stops.append(self.write_every)
        left = min(self.steps, *(self._next(every) for every in stops)) - self.step
        blocks = -(-left // self.batch.most_steps)
        return -(-left // blocks)

    def _note(self, block: Judged, before: torch.Tensor) -> None:
        """Keep frames where a replica leaves its label domain and where it is furthest outside.

        Args:
            block: the steps.
            before: the index's steps before them.
        """
        for i, slot in enumerate(self.batch.slots):
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
        atoms, step = self.batch.atoms_of[i], block.made[k]
        weights = self.batch.index.weight(block.scores[LABEL, : k + 1, atoms]).sum(dim=0)
        return Kept(
            score=float(block.worst[k, i]),
            step=self.step + k + 1 - self.batch.slots[i].began,
            positions=step.positions[atoms],
            cell=step.cell[i],
            scores=block.scores[LABEL, k, atoms].clone(),
            cli=(before[LABEL, atoms] + weights) * self.timestep_ps,
        )

    def _trace(self, block: Judged) -> None:
        """Write points down: of failed replicas when they failed, of the others if it is time."""
        for i, (k, _) in block.failed.items():
            self._write_down(block.made[k], [i], self.step - len(block.made) + k + 1)
        alive = [i for i in range(len(self.batch)) if i not in block.failed]
        if alive and self.step % self.trace_every == 0:
            self._write_down(block.made[-1], alive, self.step)

    def _write_down(self, made: Step, places: list[int], step: int) -> None:
        slots = [self.batch.slots[i] for i in places]
        known = [[slot.member, (step - slot.began) * self.timestep_ps] for slot in slots]
        rows = self.batch.trace_rows(made)[places]
        self.traces.add(torch.cat([torch.tensor(known, dtype=torch.float64), rows], dim=1))

    def _places(self) -> Iterator[tuple[int, Slot, slice]]:
        """Place, slot and atoms of each running replica."""
        batch = self.batch
        return zip(itertools.count(), batch.slots, batch.atoms_of)

    def _close_interval(self) -> None:
        for _, slot, atoms in self._places():
            slot.close_interval(self.batch.index.cli[LABEL, atoms], self.book)

    def _keep_frames(self) -> None:
        """Remember the present frame of each replica for a while: it may fail soon."""
        cli, state = self.batch.index.cli[LABEL], self.batch.state
        for i, slot, atoms in self._places():
            frame = state.positions[atoms], state.cell[i], cli[atoms]
            slot.ring.append((self.step - slot.began, *frame))

    def _retire(self, block: Judged) -> None:
        """Record failed replicas, propose the frames before, and take them out of the batch."""
        for i, (k, reason) in sorted(block.failed.items()):
            slot = self.batch.slots[i]
            cli = self.batch.index.cli[LABEL, self.batch.atoms_of[i]]
            slot.propose_ring(cli, self.book)
            slot.close_interval(cli, self.book)
            steps = self.step - len(block.made) + k + 1 - slot.began
            self.cli_at_failure[slot.member] = cli.double().cpu().clone()
            self.failures[slot.member] = (steps * self.timestep_ps, reason)
            self._succeed(slot.member)
        self.batch.keep([i for i in range(len(self.batch)) if i not in block.failed])

    def _succeed(self, member: int) -> None:
        """Let another take the place of a failed replica where the next interval begins."""
        if self.successor and len(self.replaced) < self.settings.replacements:
            self.pending.append(len(self.members))
            number = self.first_number + len(self.replaced)
            self.members.append(self.successor(number, self.members[member]))
            self.replaced.append(member)

    def _enter(self, members: Sequence[int]) -> None:
        self.batch.enter(members, [self.members[i] for i in members], step=self.step)
        self.began |= dict.fromkeys(members, self.step)

    def _save(self, path: Path) -> None:
        parts = self.trajectory.flush()  # before the checkpoint that knows of them
        content = {
            "step": self.step,
            "replica_steps": self.replica_steps,
            "replaced": self.replaced,
            "pending": self.pending,
            "began": self.began,
            "failures": self.failures,
            "cli_at_failure": self.cli_at_failure,
            "batch": self.batch.checkpoint(),
            "book": self.book.state(),
            "traces": self.traces.state(),
            "trajectory_parts": parts,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with files.replacing(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def _restore(self, path: Path) -> None:
        saved = torch.load(path, map_location=self.batch.model.device, weights_only=True)
        for member in saved["replaced"]:
            self._succeed(member)
        for name in ("step", "replica_steps", "pending", "began", "failures"):
            setattr(self, name, saved[name])
        self.cli_at_failure = saved.get("cli_at_failure", {})  # older checkpoints lack it
        self.batch.restore(saved["batch"], self.members)
        self.book.restore(saved["book"])
        self.traces.restore(saved["traces"].cpu())
        self.trajectory.restore(saved["trajectory_parts"])

    def _frames_now(self) -> list[Atoms]:
        """The running replicas as frames of the trajectory."""
        found, state = [], self.batch.state
        for i, slot, atoms in self._places():
            replica = self.members[slot.member]
            frame = structure_only(replica.start)
            frame.positions = state.positions[atoms].double().cpu().numpy()
            if frame.pbc.any():
                frame.cell = state.cell[i].double().cpu().numpy().T
            frame.arrays["forces"] = state.forces[atoms].double().cpu().numpy()
            frame.info |= {
                "energy": float(state.energy[i]),
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
        ended_with = dict(self.cli_at_failure)
        for _, slot, atoms in self._places():
            ended_with[slot.member] = self.batch.index.cli[LABEL, atoms].double().cpu()
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
                    "cli_atoms_ps": ended_with[i].tolist() if i in ended_with else None,
                }
            )
        return reports
