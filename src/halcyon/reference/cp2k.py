"""Labels from CP2K: one process per frame, its files in the frame's own folder.

Each frame is computed in `work/<structure key>/`: `cp2k.inp`, `cp2k.out`, `forces`, and `stdout`
with what the launcher said. A frame that fails keeps all of it; one that succeeds keeps what is
small. Every start of CP2K is a line in `work/cp2k_starts.log`. Why a process per frame, which
Poisson solver and which precision: docs/decisions/cp2k.md.

Not for: what the input says (`cp2k_input`), or rescuing a frame that does not converge.
"""

import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree

from halcyon.config import Cp2kReference
from halcyon.errors import InputError
from halcyon.frames import structure_key
from halcyon.reference.base import Record, Reference, Status
from halcyon.reference.cp2k_input import FORCES_FILE, check_frame, frame_input, read_level

USUAL_DATA_DIRS = (Path("/usr/share/cp2k"), Path("/usr/local/share/cp2k/data"))
MPI_LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra", "srun", "aprun", "jsrun", "orterun", "prun")
STARTS_LOG = "cp2k_starts.log"
KEPT_BYTES = 200_000
"""Larger files of a frame that succeeded are deleted."""
CHECK_TIMEOUT_S = 60.0
PR_SET_PDEATHSIG = 1
"""Linux: "send me this signal when my parent dies", see prctl(2)."""
GRACE_S = 5.0
"""Time between asking CP2K's processes to end and killing them, s."""

ENERGY = re.compile(
    r"^ ENERGY\| Total FORCE_EVAL .*?[\[(](?:a\.u\.|hartree)[\])]:?[ ]+(\S+)", re.MULTILINE
)
BOX = re.compile(
    r"^ \*{20,}\n((?: \*.*\*\n)*? \* *\[ABORT\].*\n(?: \*.*\*\n)*?) \*{20,}", re.MULTILINE
)
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][-+]?\d+)?"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What CP2K's files say about one frame; fields as in `Record`."""

    status: Status
    energy: float | None = None
    forces: np.ndarray | None = None
    message: str = ""
    scf_steps: int | None = None


