"""The program CP2K on this machine: where it is, its version, and running it.

Not for: what is computed (`input`), or what the output means (`output`).
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
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path

from halcyon.config import Cp2kReference
from halcyon.errors import InputError
from halcyon.labels.reference.base import NotStartedError
from halcyon.labels.reference.cp2k.output import abort_message

USUAL_DATA_DIRS = (Path("/usr/share/cp2k"), Path("/usr/local/share/cp2k/data"))
MPI_LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra", "srun", "aprun", "jsrun", "orterun", "prun")
CHECK_TIMEOUT_S = 60.0
"""Most time that CP2K may take to tell its version or to parse an input, s."""
START_TIMEOUT_S = 60.0
"""If CP2K has not begun after this time, s, it did not start: the frame is not at fault."""
PR_SET_PDEATHSIG = 1
"""Linux, prctl(2): a process receives this signal when its parent dies."""
GRACE_S = 5.0
"""Time between asking CP2K's processes to end and killing them, s."""

INPUT_FILE = "cp2k.inp"
OUTPUT_FILE = "cp2k.out"
STDOUT_FILE = "stdout"


class Program:
    """CP2K as the configuration starts it."""

    def __init__(self, settings: Cp2kReference) -> None:
        """Split the command into words; nothing is started yet.

        Raises:
            InputError: the command is empty or cannot be split.
        """
        self._settings = settings
        try:
            self._command = shlex.split(settings.command)
        except ValueError as error:
            raise InputError(f"reference.command = {settings.command!r}: {error}") from error
        if not self._command:
            raise InputError("reference.command: empty; expected the command that starts CP2K")

    @property
    def version(self) -> str:
        """CP2K's version, with the revision where it is a development version.

        Raises:
            InputError: CP2K cannot be started.
        """
        return self._version[0]

    @cached_property
    def data_dir(self) -> Path:
        """CP2K's data folder: that of the configuration, else the first that exists.

        Raises:
            InputError: there is none.
        """
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

    def check(self, text: str) -> str:
        """Let CP2K parse an input: its version may know other keywords than cp2k-input-tools.

        Returns:
            CP2K's message if it refuses the input; empty if it accepts it.
        """
        program = self._program()
        command = [program] if shutil.which(program) else self._command
        with tempfile.TemporaryDirectory(prefix="halcyon-cp2k-") as folder:
            path = Path(folder) / INPUT_FILE
            path.write_text(text, encoding="utf-8")
            answer = self._ask([*command, "--check", path.name], Path(folder))
        if "SUCCESS" in answer:
            return ""
        return abort_message(answer) or answer.strip()[-300:]

    def run(self, folder: Path, *, cores: int, timeout_s: float) -> int:
        """Run the input in a folder. All processes of CP2K end with this call, or with Halcyon.

        Returns:
            The exit status; minus the signal's number where a signal ended the process.

        Raises:
            subprocess.TimeoutExpired: it was still running after `timeout_s`.
            NotStartedError: CP2K itself has not begun, whatever its launcher did.
        """
        command = [*self._command, "-i", INPUT_FILE, "-o", OUTPUT_FILE]
        with (folder / STDOUT_FILE).open("wb") as stdout:
            try:
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=self._environment(cores),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # its own process group: a launcher's ranks die with it
                    preexec_fn=partial(_die_with_parent, os.getpid()),  # noqa: PLW1509 - takes no lock a thread could hold
                )
            except OSError as error:
                raise self._not_started(str(error)) from error
            try:
                status = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                if timeout_s < START_TIMEOUT_S or _began(folder):
                    raise
                raise self._not_started(
                    f"it wrote no output in {timeout_s:g} s; {_last_lines(folder)}"
                ) from None
            finally:
                if process.poll() is None:
                    _end_group(process)
        if not _began(folder):
            raise self._not_started(f"exit status {status}; {_last_lines(folder)}")
        return status

    def _not_started(self, why: str) -> NotStartedError:
        return NotStartedError(
            f"{self._command_key}: CP2K did not start: {why}. No frame is at fault, and none is "
            "recorded: correct the command, the launcher or the machine, then run the same "
            "Halcyon command again"
        )

    @property
    def _command_key(self) -> str:
        """The configuration's key and value, for messages."""
        return f"reference.command = {self._settings.command!r}"

    def _environment(self, cores: int) -> dict[str, str]:
        environment = os.environ | {"CP2K_DATA_DIR": str(self.data_dir)}
        if Path(self._command[0]).name in MPI_LAUNCHERS:
            # The launcher's ranks share the cores: one thread each, unless the user set a number.
            return {"OMP_NUM_THREADS": "1"} | environment
        return environment | {"OMP_NUM_THREADS": str(cores)}

    @cached_property
    def _version(self) -> tuple[str, Path | None]:
        """CP2K's version, and the data folder that is compiled in."""
        program = self._program()
        # A launcher may wait in a queue for its ranks: CP2K is started directly where it can be.
        command = [program] if shutil.which(program) else self._command
        answer = self._ask([*command, "--version"])
        version = re.search(r"^\s*CP2K version (.+?)\s*$", answer, re.MULTILINE)
        if version is None:
            raise InputError(
                f"{self._command_key}: `{shlex.join(command)} --version` does not "
                f"name a CP2K version; it printed: {answer.strip()[-300:]!r}"
            )
        name = version[1]
        revision = re.search(r"Source code revision (\S+)", answer)
        if "Development" in name and revision:
            name += f" {revision[1]}"
        # The compiler options are broken into lines anywhere, each indented by three blanks.
        compiled_in = re.search(r'-D __DATA_DIR="([^"]+)"', re.sub(r"\n {3}", "", answer))
        return name, Path(compiled_in[1]) if compiled_in else None

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
        """Output of a command that ends quickly."""
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


def _die_with_parent(parent: int) -> None:
    """On Linux: let CP2K end when this process is killed, even with SIGKILL.

    It runs in the child process, before CP2K replaces that.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the call above: no signal will come
            os._exit(1)


def _began(folder: Path) -> bool:
    """Whether CP2K itself has run: it creates its output file at once, and fills it later."""
    return (folder / OUTPUT_FILE).exists() or bool(abort_message(_read(folder)))


def _last_lines(folder: Path) -> str:
    """The last lines that CP2K or its launcher printed, for a message."""
    tail = [line.strip() for line in _read(folder).splitlines() if line.strip()]
    return f"its last lines: {' / '.join(tail[-3:])[-300:] or 'nothing'}"


def _read(folder: Path) -> str:
    return (folder / STDOUT_FILE).read_text(encoding="utf-8", errors="replace")


def _end_group(process: subprocess.Popen) -> None:
    """End a process and all that it started, first asking, then by force."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
