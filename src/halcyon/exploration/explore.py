"""Exploration: many replicas of molecular dynamics in one batch, every step watched by the CLI.

Each forward pass is handed to the signals. Replicas that fail are stopped and replaced, candidate
frames are kept, traces are thinned, and the run saves itself, so that a killed run goes on as the
same trajectory. Steps are judged a block at a time: monitors then cost little, and the processor
waits for the device once a block. No result depends on the length of blocks, since what a failed
replica did in the rest of its block is forgotten.

    from pathlib import Path
    from halcyon.config import DomainSettings
    from halcyon.exploration.explore import Monitoring, RunControl, explore
    from halcyon.models.batched import BatchedMace
    from halcyon.models.mace import load

    model = BatchedMace(load("m.model"))
    monitoring = Monitoring(domain=domain, settings=DomainSettings(), system_kind="molecule")
    control = RunControl(work=Path("work"), identity="what else a result depends on")
    exploration = explore(model, replicas, settings, monitoring, control, seed=1)
    exploration.candidates  # frames that may be worth a label

Not for: integrators (see `dynamics`), choosing frames (see `selection`), or long production runs
(see `final.monitor`).
"""

import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from torch_sim.models.interface import ModelInterface

from halcyon.config import AuditSettings, ExplorationSettings
from halcyon.errors import InputError, Interrupted
from halcyon.exploration.activity import Activity
from halcyon.exploration.blocks import DECIDING, Judged, Step
from halcyon.exploration.candidates import Candidates, Slot, Snapshot
from halcyon.exploration.dynamics import Replica
from halcyon.exploration.monitoring import Monitoring
from halcyon.exploration.replicas import ReplicaBatch, keep_freed_memory, variables
from halcyon.exploration.reservoir import Reservoir
from halcyon.exploration.run_state import Roster, RunState, Successor, fingerprint, read_checkpoint
from halcyon.exploration.schedule import Schedule
from halcyon.exploration.traces import Traces
from halcyon.exploration.trajectory import Trajectory
from halcyon.frames import structure_only
from halcyon.verdict.forms import ExplorationSummary, ReplicaEnd
from halcyon.wording import duration

PROGRESS_EVERY_S = 10.0

Decided = Callable[[pd.DataFrame, Sequence[ReplicaEnd]], str]
"""From traces, and how each replica would end, to why more of them would change nothing; empty:
they may."""