class Cp2k(Reference):
    """Single points with CP2K, one process per frame."""

    def __init__(self, settings: Cp2kReference) -> None:
        """Read the level of theory; CP2K is not started yet.

        Raises:
            InputError: the level file is missing or not valid.
        """
        self._settings = settings
        self._level = read_level(settings.level)
        try:
            self._command = shlex.split(settings.command)
        except ValueError as error:
            raise InputError(f"reference.command = {settings.command!r}: {error}") from error
        if not self._command:
            raise InputError("reference.command: empty; expected the command that starts CP2K")

    @property
    def _command_key(self) -> str:
        """Key and value, for messages."""
        return f"reference.command = {self._settings.command!r}"

    @property
    def level(self) -> dict[str, Any]:
        """CP2K's version, and the level's identity; see `Level.identity`.

        Raises:
            InputError: CP2K cannot be started, or a data file is missing.
        """
        return {
            "program": "CP2K",
            "version": self._version[0],
            **self._level.identity(self._data_dir),
        }

    def check(self, structures: Sequence[Atoms]) -> None:
        """Check program, data files, elements, charges, boxes, and the input by CP2K itself."""
        _ = self.level
        for atoms in structures:
            check_frame(self._level, atoms, self._data_dir)
        if structures:
            self._check_by_cp2k(structures[0])

    def label(self, frames: Sequence[Atoms], work: Path, cores: int) -> Iterator[Record]:
        """Label frames one after another; see `Reference.label`."""
        for atoms in frames:
            start = time.monotonic()
            outcome = self._compute(atoms, work, cores)
            seconds = time.monotonic() - start
            yield Record(
                status=outcome.status,
                energy=outcome.energy,
                forces=outcome.forces,
                message=outcome.message,
                scf_steps=outcome.scf_steps,
                seconds=seconds,
                core_seconds=seconds * cores,
            )

    def _compute(self, atoms: Atoms, work: Path, cores: int) -> Outcome:
        try:
            text = frame_input(self._level, atoms, self._data_dir)
        except InputError as error:
            return Outcome(status=Status.REJECTED, message=str(error))
        key = structure_key(atoms)
        folder = work / key
        if folder.exists():  # of a run that was killed
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / "cp2k.inp").write_text(text, encoding="utf-8")
        with (work / STARTS_LOG).open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {key}\n")
        timeout = self._settings.frame_timeout_s
        try:
            _run(
                [*self._command, "-i", "cp2k.inp", "-o", "cp2k.out"],
                folder=folder,
                environment=self._environment(cores),
                timeout_s=timeout,
            )
        except subprocess.TimeoutExpired:
            said = read_outcome(_read(folder / "cp2k.out"), "", len(atoms))
            return Outcome(
                status=Status.TIMEOUT,
                message=f"not done after {timeout:g} s (frame_timeout_s)",
                scf_steps=said.scf_steps,
            )
        except OSError as error:
            return Outcome(
                status=Status.CRASHED,
                message=f"{self._settings.command!r} cannot be started: {error}",
            )
        # Some aborts come before CP2K has opened its output file.
        output = _read(folder / "cp2k.out") + _read(folder / "stdout")
        outcome = read_outcome(output, _read(folder / FORCES_FILE), len(atoms))
        if outcome.status is Status.OK:
            for path in folder.iterdir():
                if path.is_file() and path.stat().st_size > KEPT_BYTES:
                    path.unlink()
        return outcome

    def _environment(self, cores: int) -> dict[str, str]:
        environment = os.environ | {"CP2K_DATA_DIR": str(self._data_dir)}
        if Path(self._command[0]).name in MPI_LAUNCHERS:
            # The command says how many ranks share the cores: one thread each, unless it is set.
            return {"OMP_NUM_THREADS": "1"} | environment
        return environment | {"OMP_NUM_THREADS": str(cores)}

    @cached_property
    def _version(self) -> tuple[str, Path | None]:
        """CP2K's version, and the data folder that is compiled in."""
        program = self._program()
        # A launcher may wait in a queue for its ranks: CP2K is asked directly where it is visible.
        command = [program] if shutil.which(program) else self._command
        answer = self._ask([*command, "--version"])
        version = re.search(r"^\s*CP2K version (.+?)\s*$", answer, re.MULTILINE)
        if version is None:
            raise InputError(
                f"{self._command_key}: `{shlex.join(command)} --version` does not "
                f"name a CP2K version; it said: {answer.strip()[-300:]!r}"
            )
        name = version[1]
        revision = re.search(r"Source code revision (\S+)", answer)
        if "Development" in name and revision:
            name += f" {revision[1]}"
        # The compiler options are wrapped at any place, and indented by three blanks.
        compiled_in = re.search(r'-D __DATA_DIR="([^"]+)"', re.sub(r"\n {3}", "", answer))
        return name, Path(compiled_in[1]) if compiled_in else None

    @cached_property
    def _data_dir(self) -> Path:
        """CP2K's data folder: that of the configuration, else the first that exists."""
        configured = self._settings.data_dir
        if configured is not None:
            if not configured.is_dir():
                raise InputError(f"reference.data_dir = {str(configured)!r}: no such folder")
            return configured.absolute()
        environment = os.environ.get("CP2K_DATA_DIR")
        if environment:
            if not Path(environment).is_dir():
                raise InputError(f"CP2K_DATA_DIR = {environment!r}: no such folder")
            return Path(environment).absolute()
        compiled_in = self._version[1]
        candidates = [*([compiled_in] if compiled_in else []), *USUAL_DATA_DIRS]
        for candidate in candidates:
            if candidate.is_dir():
                return candidate
        raise InputError(
            "CP2K's data folder is in none of the usual places "
            f"({', '.join(str(path) for path in candidates)}): set `reference.data_dir` to the "
            "folder with BASIS_MOLOPT and GTH_POTENTIALS"
        )

    def _program(self) -> str:
        """Find CP2K itself in a command such as `srun -n 4 cp2k.psmp`."""
        launcher = self._command[0]
        if shutil.which(launcher) is None:
            raise InputError(
                f"{self._command_key}: no program {launcher!r} on this machine's "
                "PATH; expected e.g. `cp2k.psmp`, or `mpirun -n 4 cp2k.psmp`"
            )
        named = [word for word in self._command if "cp2k" in Path(word).name.lower()]
        program = named[-1] if named else launcher
        if Path(launcher).name in MPI_LAUNCHERS and (not named or shutil.which(program) is None):
            missing = program if named else "CP2K's name"
            raise InputError(
                f"{self._command_key}: {launcher} is there, but not {missing!r}; "
                "expected e.g. `mpirun -n 4 cp2k.psmp`, with cp2k.psmp on the PATH"
            )
        return program

    def _ask(self, command: list[str], folder: Path | None = None) -> str:
        """Output of a command that ends at once."""
        try:
            answer = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=CHECK_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(
                f"{self._command_key}: `{shlex.join(command)}` failed: {error}"
            ) from error
        return answer.stdout.decode(errors="replace")

    def _check_by_cp2k(self, atoms: Atoms) -> None:
        """Let CP2K parse the input: its version may know other keywords than cp2k-input-tools."""
        program = self._program()
        command = [program] if shutil.which(program) else self._command
        with tempfile.TemporaryDirectory(prefix="halcyon-cp2k-") as folder:
            path = Path(folder) / "cp2k.inp"
            path.write_text(frame_input(self._level, atoms, self._data_dir), encoding="utf-8")
            answer = self._ask([*command, "--check", path.name], Path(folder))
        if "SUCCESS" not in answer:
            raise InputError(
                f"{self._settings.level}: CP2K {self._version[0]} does not accept it: "
                f"{abort_message(answer) or answer.strip()[-300:]}"
            )


