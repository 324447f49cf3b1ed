"""The teacher's molecular dynamics: frames of one Langevin run that survives a kill.

    import numpy as np
    from halcyon.teacher.dynamics import Run

    run = Run(teacher, start, 300.0, interval_fs=25.0, seed=np.random.SeedSequence(1))
    frame = next(run)

The run is cut into segments of `SEGMENT` frames. Each segment begins in a new OpenMM context, from
the positions and velocities at the end of the segment before, with random numbers of its own. So a
run that was stopped and continued gives bit for bit the frames of a run that was not. OpenMM's own
checkpoints do not promise this between versions or machines.

Not for: displaced, stretched and pushed frames, or energies and forces (`sampling`).
"""

import hashlib
import io
import json
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openmm
from ase import Atoms
from openmm import unit

from halcyon import files
from halcyon.config.learning import EQUILIBRATION_PS, TEACHER_TIMESTEP_FS
from halcyon.errors import InputError
from halcyon.frames import structure_only
from halcyon.teacher.forcefield import Teacher
from halcyon.teacher.relaxation import minimise, positions_of

FRICTION_PER_PS = 5.0
SEGMENT = 50
"""Frames of a segment; a kill loses at most one segment and what `SAVE_EVERY_S` left unsaved."""
SAVE_EVERY_S = 20.0
"""Least time between two saves, s."""
VERSION = 1
VELOCITY = unit.nanometer / unit.picosecond


class Run(Iterator[Atoms]):
    """An endless iterator over the unlabelled frames of one Langevin run."""

    def __init__(
        self,
        teacher: Teacher,
        start: Atoms,
        temperature: float,
        *,
        interval_fs: float,
        seed: np.random.SeedSequence,
        saved: Path | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        """Read what was saved; nothing is computed yet.

        Args:
            teacher: the force field.
            start: where the dynamics start, after a minimisation.
            temperature: K.
            interval_fs: time between two frames, fs.
            seed: seed of the thermostat and of the first velocities.
            saved: folder where the run saves its state and continues from it; None: no saving.
            warn: called with a message for people where what was saved is damaged.
        """
        self.teacher, self.start, self.temperature = teacher, start, float(temperature)
        self.steps = max(1, round(interval_fs / TEACHER_TIMESTEP_FS))
        self.seed = seed
        self.path = None if saved is None else saved / f"{self._identity()}.npz"
        self.positions: list[np.ndarray] = []
        """Positions of all frames so far, Å, each of shape (N, 3), in the order of `start`."""
        self.given = 0  # frames that the iterator has returned
        # Positions (nm) and velocities (nm/ps) at the end of the last complete segment.
        self._state: tuple[np.ndarray, np.ndarray] | None = None
        self._in_segments = 0  # frames in complete segments
        self._on_disk = 0  # frames on disk
        self._saved_at = time.monotonic()
        self._context: openmm.Context | None = None
        self._restore(warn)

    def __next__(self) -> Atoms:
        """The next frame.

        Raises:
            InputError: positions or forces became infinite or NaN.
        """
        if self.given == len(self.positions):
            try:
                self._advance()
            except openmm.OpenMMException as error:
                start = self.start
                raise InputError(
                    f"structure {start.info.get('structure', start.symbols)}: the force field's "
                    f"dynamics became unstable at {self.temperature} K ({error}). Check that the "
                    "start structure is not strained and that the force field is meant for it, or "
                    "lower teacher.temperatures_K"
                ) from error
        frame = structure_only(self.start)
        frame.positions = self.positions[self.given]
        self.given += 1
        frame.info["origin"] = "md"
        frame.info["temperature"] = self.temperature
        frame.info["time"] = self.given * self.steps * TEACHER_TIMESTEP_FS / 1000
        return frame

    def save(self) -> None:
        """Save all complete segments."""
        if self.path is None or self._state is None or self._on_disk == self._in_segments:
            return
        buffer = io.BytesIO()
        positions, velocities = self._state
        frames = np.array(self.positions[: self._in_segments])
        np.savez(buffer, frames=frames, positions=positions, velocities=velocities)
        with files.replacing(self.path) as temporary:
            temporary.write_bytes(buffer.getvalue())
        self._on_disk, self._saved_at = self._in_segments, time.monotonic()

    def _identity(self) -> str:
        """Hash of all that determines the frames."""
        content = [VERSION, openmm.version.version, self.temperature, self.steps, SEGMENT]
        content += [str(self.seed.entropy), list(self.seed.spawn_key)]
        digest = hashlib.sha256(json.dumps(content).encode())
        digest.update(openmm.XmlSerializer.serialize(self.teacher.system).encode())
        for part in (self.start.numbers, self.start.positions, self.start.cell.array):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]

    def _restore(self, warn: Callable[[str], None]) -> None:
        """Continue after the segments that were saved."""
        if self.path is None or not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                frames, state = saved["frames"], (saved["positions"], saved["velocities"])
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile):
            warn(
                f"{self.path}: damaged: it is removed, and the force field's dynamics at "
                f"{self.temperature:g} K begin anew; nothing else is lost"
            )
            self.path.unlink()
            return
        self.positions, self._state = list(frames), state
        self._in_segments = self._on_disk = len(frames)

    def _advance(self) -> None:
        """Compute one more frame."""
        if self._context is None:
            self._begin_segment()
        context = self._context
        if context is None:
            raise AssertionError
        context.getIntegrator().step(self.steps)
        frame = (positions_of(context) @ self._rotation)[self.teacher.particles]
        self.positions.append(frame)
        if len(self.positions) % SEGMENT == 0:
            state = context.getState(positions=True, velocities=True)
            self._state = (
                state.getPositions(asNumpy=True).value_in_unit(unit.nanometer),
                state.getVelocities(asNumpy=True).value_in_unit(VELOCITY),
            )
            self._in_segments = len(self.positions)
            self._context = None
            if time.monotonic() - self._saved_at > SAVE_EVERY_S:
                self.save()

    def _begin_segment(self) -> None:
        """Make a context at the end of the segment before, or, for the first one, equilibrate."""
        segment = len(self.positions) // SEGMENT
        # OpenMM takes the seed 0 for: choose one.
        thermostat_seed, velocity_seed = (
            np.random.SeedSequence(
                self.seed.entropy, spawn_key=(*self.seed.spawn_key, segment)
            ).generate_state(2)
            % (2**31 - 1)
            + 1
        ).tolist()
        temperature = self.temperature * self.teacher.copies  # see `supercell`
        integrator = openmm.LangevinMiddleIntegrator(
            temperature, FRICTION_PER_PS, TEACHER_TIMESTEP_FS / 1000
        )
        integrator.setRandomNumberSeed(thermostat_seed)
        context = self.teacher.context(integrator)
        self._rotation = self.teacher.place(context, self.start)
        if self._state is None:
            minimise(self.teacher, context)
            context.setVelocitiesToTemperature(temperature, velocity_seed)
            integrator.step(round(EQUILIBRATION_PS * 1000 / TEACHER_TIMESTEP_FS))
        else:
            context.setPositions(self._state[0])
            context.setVelocities(self._state[1])
        self._context = context
