"""Labels from tblite: extended tight binding (GFN1-xTB, GFN2-xTB), milliseconds per frame.

    from pathlib import Path
    from halcyon.config import XtbReference
    from halcyon.labels.reference.xtb import Xtb

    records = list(Xtb(XtbReference(backend="xtb")).label(frames, Path("work"), cores=1))

It serves for trying a campaign, for tests, and wherever tight binding is accurate enough. tblite is
a library in this process: a frame cannot be stopped after a time limit, and the number of threads
is that of `OMP_NUM_THREADS` when Python starts.

Not for: density-functional theory (`cp2k`).
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree
from tblite.interface import Calculator
from tblite.library import get_version

from halcyon.config import XtbReference
from halcyon.errors import InputError
from halcyon.labels.reference.base import LevelOfTheory, Record, Reference, Status, spin_fault

HEAVIEST = 86
"""Atomic number of the last element with parameters, radon (GFN1-xTB and GFN2-xTB)."""


class Xtb(Reference):
    """Single points with tblite, at its default electronic temperature of 300 K."""

    def __init__(self, settings: XtbReference) -> None:
        """Keep the settings; nothing is computed yet."""
        self._settings = settings

    @property
    def level(self) -> LevelOfTheory:
        """Program, version, Hamiltonian and accuracy; see `Reference.level`."""
        return {
            "program": "tblite",
            "version": ".".join(str(part) for part in get_version()),
            "method": self._settings.method,
            "accuracy": self._settings.accuracy,
        }

    def check(self, structures: Sequence[Atoms]) -> None:
        """Check elements, periodicity, charge and multiplicity; see `Reference.check`."""
        for atoms in structures:
            if fault := self._fault(atoms):
                raise InputError(f"structure {atoms.info.get('structure', '?')}: {fault}")

    def label(self, frames: Sequence[Atoms], work: Path, cores: int) -> Iterator[Record]:
        """Label frames one after another; `work` is not used. See `Reference.label`."""
        del work
        for atoms in frames:
            if fault := self._fault(atoms):
                yield Record(status=Status.REJECTED, message=fault)
            else:
                yield self._label(atoms, cores)

    def _label(self, atoms: Atoms, cores: int) -> Record:
        start = time.monotonic()
        try:
            calculator = Calculator(
                self._settings.method,
                atoms.numbers,
                atoms.positions / Bohr,
                charge=atoms.info["charge"],
                uhf=atoms.info["multiplicity"] - 1,
                # A molecule's cell is a box that other programs need; tblite needs none.
                lattice=atoms.cell.array / Bohr if atoms.pbc.all() else None,
                periodic=atoms.pbc if atoms.pbc.all() else None,
            )
            calculator.set("verbosity", 0)
            calculator.set("accuracy", self._settings.accuracy)
            calculator.set("max-iter", self._settings.max_iterations)
            result = calculator.singlepoint()
            energy = float(result.get("energy")) * Hartree
            forces = -result.get("gradient") * Hartree / Bohr
            if not (np.isfinite(energy) and np.isfinite(forces).all()):
                raise FloatingPointError("an energy or a force is not a finite number")
        except (RuntimeError, FloatingPointError) as error:  # tblite's own is a RuntimeError
            # tblite raises the same exception for all failures: its text tells them apart.
            unconverged = "not converged" in str(error).lower()
            seconds = time.monotonic() - start
            return Record(
                status=Status.UNCONVERGED if unconverged else Status.CRASHED,
                message=str(error),
                seconds=seconds,
                core_seconds=seconds * cores,
            )
        seconds = time.monotonic() - start
        return Record(
            status=Status.OK,
            energy=energy,
            forces=forces,
            seconds=seconds,
            core_seconds=seconds * cores,
        )

    def _fault(self, atoms: Atoms) -> str:
        """Why tblite cannot label the frame; empty if it can.

        Without a warning, tblite 0.8.0 itself treats partial periodicity as full, and an impossible
        multiplicity of 1 as 2.
        """
        if not np.isfinite(atoms.positions).all():
            return "a position is not a finite number"
        if atoms.pbc.any() and not atoms.pbc.all():
            return f"pbc = {atoms.pbc.tolist()}: expected periodic along all three vectors or none"
        heavy = sorted({atom.symbol for atom in atoms if atom.number > HEAVIEST})
        if heavy:
            return (
                f"element {', '.join(heavy)}: {self._settings.method} has parameters up to Rn "
                f"(Z = {HEAVIEST})"
            )
        return spin_fault(atoms)