def read_outcome(output: str, forces: str, atoms: int) -> Outcome:
    """Judge one frame by what CP2K wrote; its exit status and its closing banner say too little.

    A label needs all of: SCF reported as converged and never as not converged, an energy, one
    force for every atom, all finite, no abort. Knows the formats of CP2K up to 2024 and from
    2025 on. Energies and forces are converted with ASE's units (CODATA 2014).

    Args:
        output: CP2K's output file, with what went to standard output.
        forces: content of the file of PRINT/FORCES.
        atoms: number of atoms.
    """
    steps = re.findall(
        r"(?:SCF run converged in|Leaving inner SCF loop after reaching)\s+(\d+) step", output
    )
    scf_steps = sum(int(count) for count in steps) if steps else None
    abort = abort_message(output)
    if "SCF run NOT converged" in output:
        return Outcome(
            status=Status.UNCONVERGED,
            message=abort or f"SCF run NOT converged after {scf_steps or '?'} steps",
            scf_steps=scf_steps,
        )
    energy = _energy(output)
    vectors = _forces(forces)
    if abort:
        fault = abort
    elif "SCF run converged" not in output:
        fault = f"CP2K ended without saying whether SCF converged; its last words: {_tail(output)}"
    elif energy is None:
        fault = f"CP2K wrote no energy; its last words: {_tail(output)}"
    elif not np.isfinite(energy):
        fault = f"the energy is {energy}"
    elif vectors.shape != (atoms, 3):
        fault = f"CP2K wrote {len(vectors)} forces for {atoms} atoms"
    elif not np.isfinite(vectors).all():
        fault = "a force is not a finite number"
    else:
        return Outcome(
            status=Status.OK,
            energy=energy * Hartree,
            forces=vectors * (Hartree / Bohr),
            scf_steps=scf_steps,
        )
    return Outcome(status=Status.CRASHED, message=fault, scf_steps=scf_steps)


def abort_message(output: str) -> str:
    """Text of the first box with which CP2K says why it aborts, on one line; empty without one."""
    box = BOX.search(output)
    if box is None:
        return ""
    # The words stand right of a drawing of 11 columns, the place in CP2K's source at the end.
    words = [line[11:].rstrip().removesuffix("*").strip() for line in box[1].splitlines()]
    return " ".join(" ".join(words).split())


def _energy(output: str) -> float | None:
    """Total energy in hartree."""
    lines = ENERGY.findall(output)
    return _number(lines[-1]) if lines else None


def _forces(text: str) -> np.ndarray:
    """Forces in hartree/bohr, shape (N, 3); what CP2K could not print as a number is nan."""
    vectors = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 6 and words[0] == "FORCES|" and words[1].isdigit():  # 2025 and later
            vectors.append([_number(word) for word in words[2:5]])
        elif len(words) == 6 and words[0].isdigit() and words[1].isdigit():  # up to 2024
            vectors.append([_number(word) for word in words[3:6]])
    return np.reshape(np.array(vectors, dtype=float), (-1, 3))


def _number(word: str) -> float:
    return float(re.sub("[Dd]", "E", word)) if re.fullmatch(NUMBER, word) else float("nan")


def _tail(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-300:] or "nothing"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _run(
    command: list[str], *, folder: Path, environment: dict[str, str], timeout_s: float
) -> None:
    """Run a command in a folder; at the end of the time, or ours, end all its processes.

    Raises:
        subprocess.TimeoutExpired: it was still running after `timeout_s`.
        OSError: it cannot be started.
    """
    with (folder / "stdout").open("wb") as stdout:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own process group: a launcher's ranks die with it
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - takes no lock a thread could hold
        )
        try:
            process.wait(timeout_s)
        finally:
            if process.poll() is None:
                _end_group(process)


def _die_with_parent() -> None:
    """Where Linux is the system: `kill -9` of this process ends CP2K, too, not only us."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_group(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
