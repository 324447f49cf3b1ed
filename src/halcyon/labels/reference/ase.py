"""Labels from any ASE calculator, by import path.

    from pathlib import Path
    from halcyon.config import AseReference
    from halcyon.labels.reference.ase import AseCalculator

    reference = AseCalculator(AseReference(backend="ase", calculator="ase.calculators.emt.EMT"))
    records = list(reference.label(frames, Path("work"), cores=1))

This backend serves programs that have no backend of their own, force fields, and models that learn
from another potential. It imports only the calculator that the user named. It hands the frame's
charge and multiplicity over in all the ways that ASE's calculators read them: `info["charge"]`,
`info["spin"]` (the multiplicity), and initial charges and magnetic moments spread over the atoms. A
calculator that ignores them is refused where it matters (`ase_states`). The label's energy is the
one that the forces belong to, which ASE calls `free_energy`. Frames that are periodic in three
directions get the calculator's stress, where it offers one.

The calculator runs in this process: a frame cannot be stopped after a time limit.

Not for: CP2K (`cp2k`) or tight binding (`xtb`), whose own backends know more about a failure.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, SCFError

from halcyon.config import AseReference
from halcyon.errors import InputError
from halcyon.labels import stress
from halcyon.labels.reference import ase_states
from halcyon.labels.reference.base import LevelOfTheory, Record, Reference, Status, spin_fault
from halcyon.teacher.calculators import (
    file_hashes,
    imported,
    made,
    package_version,
    with_state,
)

SAME_ENERGY = (
    "ase.calculators.cp2k.",
    "ase.calculators.dftd3.",
    "ase.calculators.eam.",
    "ase.calculators.emt.",
    "ase.calculators.gulp.",
    "ase.calculators.harmonic.",
    "ase.calculators.lammpslib.",
    "ase.calculators.lammpsrun.",
    "ase.calculators.lj.",
    "ase.calculators.mopac.",
    "ase.calculators.morse.",
    "ase.calculators.socketio.",
    "ase.calculators.tersoff.",
    "mace.",
)
"""Modules of calculators whose `free_energy` is their `energy` by construction (read in ASE 3.29
and MACE 0.3): levels of theory of before are theirs."""
SAME_eV = 1e-6
"""Two energies that differ by less are one."""
LONGER = 1.2
"""So many times as long a cell vector is made that must not matter."""
SAME_eV_PER_ATOM = 1e-6
"""Within this, two energies of a frame are the same."""


class AseCalculator(Reference):
    """Single points with an ASE calculator."""

    def __init__(self, settings: AseReference) -> None:
        """Keep the settings; nothing is imported yet."""
        self._settings = settings
        self._made: Any = None  # the calculator: its class is the user's choice

    @property
    def level(self) -> LevelOfTheory:
        """Import path, arguments, hashes of files among them, version; see `Reference.level`.

        Where the energy may be another than ASE's `energy`, the level says so. A module that
        belongs to no installed package has the hash of its file as its version.

        Raises:
            InputError: it cannot be imported, or an argument is not plain data.
        """
        module, _ = self._find()
        arguments = self._settings.arguments
        try:
            json.dumps(arguments, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"reference.arguments: expected numbers, text, lists and sections ({error})"
            ) from error
        level = {
            "program": "ase",
            "version": package_version(module),
            "calculator": self._settings.calculator,
            "arguments": arguments,
            "files": file_hashes(arguments),
        }
        return level | ({"energy": "free_energy"} if self._takes_free_energy else {})

    def check(self, structures: Sequence[Atoms]) -> None:
        """Make the calculator, and check spin and charge; see `Reference.check`.

        Where a structure is charged or open-shell, two labels of the smallest show whether the
        calculator knows; the outcome of all checks is kept, so this is paid once.
        """
        offered = self._offered()
        if missing := {"energy", "forces"} - {*offered}:
            raise InputError(
                f"reference.calculator = {self._settings.calculator}: it has no "
                f"{' and no '.join(sorted(missing))}"
            )
        for atoms in structures:
            if fault := _fault(atoms) or self._boundary_fault(atoms):
                raise InputError(f"structure {atoms.info.get('structure', '?')}: {fault}")
        with tempfile.TemporaryDirectory(prefix="halcyon-check-") as folder:
            fault = ase_states.ignored(
                structures,
                self._settings.arguments,
                lambda atoms: self._label(atoms, Path(folder), cores=1),
            )
        if fault:
            raise InputError(f"reference.calculator = {self._settings.calculator}: {fault}")

    def check_stress(self) -> None:
        """Check that the calculator offers a stress; see `Reference.check_stress`."""
        if "stress" not in self._offered():
            raise InputError(
                f"reference.calculator = {self._settings.calculator}: it has no stress; it offers "
                f"{', '.join(self._offered())}"
            )

    def _offered(self) -> list[str]:
        """Properties that the calculator says it has."""
        return [*getattr(self._calculator(), "implemented_properties", ["energy", "forces"])]

    def _boundary_fault(self, atoms: Atoms) -> str:
        """Why the calculator must not label a frame that is periodic in some directions only.

        Some calculators take every cell for periodic in all directions, without a word. Then the
        energy depends on the length of a cell vector along which the frame is not periodic.
        """
        if atoms.pbc.all() or not atoms.pbc.any():
            return ""
        longer = atoms.copy()
        longer.info = dict(atoms.info)
        cell = atoms.cell.complete().array
        cell[~atoms.pbc] *= LONGER
        longer.set_cell(cell)
        try:
            results = [self._results(frame) for frame in (atoms, longer)]
        except Exception as error:  # noqa: BLE001 — calculators may raise anything
            return f"pbc = {atoms.pbc.tolist()}: {self._settings.calculator} failed: {error}"
        change = abs(results[0][0] - results[1][0]) / len(atoms)
        if change <= SAME_eV_PER_ATOM:
            return ""
        return (
            f"pbc = {atoms.pbc.tolist()}: the energy changes by {change:.2g} eV/atom where a cell "
            f"vector that is not periodic is made {LONGER:g} times as long: "
            f"{self._settings.calculator} takes the frame for periodic in all directions. Name a "
            "calculator that knows partial periodicity, or make the frame periodic in all "
            "directions with enough vacuum"
        )

    def label(self, frames: Sequence[Atoms], work: Path, cores: int) -> Iterator[Record]:
        """Label frames one after another; see `Reference.label`.

        Calculators that write files write them in `work`.
        """
        for atoms in frames:
            if fault := _fault(atoms):
                yield Record(status=Status.REJECTED, message=fault)
            else:
                yield self._label(atoms, work, cores)

    def _label(self, atoms: Atoms, work: Path, cores: int) -> Record:
        start = time.monotonic()
        status, message = Status.CRASHED, ""
        energy, forces, six = None, None, None
        try:
            calculator = self._calculator()
            if hasattr(calculator, "directory") and "directory" not in self._settings.arguments:
                calculator.directory = str(work)
            energy, forces, six = self._results(atoms)
            status = Status.OK
        except InputError:
            raise
        except Exception as error:  # noqa: BLE001 — calculators may raise anything
            message = f"{type(error).__name__}: {error}"
            unconverged = isinstance(error, SCFError) or "converge" in message.lower()
            status = Status.UNCONVERGED if unconverged else Status.CRASHED
            energy = forces = six = None
        seconds = time.monotonic() - start
        return Record(
            status=status,
            energy=energy,
            forces=forces,
            stress=six,
            message=message,
            seconds=seconds,
            core_seconds=seconds * cores,
        )

    def _results(self, atoms: Atoms) -> tuple[float, np.ndarray, list[float] | None]:
        """Energy, forces and, where there is one, stress of a frame.

        Raises:
            FloatingPointError: one is not a finite number.
        """
        calculator = self._calculator()
        if hasattr(calculator, "reset"):
            calculator.reset()  # a label must not depend on the frame before
        frame = with_state(atoms)
        frame.calc = calculator
        energy, forces = self._energy(frame), np.array(frame.get_forces())
        six = None
        if stress.is_possible(frame) and "stress" in self._offered():
            # Some calculators name the property, and have it for some of their methods only.
            with contextlib.suppress(PropertyNotImplementedError):
                six = [float(value) for value in frame.get_stress()]
        if not all(np.isfinite(values).all() for values in (energy, forces, six or 0.0)):
            raise FloatingPointError("an energy, a force or a stress is not a finite number")
        return energy, forces, six

    def _energy(self, frame: Atoms) -> float:
        """The energy whose slope the forces are, eV.

        Raises:
            InputError: the calculator computes a free energy that it does not announce.
        """
        if self._takes_free_energy:
            return float(frame.get_potential_energy(force_consistent=True))
        energy = float(frame.get_potential_energy())
        free = getattr(frame.calc, "results", {}).get("free_energy", energy)
        if abs(free - energy) > SAME_eV:
            raise InputError(
                f"reference.calculator = {self._settings.calculator}: energy = {energy:.6f} eV, "
                f"and free_energy = {free:.6f} eV is what the forces belong to, but it is not "
                "among the calculator's `implemented_properties`, which decide the level of "
                "theory. Name a function that returns the calculator with free_energy among them"
            )
        return energy

    @cached_property
    def _takes_free_energy(self) -> bool:
        """Whether the calculator announces a free energy that may differ from its energy."""
        _, make = self._find()
        announced = getattr(make, "implemented_properties", None) if isinstance(make, type) else ()
        kind = make
        if not isinstance(announced, list | tuple | set) or not announced:  # known once it is made
            announced = getattr(self._calculator(), "implemented_properties", ())
            kind = type(self._calculator())
        return "free_energy" in announced and not f"{kind.__module__}.".startswith(SAME_ENERGY)

    def _find(self) -> tuple[ModuleType, Any]:
        """The calculator's module, and its class or function."""
        return imported(self._settings.calculator, "reference")

    def _calculator(self) -> Any:
        if self._made is None:
            _, make = self._find()
            path, arguments = self._settings.calculator, self._settings.arguments
            self._made = made(make, path, arguments, "reference")
        return self._made


def _fault(atoms: Atoms) -> str:
    """Why no calculator can label the frame; empty if one may."""
    if not np.isfinite(atoms.positions).all():
        return "a position is not a finite number"
    return spin_fault(atoms)
