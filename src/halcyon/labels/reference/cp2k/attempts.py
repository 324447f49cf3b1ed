"""The attempts to label one frame: as configured, and by the rungs of the rescue ladder.

Not for: what a rung changes (`cp2k_rescue`), or which frame's orbitals are the guess (`cp2k`).
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
    FORCES_FILE,
    GUESS_FILE,
    ORBITALS_FILE,
    start_from_guess,
)
from halcyon.labels.reference.cp2k.output import Outcome, read_outcome
from halcyon.labels.reference.cp2k.program import INPUT_FILE, OUTPUT_FILE, STDOUT_FILE, Program
from halcyon.labels.reference.cp2k.rescue import CONTINUED, rescue_tree
from halcyon.labels.reference.cp2k.tree import Tree, lines

STARTS_LOG = "cp2k_starts.log"
NUMERICAL = re.compile(r"cholesky|diagonali[sz]|dsyev|singular|restart", re.IGNORECASE)
"""Aborts that another road may avoid."""


class Attempts:
    """The attempts to label one frame, each in a folder of its own."""

    def __init__(
        self, program: Program, settings: Cp2kReference, tree: Tree, folder: Path, cores: int
    ) -> None:
        """Begin: from now on the frame's time runs.

        Args:
            program: CP2K.
            settings: with the rescue ladder and the time a frame may take.
            tree: the frame's own input.
            folder: the frame's own; exists.
            cores: to use.
        """
        self._program = program
        self._tree = tree
        self._atoms = len(tree["+FORCE_EVAL"][0]["+SUBSYS"]["+COORD"]["*"])
        self._folder = folder
        self._cores = cores
        self._settings = settings
        self._deadline = time.monotonic() + settings.frame_timeout_s
        self.orbitals = folder / ORBITALS_FILE
        """Of the last attempt."""
        self.scf_steps = 0
        """Of all attempts."""

    def label(self, *, guess: bool) -> tuple[Outcome, int]:
        """Label the frame.

        Args:
            guess: there are orbitals to start from, as `GUESS_FILE` in the folder.

        Returns:
            What came of it, and the rung: 0 without rescue.
        """
        outcome = self._label(self._folder, guess=guess)
        if guess and may_be_rescued(outcome):  # the guess is ours, not the level's: without it
            outcome = self._label(self._folder / "atomic_guess", guess=False)
        return self._rescue(outcome) if may_be_rescued(outcome) else (outcome, 0)

    def _label(self, folder: Path, *, guess: bool) -> Outcome:
        tree = self._tree
        if guess:
            tree = copy.deepcopy(tree)
            start_from_guess(tree)
        return self._run(tree, folder)

    def _rescue(self, first: Outcome) -> tuple[Outcome, int]:
        """Climb the ladder until a rung's orbitals lead to a label."""
        outcome, tried = first, []
        for rung, name in enumerate(self._settings.rescue, start=1):
            tried.append(name)
            tree = rescue_tree(self._tree, name)
            folder = self._folder / f"rung{rung}-{name}"
            folder.mkdir()
            if name in CONTINUED and self.orbitals.exists():
                shutil.copy(self.orbitals, folder / GUESS_FILE)
                start_from_guess(tree)
            outcome = self._run(tree, folder, forces=False)
            if outcome.status is Status.OK and self.orbitals.exists():
                label = self._folder / f"rung{rung}-label"
                label.mkdir()
                shutil.copy(self.orbitals, label / GUESS_FILE)
                outcome = self._label(label, guess=True)
                if outcome.status is Status.OK:
                    return outcome, rung
            if outcome.status is Status.TIMEOUT:
                break
        said = f"{first.message}; rescue tried: {', '.join(tried)}" if tried else first.message
        last = outcome if outcome.status is Status.TIMEOUT else first
        message = f"{outcome.message}; {said}" if last is outcome and tried else said
        return replace(last, message=message), 0

    def _run(self, tree: Tree, folder: Path, *, forces: bool = True) -> Outcome:
        folder.mkdir(exist_ok=True)
        (folder / INPUT_FILE).write_text("\n".join(lines(tree)) + "\n", encoding="utf-8")
        with (self._folder.parent / STARTS_LOG).open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {self._folder.name}\n")
        self.orbitals = folder / ORBITALS_FILE
        exit_status, late = 0, False
        try:
            exit_status = self._program.run(
                folder,
                cores=self._cores,
                timeout_s=max(0.0, self._deadline - time.monotonic()),
            )
        except subprocess.TimeoutExpired:
            late = True
        outcome = read_outcome(
            _read(folder / OUTPUT_FILE),
            _read(folder / FORCES_FILE) if forces else None,
            self._atoms,
            stdout=_read(folder / STDOUT_FILE),
            exit_status=exit_status,
            version=self._program.version,
        )
        self.scf_steps += outcome.scf_steps or 0
        if late:
            timeout = self._settings.frame_timeout_s
            return Outcome(
                status=Status.TIMEOUT,
                message=f"not done after {timeout:g} s (frame_timeout_s)",
                scf_steps=outcome.scf_steps,
            )
        return outcome


def may_be_rescued(outcome: Outcome) -> bool:
    """Whether another road may lead to a label: no convergence, or an abort of linear algebra."""
    if outcome.status is Status.CRASHED:
        return bool(NUMERICAL.search(outcome.message))
    return outcome.status is Status.UNCONVERGED


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
