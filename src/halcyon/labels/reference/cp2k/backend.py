"""Labels from CP2K: one process per frame, its files in the frame's own folder.

Each frame is computed in `work/<structure key>/`: `cp2k.inp`, `cp2k.out`, `forces`, and `stdout`
with the launcher's messages; further runs of CP2K for the same frame have folders in there. A frame
that fails keeps all of its files, one that succeeds only the small ones. Every start of CP2K is a
line in `work/cp2k_starts.log`. Orbitals of labelled frames are the initial guess of the next ones
and are deleted when the label job is done. docs/decisions/cp2k.md gives the reasons, the Poisson
solver and the precision.

Not for: what the input says (`input`), or what the output means (`output`).
"""

import copy
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ase import Atoms

from halcyon.config import Cp2kReference
from halcyon.errors import InputError
from halcyon.frames import structure_key
from halcyon.labels.reference.base import LevelOfTheory, Record, Reference, Status
from halcyon.labels.reference.cp2k.calculation import Calculation
from halcyon.labels.reference.cp2k.consistency import check_grid
from halcyon.labels.reference.cp2k.input import (
    DENSITY_FILE,
    GUESS_FILE,
    ORBITALS_FILE,
    check_frame,
    frame_input,
    frame_tree,
)
from halcyon.labels.reference.cp2k.kpoints import check_meshes
from halcyon.labels.reference.cp2k.level import read_level
from halcyon.labels.reference.cp2k.output import Cp2kResult
from halcyon.labels.reference.cp2k.program import Program
from halcyon.labels.reference.cp2k.tree import Tree
from halcyon.labels.reference.cp2k.wavefunctions import Wavefunctions, nearest_first

WAVEFUNCTIONS = "wavefunctions"
SMALL_BYTES = 200_000
"""Larger files of a frame that succeeded are deleted."""


class Cp2k(Reference):
    """Single points with CP2K, one process per frame."""

    def __init__(self, settings: Cp2kReference, *, stress: bool = False) -> None:
        """Read the level of theory; CP2K is not started yet.

        Args:
            settings: section `reference`.
            stress: whether periodic frames get a stress, too.

        Raises:
            InputError: the level file is missing or not valid.
        """
        self._settings, self._stress = settings, stress
        self._level = read_level(settings.level, settings.k_spacing_per_A)
        self._program = Program(settings)

    @property
    def level(self) -> LevelOfTheory:
        """CP2K's version and the identity of the level file; see `Cp2kLevel.identity`.

        Raises:
            InputError: CP2K cannot be started, or a data file is missing.
        """
        return {
            "program": "CP2K",
            "version": self._program.version,
            **self._level.identity(self._program.data_dir),
        }

    @property
    def limits(self) -> Mapping[str, float | list[str]]:
        """Time of a frame, s, and the rungs of its rescue; see `Reference.limits`."""
        rescue: list[str] = [*self._settings.rescue]
        return {"frame_timeout_s": self._settings.frame_timeout_s, "rescue": rescue}

    def check(self, structures: Sequence[Atoms]) -> None:
        """Check program, data files, elements, charges, boxes, and the input by CP2K itself."""
        _ = self.level
        for atoms in structures:
            check_frame(self._level, atoms, self._program.data_dir)
        if self._stress and self._level.k_spacing_per_A is not None:
            check_meshes(structures, self._level.k_spacing_per_A)
        for atoms in structures[:1]:
            fault = self._program.check(
                frame_input(self._level, atoms, self._program.data_dir, stress=self._stress)
            )
            if fault:
                raise InputError(
                    f"{self._settings.level}: CP2K {self._program.version} does not accept it: "
                    f"{fault}"
                )

    def check_grid(self) -> None:
        """Check the level's plane-wave cutoffs; see `Reference.check_grid`."""
        check_grid(self._level.path, self._level.dft, self._level.kinds)

    def finer(self, factor: float) -> "Cp2k":
        """The same reference on a grid with so many times the cutoffs."""
        finer = copy.copy(self)
        finer._level = self._level.finer(factor)  # noqa: SLF001 - its own kind
        return finer

    def order(self, frames: Sequence[Atoms]) -> list[int]:
        """Each frame after one that is most similar to it: its orbitals are the initial guess."""
        return (
            nearest_first(frames) if self._settings.reuse_wavefunctions else super().order(frames)
        )

    def label(self, frames: Sequence[Atoms], work: Path, cores: int) -> Iterator[Record]:
        """Label frames one after another; see `Reference.label`."""
        wavefunctions = Wavefunctions(work / WAVEFUNCTIONS)
        for atoms in frames:
            start = time.monotonic()
            result, rung = self._compute(atoms, work, cores, wavefunctions)
            seconds = time.monotonic() - start
            yield Record(
                status=result.status,
                energy=result.energy,
                forces=result.forces,
                stress=result.stress,
                message=result.message,
                scf_steps=result.scf_steps,
                rung=rung,
                seconds=seconds,
                core_seconds=seconds * cores,
            )
        wavefunctions.clear()

    def _compute(
        self, atoms: Atoms, work: Path, cores: int, wavefunctions: Wavefunctions
    ) -> tuple[Cp2kResult, int]:
        """Label a frame; returns the result and the rung that led to it."""
        try:
            tree = frame_tree(self._level, atoms, self._program.data_dir, stress=self._stress)
        except InputError as error:
            return Cp2kResult(status=Status.REJECTED, message=str(error)), 0
        folder = work / structure_key(atoms)
        if folder.exists():  # a run that was killed left it
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        reuse = self._settings.reuse_wavefunctions and _may_start_from_another(tree)
        guess = reuse and wavefunctions.guess(atoms, folder / GUESS_FILE)
        calculation = Calculation(self._program, self._settings, tree, folder, cores)
        result, rung = calculation.label(guess=guess)
        if result.status is Status.OK and reuse and calculation.orbitals.exists():
            wavefunctions.add(folder.name, atoms, calculation.orbitals)
        _clean(folder, labelled=result.status is Status.OK)
        if result.status is Status.CRASHED:
            result = replace(result, message=f"{result.message} (CP2K's files: {folder})")
        return replace(result, scf_steps=calculation.scf_steps or result.scf_steps), rung


def _clean(folder: Path, *, labelled: bool) -> None:
    """Delete what could fill the disk: all orbitals, and large files of a labelled frame.

    Where a frame failed, the orbitals that it started from stay: its input needs them to be run
    again.
    """
    for path in folder.rglob("*"):
        large = path.is_file() and path.stat().st_size > SMALL_BYTES
        if path.name in (ORBITALS_FILE, DENSITY_FILE) or (
            labelled and (large or path.name == GUESS_FILE)
        ):
            path.unlink()


def _may_start_from_another(tree: Tree) -> bool:
    """Whether the SCF may start from the orbitals of another frame.

    Not with open shells: several SCF solutions are usual then, and which one is reached must not
    depend on another frame's orbitals. Nor with k-points: CP2K writes the density between pairs of
    neighbours instead, which are others in another frame.
    """
    dft = tree["+FORCE_EVAL"][0]["+DFT"]
    open_shell = dft.get("UKS") or dft.get("ROKS") or dft["MULTIPLICITY"] > 1
    return not (open_shell or "+KPOINTS" in dft)
