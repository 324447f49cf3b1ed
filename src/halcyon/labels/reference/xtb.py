"""Labels from tblite: extended tight binding (GFN2-xTB …), milliseconds per frame.

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree
from tblite.library import get_version

from halcyon.config import XtbReference
from halcyon.errors import InputError
from halcyon.labels import stress
from halcyon.labels.reference.base import LevelOfTheory, Record, Reference, Status, spin_fault
from halcyon.teacher import tight_binding

RUNGS: tuple[Mapping[str, float], ...] = (
    {},
    {"mixer-damping": 0.2},
    {"mixer-damping": 0.2, "guess": 1},
    {"mixer-damping": 0.05},
)
"""tblite's settings of the SCF: its own, then what is tried where it does not converge. Guess 1 is
that of charges by electronegativity equilibration.

Radicals with nearly degenerate orbitals need them: OH beside H2 or H2O2, spin-polarised GFN2-xTB,
was unconverged in 5 of 56 frames, and in none with the second; others need the third. The level of
theory is the same, but an SCF with several solutions may find another of them.
"""
HELPED = ("not converged", "eigenvalue problem")
"""tblite's words where another rung may help: its exceptions are all of one type.

The second stands for a matrix that LAPACK did not diagonalise. Divide and conquer (`dsygvd`) can
fail where levels are degenerate, by the last digits, which differ from run to run with several
threads: seen once, in a label of rock salt's 64 ions. Another way of mixing meets other matrices.
"""


class Xtb(Reference):
    """Single points with tblite."""

    def __init__(self, settings: XtbReference) -> None:
        """Keep the settings; nothing is computed yet."""
        self._settings = settings

    @property
    def level(self) -> LevelOfTheory:
        """Program, version, Hamiltonian, accuracy, spin, temperature; see `Reference.level`.

        What is as it was before it could be set has no entry, so that earlier labels stay valid.
        """
        level: LevelOfTheory = {
            "program": "tblite",
            "version": ".".join(str(part) for part in get_version()),
            "method": self._settings.method,
            "accuracy": self._settings.accuracy,
        }
        if self._settings.spin_polarized:
            level["spin_polarization"] = tight_binding.SPIN_SCALE
        if self._settings.electronic_temperature_K != tight_binding.ELECTRONIC_TEMPERATURE_K:
            level["electronic_temperature_K"] = self._settings.electronic_temperature_K
        return level

    @property
    def limits(self) -> Mapping[str, float | list[str]]:
        """Steps of the SCF; see `Reference.limits`."""
        return {"max_iterations": self._settings.max_iterations}

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
        """The first rung that converges, with the time of all that were tried."""
        records: list[Record] = []
        for rescue in RUNGS:
            records.append(self._tried(atoms, cores, rescue))
            if not any(words in records[-1].message for words in HELPED):
                break
        seconds = sum(record.seconds for record in records)
        return replace(
            records[-1], rung=len(records) - 1, seconds=seconds, core_seconds=seconds * cores
        )

    def _tried(self, atoms: Atoms, cores: int, rescue: Mapping[str, float]) -> Record:
        start = time.monotonic()
        try:
            result = tight_binding.calculator(
                atoms,
                self._settings.method,
                accuracy=self._settings.accuracy,
                max_iterations=self._settings.max_iterations,
                spin_polarized=self._settings.spin_polarized,
                electronic_temperature_K=self._settings.electronic_temperature_K,
                rescue=rescue,
            ).singlepoint()
            energy = float(result.get("energy")) * Hartree
            forces = -result.get("gradient") * Hartree / Bohr
            # tblite's virial is the derivative of the energy by strain.
            virial = result.get("virial") * Hartree
            if not all(np.isfinite(values).all() for values in (energy, forces, virial)):
                raise FloatingPointError("an energy, a force or a stress is not a finite number")
        except (RuntimeError, FloatingPointError) as error:  # tblite's own is a RuntimeError
            unconverged = HELPED[0] in str(error)
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
            stress=stress.voigt(virial / atoms.get_volume()) if stress.is_possible(atoms) else None,
            seconds=seconds,
            core_seconds=seconds * cores,
        )

    def _fault(self, atoms: Atoms) -> str:
        """Why tblite cannot label the frame; empty if it can.

        Without a warning, tblite 0.8.0 itself treats an impossible multiplicity of 1 as 2.
        """
        return tight_binding.fault(atoms, self._settings.method) or spin_fault(atoms)
