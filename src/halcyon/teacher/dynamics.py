"""The teacher's molecular dynamics: frames of one Langevin run that a kill cannot hurt.

    import numpy as np
    from halcyon.teacher.dynamics import Run

    run = Run(teacher, start, 300.0, interval_fs=25.0, seed=np.random.SeedSequence(1))
    frame = next(run)

The run is cut into segments of `SEGMENT` frames. Each begins in a fresh OpenMM context, from the
positions and velocities the last one ended with, with random numbers of its own: whether the
process was a new one then makes no difference, to the last bit. OpenMM's own checkpoints promise
that neither between versions nor between machines.

Not for: frames up against the walls, or labels (`sampling`).
"""

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openmm
from ase import Atoms
from openmm import unit

from halcyon import files
from halcyon.config.learning import EQUILIBRATION_PS, TEACHER_TIMESTEP_FS
from halcyon.errors import InputError
from halcyon.frames import structure_only
from halcyon.teacher.forcefield import NM, Teacher

FRICTION_PER_PS = 5.0
SEGMENT = 50
"""Frames of a segment: what a kill can cost, beside `SAVE_EVERY_S`."""
SAVE_EVERY_S = 20.0
"""Least time between two saves, s."""
VERSION = 1
VELOCITY = unit.nanometer / unit.picosecond


class Run(Iterator[Atoms]):
    """Unlabelled frames, without end, of one Langevin run."""

    def __init__(
        self,
        teacher: Teacher,
        start: Atoms,
        temperature: float,
        *,
        interval_fs: float,
        seed: np.random.SeedSequence,
        saved: Path | None = None,
    ) -> None:
        """Nothing is computed yet.

        Args:
            teacher: the force field.
            start: where the dynamics start, after a minimisation.
            temperature: K.
            interval_fs: time between two frames, fs.
            seed: of thermostat and velocities.
            saved: folder where the state is kept and found again; None: nowhere.
        """
        self.teacher, self.start, self.temperature = teacher, start, float(temperature)
        self.steps = max(1, round(interval_fs / TEACHER_TIMESTEP_FS))
        self.seed = seed
        self.path = None if saved is None else saved / f"{self._identity()}.npz"
        self.positions: list[np.ndarray] = []
        """Of all frames so far, in their own order of atoms, Å, each of shape (N, 3)."""
        self.given = 0
        self._state: tuple[np.ndarray, np.ndarray] | None = None  # nm, nm/ps; after whole segments
        self._whole = 0  # frames in whole segments
        self._kept = 0  # frames on disk
        self._saved_at = time.monotonic()
        self._context: openmm.Context | None = None
        self._restore()

    def __next__(self) -> Atoms:
        """The next frame.

        Raises:
            InputError: the dynamics blow up.
        """
        if self.given == len(self.positions):
            try:
                self._advance()
            except openmm.OpenMMException as error:
                start = self.start
                raise InputError(
                    f"structure {start.info.get('structure', start.symbols)}: the force field's "
                    f"dynamics at {self.temperature} K blow up ({error}): is the start structure "
                    "strained, or the force field not meant for it?"
                ) from error
        frame = structure_only(self.start)
        frame.positions = self.positions[self.given]
        self.given += 1
        frame.info["origin"] = "md"
        frame.info["temperature"] = self.temperature
        frame.info["time"] = self.given * self.steps * TEACHER_TIMESTEP_FS / 1000
        return frame

    def save(self) -> None:
        """Keep all whole segments."""
        if self.path is None or self._state is None or self._kept == self._whole:
            return
        buffer = io.BytesIO()
        positions, velocities = self._state
        frames = np.array(self.positions[: self._whole])
        np.savez(buffer, frames=frames, positions=positions, velocities=velocities)
        with files.replacing(self.path) as temporary:
            temporary.write_bytes(buffer.getvalue())
        self._kept, self._saved_at = self._whole, time.monotonic()

    def _identity(self) -> str:
        """Hash of all that determines the frames."""
        known = [VERSION, openmm.version.version, self.temperature, self.steps, SEGMENT]
        known += [str(self.seed.entropy), list(self.seed.spawn_key)]
        digest = hashlib.sha256(json.dumps(known).encode())
        digest.update(openmm.XmlSerializer.serialize(self.teacher.system).encode())
        for part in (self.start.numbers, self.start.positions, self.start.cell.array):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]

    def _restore(self) -> None:
        """Go on after the segments that were saved."""
        if self.path is None or not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as found:
                frames, state = found["frames"], (found["positions"], found["velocities"])
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile):
            self.path.unlink()  # of no use to anyone
            return
        self.positions, self._state = list(frames), state
        self._whole = self._kept = len(frames)

    def _advance(self) -> None:
        """Compute one more frame."""
        if self._context is None:
            self._begin_segment()
        context = self._context
        if context is None:
            raise AssertionError
        context.getIntegrator().step(self.steps)
        frame = np.empty((len(self.start), 3))
        frame[self.teacher.order] = positions_of(context) @ self._rotation
        self.positions.append(frame)
        if len(self.positions) % SEGMENT == 0:
            state = context.getState(positions=True, velocities=True)
            self._state = (
                state.getPositions(asNumpy=True).value_in_unit(unit.nanometer),
                state.getVelocities(asNumpy=True).value_in_unit(VELOCITY),
            )
            self._whole = len(self.positions)
            self._context = None
            if time.monotonic() - self._saved_at > SAVE_EVERY_S:
                self.save()

    def _begin_segment(self) -> None:
        segment = len(self.positions) // SEGMENT
        # To OpenMM, the seed 0 means any.
        thermostat_seed, velocity_seed = (
            np.random.SeedSequence(
                self.seed.entropy, spawn_key=(*self.seed.spawn_key, segment)
            ).generate_state(2)
            % (2**31 - 1)
            + 1
        ).tolist()
        integrator = openmm.LangevinMiddleIntegrator(
            self.temperature, FRICTION_PER_PS, TEACHER_TIMESTEP_FS / 1000
        )
        integrator.setRandomNumberSeed(thermostat_seed)
        context = self.teacher.context(integrator)
        self._rotation = self.teacher.place(context, self.start)
        if self._state is None:
            openmm.LocalEnergyMinimizer.minimize(context)
            context.setVelocitiesToTemperature(self.temperature, velocity_seed)
            integrator.step(round(EQUILIBRATION_PS * 1000 / TEACHER_TIMESTEP_FS))
        else:
            context.setPositions(self._state[0])
            context.setVelocities(self._state[1])
        self._context = context


def positions_of(context: openmm.Context) -> np.ndarray:
    """Positions in OpenMM's order and frame, Å, shape (N, 3).

    Raises:
        openmm.OpenMMException: they are not finite.
    """
    state = context.getState(positions=True)
    positions: np.ndarray = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer) * NM
    if not np.isfinite(positions).all():  # the Reference platform says nothing
        raise openmm.OpenMMException("coordinates are not finite")
    return positions
