"""The calculation that labels one frame: CP2K runs once as configured, and again for a rescue.

1. CP2K runs from the orbitals of a similar frame, where there are any.
2. If that does not converge, it runs without them: only the level of theory decides what a label
   is.
3. If that does not converge either, the rungs of the rescue ladder follow, one after another. Each
   only makes orbitals; from them CP2K runs as configured, and this run makes the label.

Not for: what a rung changes (`rescue`), or which frame's orbitals are the guess (`backend`).
"""

import copy
import re
import shutil
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from halcyon.config import Cp2kReference
from halcyon.labels.reference.base import Status
from halcyon.labels.reference.cp2k.input import (
    DENSITY_FILE,
    FORCES_FILE,
    GUESS_FILE,
    ORBITALS_FILE,
    STRESS_FILE,
    start_from_guess,
)
from halcyon.labels.reference.cp2k.output import Cp2kResult, read_result
from halcyon.labels.reference.cp2k.program import INPUT_FILE, OUTPUT_FILE, STDOUT_FILE, Program
from halcyon.labels.reference.cp2k.rescue import CONTINUED, is_possible, rescue_tree
from halcyon.labels.reference.cp2k.tree import Tree, lines

STARTS_LOG = "cp2k_starts.log"
"""File in the label job's folder with a line for every start of CP2K."""
NUMERICAL = re.compile(r"cholesky|diagonali[sz]|dsyev|singular|restart", re.IGNORECASE)
"""CP2K's messages where linear algebra failed: other settings of the SCF may avoid that."""


class Calculation:
    """All runs of CP2K for one frame, each in a folder of its own.

    Attributes:
        orbitals: file of the last run's orbitals, with k-points of its density; where it wrote one.
        scf_steps: of all runs together.
    """

    def __init__(
        self, program: Program, settings: Cp2kReference, tree: Tree, folder: Path, cores: int
    ) -> None:
        """Begin: the time that the frame may take is counted from now on.

        Args:
            program: CP2K.
            settings: with the rescue ladder and the time a frame may take.
            tree: the frame's own input.
            folder: the frame's own; exists.
            cores: number of cores that CP2K uses.
        """
        self._program = program
        self._tree = tree
        self._with_stress = "+STRESS_TENSOR" in tree["+FORCE_EVAL"][0].get("+PRINT", {})
        self._atoms = len(tree["+FORCE_EVAL"][0]["+SUBSYS"]["+COORD"]["*"])
        self._folder = folder
        self._cores = cores
        self._settings = settings
        self._deadline = time.monotonic() + settings.frame_timeout_s
        with_k_points = "+KPOINTS" in tree["+FORCE_EVAL"][0]["+DFT"]
        self._orbitals_file = DENSITY_FILE if with_k_points else ORBITALS_FILE
        self.orbitals = folder / self._orbitals_file
        self.scf_steps = 0

    def label(self, *, guess: bool) -> tuple[Cp2kResult, int]:
        """Label the frame.

        Args:
            guess: whether the folder has orbitals to start from, as `GUESS_FILE`.

        Returns:
            The result, and the rung that led to it: 0 without rescue.
        """
        result = self._label(self._folder, guess=guess)
        if guess and may_be_rescued(result):
            result = self._label(self._folder / "atomic_guess", guess=False)
        return self._rescue(result) if may_be_rescued(result) else (result, 0)

    def _label(self, folder: Path, *, guess: bool) -> Cp2kResult:
        tree = self._tree
        if guess:
            tree = copy.deepcopy(tree)
            start_from_guess(tree)
        return self._run(tree, folder)

    def _rescue(self, first: Cp2kResult) -> tuple[Cp2kResult, int]:
        """Try one rung after another until the orbitals of one lead to a label."""
        result, tried = first, []
        for rung, name in enumerate(self._settings.rescue, start=1):
            if not is_possible(self._tree, name):
                continue
            tried.append(name)
            tree = rescue_tree(self._tree, name)
            folder = self._folder / f"rung{rung}-{name}"
            folder.mkdir()
            if name in CONTINUED and self.orbitals.exists():
                shutil.copy(self.orbitals, folder / GUESS_FILE)
                start_from_guess(tree)
            result = self._run(tree, folder, forces=False)
            if result.status is Status.OK and self.orbitals.exists():
                label = self._folder / f"rung{rung}-label"
                label.mkdir()
                shutil.copy(self.orbitals, label / GUESS_FILE)
                result = self._label(label, guess=True)
                if result.status is Status.OK:
                    return result, rung
            if result.status is Status.TIMEOUT:
                break
        if not tried:
            return first, 0
        message = f"{first.message}; rescue tried: {', '.join(tried)}"
        if result.status is Status.TIMEOUT:
            return replace(result, message=f"{result.message}; {message}"), 0
        return replace(first, message=message), 0

    def _run(self, tree: Tree, folder: Path, *, forces: bool = True) -> Cp2kResult:
        folder.mkdir(exist_ok=True)
        (folder / INPUT_FILE).write_text("\n".join(lines(tree)) + "\n", encoding="utf-8")
        with (self._folder.parent / STARTS_LOG).open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {self._folder.name}\n")
        self.orbitals = folder / self._orbitals_file
        exit_status, late = 0, False
        try:
            exit_status = self._program.run(
                folder,
                cores=self._cores,
                timeout_s=max(0.0, self._deadline - time.monotonic()),
            )
        except subprocess.TimeoutExpired:
            late = True
        result = read_result(
            _read(folder / OUTPUT_FILE),
            _read(folder / FORCES_FILE) if forces else None,
            self._atoms,
            stress=_read(folder / STRESS_FILE) if forces and self._with_stress else None,
            stdout=_read(folder / STDOUT_FILE),
            exit_status=exit_status,
            version=self._program.version,
        )
        self.scf_steps += result.scf_steps or 0
        if late:
            timeout = self._settings.frame_timeout_s
            return Cp2kResult(
                status=Status.TIMEOUT,
                message=f"not done after {timeout:g} s (frame_timeout_s)",
                scf_steps=result.scf_steps,
            )
        return result


def may_be_rescued(result: Cp2kResult) -> bool:
    """Whether other settings of the SCF may lead to a label.

    They may where it did not converge, or where CP2K's linear algebra failed.
    """
    if result.status is Status.CRASHED:
        return bool(NUMERICAL.search(result.message))
    return result.status is Status.UNCONVERGED


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