__all__ = ["Exploration", "Monitoring", "Progress", "Replica", "RunControl", "explore"]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: simulated part of the whole.
        ns_per_day: simulated time per wall time, summed over replicas.
        seconds_left: wall time until the end, s.
        failed: replicas that have failed.
    """

    done: float
    ns_per_day: float
    seconds_left: float
    failed: int

    def __str__(self) -> str:
        return (
            f"{self.done:.0%}, {self.ns_per_day:.1f} ns/day over all replicas, "
            f"{self.failed} failed, about {duration(self.seconds_left)} left"
        )


@dataclass(frozen=True, kw_only=True)
class RunControl:
    """Where a run keeps its checkpoints, and how it is stopped and followed from outside.

    Attributes:
        work: folder of its checkpoints.
        identity: hash of models and domain, see `run_state.identity_of`: a checkpoint of others is
            not continued.
        stop: asked after every block; true: save and stop.
        report: called every few seconds.
        warn: called with a message for people where a checkpoint is damaged.
    """

    work: Path
    identity: str
    stop: Callable[[], bool] = lambda: False
    report: Callable[[Progress], None] = lambda _: None
    warn: Callable[[str], None] = warnings.warn


@dataclass
class Exploration:
    """Results of a run.

    Attributes:
        traces: one row per replica and trace point, columns as `traces.trace_columns`.
        candidates: frames with an unreliable atom, or shortly before a failure.
        replicas: how each replica ended, by its number.
        time_ps: asked of each replica; less than the settings say where the run ended early.
        ended_early: why it did; empty: it did not.
        steps: steps integrated, summed over replicas, up to each one's failure.
        passed_over: number of candidates that gave way to others of their replica.
        reservoir: frames drawn at random, least draws first; see `reservoir`.
        trajectory: files with the trajectory, in order; none unless the settings ask for it.
    """

    traces: pd.DataFrame
    candidates: list[Atoms]
    replicas: list[ReplicaEnd]
    time_ps: float
    ended_early: str
    steps: int
    passed_over: int
    reservoir: list[Atoms]
    trajectory: list[Path]

    def summary(self) -> ExplorationSummary:
        """Content of `exploration.json`."""
        return ExplorationSummary(
            schema=ExplorationSummary.SCHEMA,
            replicas=self.replicas,
            time_ps=self.time_ps,
            ended_early=self.ended_early,
            replica_steps=self.steps,
            candidates_passed_over=self.passed_over,
        )

    def describe(self) -> str:
        """The run in a line, for people."""
        failed = sum(end.failure is not None for end in self.replicas)
        cli = self.traces.groupby("replica").last()["cli_error"].mean()
        return (
            f"{sum(end.time_ps for end in self.replicas):.3g} ps, {failed} of "
            f"{len(self.replicas)} replicas failed, Λ {cli:.3g} ps, "
            f"{len(self.candidates)} candidates"
        )


def explore(
    model: ModelInterface,
    replicas: Sequence[Replica],
    settings: ExplorationSettings,
    monitoring: Monitoring,
    control: RunControl,
    *,
    seed: int,
    successor: Successor | None = None,
    audit: AuditSettings | None = None,
    decided: Decided | None = None,
) -> Exploration:
    """Run all replicas to their end or failure, or go on where a killed run stopped.

    Args:
        model: returns energy, forces, `node_energy` (interaction energies, eV), at constant
            pressure stress and, where a signal reads them, `descriptors`.
        replicas: to run. Periodic and other replicas go into separate batches.
        settings: ensemble, time, time step, friction, limits that count as failures.
        monitoring: domain, signals, and kind of system.
        control: folder of checkpoints; how the run is stopped and followed.
        seed: of momenta and thermostat.
        successor: gives the replica that takes the place of a failed one for the rest of the time;
            at most `settings.replacements` do in each batch. None: failed replicas are not
            replaced.
        audit: how many random frames are kept, and from when on. None: none is kept.
        decided: asked once, after `settings.early_end` of the time, with the traces and how each
            replica would end if the run ended there; it does if the answer says why. None: it goes
            to its end.

    Raises:
        InputError: a signal is not calibrated, or constant pressure without a periodic cell.
        Interrupted: stopped in good order; the same call goes on.
    """
    keep_freed_memory()
    kept_frames = [audit.model_dump(mode="json", exclude={"frames"})] if audit else []
    identity = json.dumps(
        [
            control.identity,
            monitoring.settings.model_dump(mode="json"),
            monitoring.system_kind,
            seed,
            str(model.dtype),
            *kept_frames,
        ]
    )
    loops = []
    for periodic in (False, True):
        group = [r for r in replicas if r.start.pbc.all() == periodic]
        if not group:
            continue
        if settings.ensemble == "npt" and not periodic:
            raise InputError(
                f"exploration.ensemble = 'npt': {group[0].start.info['structure']} has no periodic "
                "cell whose volume could change; use nvt"
            )
        roster = Roster(
            group,
            successor=successor,
            first_number=1 + max(r.number for r in replicas) + periodic * settings.replacements,
            most_successors=settings.replacements,
        )
        running = ReplicaBatch(model, settings, monitoring, seed=seed)
        name = fingerprint(identity, settings, group)
        reservoir = Reservoir(audit, Schedule.of(settings), seed=seed)
        loops.append(_Loop(roster, running, reservoir, control.work / name))
        loops[-1].begin(control)
    schedule = Schedule.of(settings)
    steps, why = schedule.steps, ""
    if decided and schedule.early_end:
        for loop in loops:
            loop.go(control, schedule.early_end)
        if all(loop.state.step == schedule.early_end for loop in loops):
            why = decided(_traces(loops), _ends(loops, schedule.early_end))
        if why:
            steps = schedule.early_end
    for loop in loops:
        loop.go(control, steps)
        loop.finish()
    states = [loop.state for loop in loops]
    return Exploration(
        traces=_traces(loops),
        candidates=[f for state in states for f in state.candidates.frames(state.roster.replicas)],
        replicas=_ends(loops, steps),
        time_ps=settings.time_ps if steps == schedule.steps else steps * schedule.timestep_ps,
        ended_early=why,
        steps=sum(state.replica_steps for state in states),
        passed_over=sum(state.candidates.passed_over for state in states),
        reservoir=[
            frame
            for state in states
            for frame in state.reservoir.frames(state.roster.replicas, steps=steps)
        ],
        trajectory=[path for state in states for path in state.trajectory.files()],
    )


def _traces(loops: "Sequence[_Loop]") -> pd.DataFrame:
    return pd.concat([loop.state.table() for loop in loops], ignore_index=True)


def _ends(loops: "Sequence[_Loop]", steps: int) -> list[ReplicaEnd]:
    """How each replica ends in a run of so many steps."""
    ends = [end for loop in loops for end in loop.ends(steps)]
    return sorted(ends, key=lambda end: end.replica)


class _Loop:
    """Takes replicas of equal periodicity from their start, or from a checkpoint, to their end."""

    def __init__(
        self, roster: Roster, running: ReplicaBatch, reservoir: Reservoir, files: Path
    ) -> None:
        """Begin; `files` is the path of checkpoint and trajectory without their endings."""
        settings = running.settings
        self.settings, self.schedule = settings, Schedule.of(settings)
        self.checkpoint = files.with_name(f"{files.name}.checkpoint")
        self.state = RunState(
            roster,
            running,
            Traces(list(running.signals), variables=variables(settings)),
            Candidates(settings.candidates_per_replica, self.schedule.timestep_ps),
            reservoir,
            Activity(self.schedule.timestep_ps),
            Trajectory(files.with_name(f"{files.name}.trajectory")),
            step=-self.schedule.equilibration,
            watches={} if running.monitoring.system_kind == "reactive" else None,
        )

    def begin(self, control: RunControl) -> None:
        """Let the replicas in, or take up a checkpoint."""
        state = self.state
        saved_run = read_checkpoint(self.checkpoint, state.running.model.device, control.warn)
        if saved_run is not None:
            state.restore(saved_run)
        else:
            self._let_in(range(len(state.roster.replicas)))
            self._look_at_bonds()

    def go(self, control: RunControl, until: int) -> None:
        """Integrate to a step, saving a checkpoint now and then.

        Raises:
            Interrupted: stopped and saved.
        """
        state = self.state
        saved = reported = begun = time.monotonic()
        steps_before = state.replica_steps
        while state.step < until and (len(state.running) or state.roster.waiting):
            self._advance()
            now = time.monotonic()
            if control.stop():
                state.save(self.checkpoint)
                made, whole = self._made_of_whole()
                raise Interrupted(f"stopped at {made} of {whole} steps; saved")
            if now - saved > self.settings.checkpoint_s:
                state.save(self.checkpoint)
                saved = now
            if now - reported > PROGRESS_EVERY_S:
                reported = now
                control.report(self._progress(now - begun, state.replica_steps - steps_before))

    def finish(self) -> None:
        """Take up what the last interval brought, and save the run."""
        self._close_intervals()
        self._look_at_bonds()
        self.state.save(self.checkpoint)

    def ends(self, steps: int) -> list[ReplicaEnd]:
        """How each replica ends in a run of so many steps."""
        return self.state.ends(steps=steps, timestep_ps=self.schedule.timestep_ps)

    def _let_in(self, members: Sequence[int]) -> None:
        self.state.let_in(members, equilibration=self.schedule.equilibration)

    def _made_of_whole(self) -> tuple[int, int]:
        """Steps made, and steps of the run, equilibration included."""
        before = self.schedule.equilibration
        return self.state.step + before, self.schedule.steps + before

    def _progress(self, elapsed_s: float, replica_steps: int) -> Progress:
        rate = max(replica_steps, 1) / elapsed_s
        remaining = (self.schedule.steps - self.state.step) * max(len(self.state.running), 1)
        made, whole = self._made_of_whole()
        return Progress(
            done=made / whole,
            ns_per_day=rate * self.schedule.timestep_ps / 1000 * 86400,
            seconds_left=remaining / rate,
            failed=len(self.state.roster.failures),
        )

    def _advance(self) -> None:
        """Make a block of steps, judge it, and do what is due at its last step."""
        state, schedule = self.state, self.schedule
        if len(state.running):
            self._make_block()
        else:  # all have failed; successors enter where an interval begins
            state.step = schedule.next_interval(state.step)
        self._release()
        if state.step % schedule.interval == 0:
            self._offer_frames()
            self._close_intervals()
            # A successor that would still be equilibrated at the end shows nothing.
            if state.roster.waiting and state.step + schedule.equilibration < schedule.steps:
                self._let_in(state.roster.waiting)
                state.roster.waiting = []
            self._look_at_bonds()
        if state.step % schedule.recent_every == 0:
            self._keep_recent_frames()
        if state.crystals and state.step % schedule.look_every == 0:
            self._look_at_sites()
        if schedule.write_every and state.step % schedule.write_every == 0:
            state.trajectory.add(self._frames_now())

    def _release(self) -> None:
        """Let the time of replicas count whose equilibration ends at this step."""
        state, places = self.state, []
        for i, slot, atoms in state.places():
            if slot.began == state.step:
                slot.close_interval(state.index.cli[DECIDING, atoms], state.candidates)
                places.append(i)
        if places:
            state.running.release(places)
            self._look_at_bonds()

    def _make_block(self) -> None:
        state, running = self.state, self.state.running
        stops = [slot.began for slot in running.slots]
        if state.crystals:
            stops.append(self.schedule.next_look(state.step))
        length = self.schedule.block_length(state.step, most=running.most_steps, stops=stops)
        steps = running.make(length, step=state.step)
        index_before = running.index.steps
        block = running.judge(steps, step=state.step)
        self._note_excursions(block, index_before)
        state.step += len(steps)
        after_failure = sum(len(steps) - 1 - k for k, _ in block.failed.values())
        state.replica_steps += len(steps) * len(running) - after_failure
        self._trace(block)
        if block.failed:
            self._retire(block)

    def _note_excursions(self, block: Judged, index_before: torch.Tensor) -> None:
        """Keep frames where a replica leaves its domain and where it is furthest outside.

        Args:
            block: K steps.
            index_before: steps of the index before them, shape (S, N).
        """
        for i, slot, _ in self.state.places():
            # The frame of the failure itself is no candidate.
            worst = block.worst[: block.failed[i][0] if i in block.failed else None, i]
            outside = worst > 0
            # No block goes beyond the end of an equilibration, whose time does not count.
            if self.state.step >= slot.began:
                self.state.activity.note(slot.member, self.state.step + 1 - slot.began, outside)
            if not outside.any():
                slot.outside = False
                continue
            onsets = outside & ~np.concatenate([[slot.outside], outside[:-1]])
            slot.outside = bool(outside[-1])
            top = int(worst.argmax())
            if slot.onset is None and onsets.any():
                slot.onset = self._snapshot(i, int(onsets.argmax()), block, index_before)
            if slot.worst is None or worst[top] > slot.worst.score:
                slot.worst = self._snapshot(i, top, block, index_before)

    def _snapshot(self, i: int, k: int, block: Judged, index_before: torch.Tensor) -> Snapshot:
        """The replica at place i, at step k of the block."""
        running, step = self.state.running, block.steps[k]
        atoms = running.atoms_of[i]
        weights = running.index.weight(block.scores[DECIDING, : k + 1, atoms]).sum(dim=0)
        return Snapshot(
            score=float(block.worst[k, i]),
            step=self.state.step + k + 1 - running.slots[i].began,
            positions=step.positions[atoms],
            cell=step.cell[i],
            scores=block.scores[DECIDING, k, atoms].clone(),
            cli=(index_before[DECIDING, atoms] + weights) * self.schedule.timestep_ps,
        )

    def _trace(self, block: Judged) -> None:
        """Add points: of failed replicas at their failure, of the others if it is time."""
        step = self.state.step
        for i, (k, _) in block.failed.items():
            self._add_points(block.steps[k], [i], step - len(block.steps) + k + 1)
        alive = [
            i
            for i, slot, _ in self.state.places()
            if i not in block.failed and step > slot.began  # equilibration is not traced
        ]
        if alive and step % self.schedule.trace_every == 0:
            self._add_points(block.steps[-1], alive, step)

    def _add_points(self, made: Step, places: list[int], step: int) -> None:
        slots = [self.state.running.slots[i] for i in places]
        # A replica that fails while it is equilibrated has one point, at 0.
        steps = [max(0, step - slot.began) for slot in slots]
        timestep_ps = self.schedule.timestep_ps
        first = [[slot.member, n * timestep_ps] for slot, n in zip(slots, steps, strict=True)]
        rows = self.state.running.trace_rows(made)[places]
        self.state.traces.add(torch.cat([torch.tensor(first, dtype=torch.float64), rows], dim=1))

    def _close_intervals(self) -> None:
        for _, slot, atoms in self.state.places():
            slot.close_interval(self.state.index.cli[DECIDING, atoms], self.state.candidates)

    def _offer_frames(self) -> None:
        """Offer the present frame of each replica to the reservoir; failed ones are gone by now."""
        running, replicas = self.state.running, self.state.roster.replicas
        for i, slot, atoms in self.state.places():
            frame = running.state.positions[atoms], running.state.cell[i]
            step = self.state.step - slot.began
            self.state.reservoir.offer(slot.member, replicas[slot.member], step, *frame)

    def _look_at_bonds(self) -> None:
        """See which bonds of the running replicas have formed and broken, in a reactive system."""
        if self.state.watches is None:
            return
        for i, slot, atoms in self.state.places():
            if self.state.step < slot.began:
                continue  # it is equilibrated still
            self.state.watches[slot.member].look(
                self._frame_now(i, slot, atoms),
                time_ps=(self.state.step - slot.began) * self.schedule.timestep_ps,
            )

    def _look_at_sites(self) -> None:
        """See how far the atoms of running crystals are from their sites."""
        for i, slot, atoms in self.state.places():
            crystal = self.state.crystals.get(slot.member)
            if crystal is not None and self.state.step > slot.began:  # it is equilibrated
                crystal.look(self._frame_now(i, slot, atoms))

    def _keep_recent_frames(self) -> None:
        """Remember the present frame of each replica for a while: it may fail soon."""
        running, cli = self.state.running, self.state.index.cli[DECIDING]
        for i, slot, atoms in self.state.places():
            frame = running.state.positions[atoms], running.state.cell[i], cli[atoms]
            slot.ring.append((self.state.step - slot.began, *frame))

    def _retire(self, block: Judged) -> None:
        """Record failed replicas, propose the frames before, and take them out of the batch."""
        running, candidates = self.state.running, self.state.candidates
        for i, (k, reason) in sorted(block.failed.items()):
            slot = running.slots[i]
            cli = running.index.cli[DECIDING, running.atoms_of[i]]
            slot.propose_ring(cli, candidates)
            slot.close_interval(cli, candidates)
            steps = self.state.step - len(block.steps) + k + 1 - slot.began
            timestep_ps, before = self.schedule.timestep_ps, self.schedule.equilibration
            when = ""
            if steps <= 0:
                now_ps, whole_ps = (before + steps) * timestep_ps, before * timestep_ps
                when = f" at {now_ps:.4g} of {whole_ps:.4g} ps of equilibration"
            self.state.roster.fail(
                slot.member,
                time_ps=max(0, steps) * timestep_ps,
                reason=reason + when,
                cli=cli,
            )
        running.keep([i for i in range(len(running)) if i not in block.failed])

    def _frame_now(self, i: int, slot: Slot, atoms: slice) -> Atoms:
        """The replica at place i as a frame without labels."""
        state = self.state.running.state
        frame = structure_only(self.state.roster.replicas[slot.member].start)
        frame.positions = state.positions[atoms].double().cpu().numpy()
        if frame.pbc.any():
            frame.cell = state.cell[i].double().cpu().numpy().T
        return frame

    def _frames_now(self) -> list[Atoms]:
        """The running replicas as frames of the trajectory."""
        frames = []
        for i, slot, atoms in self.state.places():
            if self.state.step <= slot.began:
                continue  # it is equilibrated still
            state, replica = self.state.running.state, self.state.roster.replicas[slot.member]
            frame = self._frame_now(i, slot, atoms)
            frame.arrays["forces"] = state.forces[atoms].double().cpu().numpy()
            frame.info |= {
                "energy": float(state.energy[i]),
                "origin": "exploration",
                "temperature": replica.temperature_K,
                "replica": replica.number,
                "time": (self.state.step - slot.began) * self.schedule.timestep_ps,
            }
            frames.append(frame)
        return frames
