"""Labels from PySCF: density-functional theory of molecules, in this process, from pip alone.

    from pathlib import Path
    from halcyon.config import PyscfReference
    from halcyon.labels.reference.pyscf.backend import Pyscf

    settings = PyscfReference(backend="pyscf", level="config/pyscf/pbe-d3bj-def2-svp.yaml")
    records = list(Pyscf(settings).label(frames, Path("work"), cores=1))

Each frame starts from the same guess (superposed atoms), so a label does not depend on the frames
before it. A frame of multiplicity 1 is restricted, every other unrestricted. Converged orbitals of
the multiplicities that the level names are checked for stability (R. Seeger and J. A. Pople, J.
Chem. Phys. 66, 3045, 1977): where others of the same kind are lower, these are followed and checked
again. Forces include the response of the grid: they are the slope of the energy, and sum to zero.

The time limit is looked at after each step of SCF, so that a frame may overrun it by the longest
step.

Not for: periodic frames (`cp2k`), or what the level means (`level`).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyscf
from ase import Atoms
from ase.units import Bohr, Hartree
from pyscf import dft, gto, lib

from halcyon.config import PyscfReference
from halcyon.errors import InputError
from halcyon.labels.reference.base import LevelOfTheory, Record, Reference, Status, spin_fault
from halcyon.labels.reference.pyscf.level import core_potential, element_fault, read_level

FOLLOWED = 3
"""How often unstable orbitals are followed before the frame is given up."""

SAME_Ha = 1e-6
"""Orbitals that are lower by less are the same state: the noise of the grid makes rotations of a
degenerate state (the oxygen atom) look unstable."""
ROUGH = 1e-3
"""Residual of the stability's lowest eigenvalue: its sign counts."""


class _UnconvergedError(Exception):
    """SCF found no solution, or no stable one."""


@dataclass(kw_only=True)
class _Scf:
    """A solution of SCF, and the way to it.

    Attributes:
        field: PySCF's mean-field object, converged.
        steps: of SCF in all.
        rung: 1 where the second-order solver was needed to converge; else 0.
    """

    field: Any
    steps: int = 0
    rung: int = 0


class Pyscf(Reference):
    """Single points with PySCF."""

    def __init__(self, settings: PyscfReference) -> None:
        """Read the level of theory; nothing is computed yet.

        Raises:
            InputError: the level is missing or not valid, or a file changes PySCF's defaults.
        """
        changed = pyscf.__config__.conf_file
        if changed is not None:
            raise InputError(
                f"{changed}: changes PySCF's defaults, which no level of theory would know. Move "
                "it away (or unset PYSCF_CONFIG_FILE)"
            )
        self._settings = settings
        self._level = read_level(settings.level)

    @property
    def level(self) -> LevelOfTheory:
        """Versions of PySCF, libxc and dispersion, and the file's values; see `Reference.level`."""
        return self._level.identity

    @property
    def limits(self) -> Mapping[str, float | list[str]]:
        """Time of a frame, s, steps of SCF, and ways of rescue; see `Reference.limits`."""
        rescue: list[str] = [*self._settings.rescue]
        return {
            "frame_timeout_s": self._settings.frame_timeout_s,
            "max_iterations": self._settings.max_iterations,
            "rescue": rescue,
        }

    def check(self, structures: Sequence[Atoms]) -> None:
        """Check periodicity, spin, and each element's basis set; see `Reference.check`."""
        for atoms in structures:
            if fault := self._fault(atoms):
                raise InputError(f"structure {atoms.info.get('structure', '?')}: {fault}")

    def check_stress(self) -> None:
        """Refuse a campaign that needs stress; see `Reference.check_stress`."""
        raise InputError(
            "reference.backend = pyscf: it labels molecules, which have no stress; expected cp2k, "
            "xtb or ase"
        )

    def label(self, frames: Sequence[Atoms], work: Path, cores: int) -> Iterator[Record]:
        """Label frames one after another; `work` holds scratch. See `Reference.label`."""
        for atoms in frames:
            if fault := self._fault(atoms):
                yield Record(status=Status.REJECTED, message=fault)
                continue
            with _scratch(work), lib.with_omp_threads(cores):
                record = self._label(atoms, cores)
            yield record

    def _label(self, atoms: Atoms, cores: int) -> Record:
        start = time.monotonic()
        values: dict[str, Any] = {}
        try:
            solution = self._solve(atoms, start + self._settings.frame_timeout_s)
            energy = float(solution.field.e_tot) * Hartree
            forces = -_gradient(solution.field) * Hartree / Bohr
            if not (np.isfinite(energy) and np.isfinite(forces).all()):
                raise FloatingPointError("an energy or a force is not a finite number")
            status, values = Status.OK, {"energy": energy, "forces": forces}
            values |= {"scf_steps": solution.steps, "rung": solution.rung}
        except TimeoutError as error:
            status, values = Status.TIMEOUT, {"message": str(error)}
        except _UnconvergedError as error:
            status, values = Status.UNCONVERGED, {"message": str(error)}
        except Exception as error:  # noqa: BLE001 — NumPy, SciPy, HDF5 and PySCF raise what they like
            status, values = Status.CRASHED, {"message": f"{type(error).__name__}: {error}"}
        seconds = time.monotonic() - start
        return Record(status=status, seconds=seconds, core_seconds=seconds * cores, **values)

    def _solve(self, atoms: Atoms, deadline: float) -> _Scf:
        """Converged and stable orbitals of a frame.

        Raises:
            TimeoutError: the deadline, by the monotonic clock, has passed.
            _UnconvergedError: there are none.
        """
        first = self._mean_field(atoms)

        def in_time(_variables: object = None) -> None:
            if time.monotonic() > deadline:
                limit = self._settings.frame_timeout_s
                raise TimeoutError(f"not done after {limit:g} s (frame_timeout_s)")

        first.callback = in_time
        first.kernel()
        solution = _Scf(field=first, steps=first.cycles)
        if not first.converged:
            if "second_order" not in self._settings.rescue:
                raise _UnconvergedError(f"SCF not converged after {first.cycles} steps")
            solution.field = self._second_order(first, first.mo_coeff, first.mo_occ)
            solution.rung = 1
        if first.mol.spin == 0 and self._level.stability == "open_shells":
            return solution
        for _ in range(FOLLOWED):
            in_time()
            orbitals, stable = _stability(solution.field)
            in_time()
            if stable:
                return solution
            followed = self._second_order(first, orbitals, solution.field.mo_occ)
            if followed.e_tot > solution.field.e_tot - SAME_Ha:
                return solution
            solution.field = followed
        raise _UnconvergedError(
            f"the orbitals are unstable: lower ones were followed {FOLLOWED} times, to no stable "
            "solution"
        )

    def _second_order(self, first: Any, orbitals: Any, occupations: Any) -> Any:
        """Converge from given orbitals with the second-order solver (Q. Sun, arXiv:1610.08423).

        Raises:
            _UnconvergedError: it does not converge.
        """
        field = first.newton()
        field.max_cycle = self._settings.max_iterations
        field.kernel(orbitals, occupations)
        if not field.converged:
            raise _UnconvergedError(
                f"SCF not converged after {self._settings.max_iterations} steps, nor by the "
                "second-order solver"
            )
        return field.undo_newton() if hasattr(field, "undo_newton") else field

    def _mean_field(self, atoms: Atoms) -> Any:
        """PySCF's mean-field object of a frame, as the level says."""
        level, symbols = self._level, atoms.get_chemical_symbols()
        cores = {e: core_potential(level.basis, e) for e in sorted({*symbols})}
        molecule = gto.M(
            atom=list(zip(symbols, atoms.positions.tolist(), strict=True)),
            unit="Angstrom",
            basis=level.basis,
            ecp={element: potential for element, potential in cores.items() if potential},
            charge=int(atoms.info["charge"]),
            spin=int(atoms.info["multiplicity"]) - 1,
            symmetry=False,
            verbose=0,
            max_memory=self._settings.memory_MB,
        )
        closed = molecule.spin == 0
        field = (dft.RKS if closed else dft.UKS)(molecule, xc=level.functional)
        if level.density_fitting:
            field = field.density_fit()
        field.disp = None if level.dispersion == "none" else level.dispersion
        field.grids.level = level.grid_level
        field.conv_tol = level.conv_tol_Ha
        field.max_cycle = self._settings.max_iterations
        field.chkfile = None
        return field

    def _fault(self, atoms: Atoms) -> str:
        """Why a frame cannot be labelled; empty if it can."""
        if atoms.pbc.any():
            return (
                f"pbc = {atoms.pbc.tolist()}: the backend pyscf labels molecules only; expected "
                "frames that are not periodic, or `backend: cp2k`"
            )
        if not np.isfinite(atoms.positions).all():
            return "a position is not a finite number"
        for element in sorted({*atoms.get_chemical_symbols()}):
            if fault := element_fault(self._level.basis, element):
                return f"{self._settings.level}: {fault}"
        return spin_fault(atoms)


@contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """Have PySCF put its files into a folder, and then again where it did before."""
    before, lib.param.TMPDIR = lib.param.TMPDIR, str(folder)
    try:
        yield
    finally:
        lib.param.TMPDIR = before


def _gradient(field: Any) -> np.ndarray:
    """Derivative of the energy by positions, Ha/bohr, the grid's response included."""
    method = field.nuc_grad_method()
    # Hartree-Fock has no grid, and PySCF fails at the response of none of an open shell.
    method.grid_response = dft.libxc.xc_type(field.xc) != "HF"
    return np.asarray(method.kernel())


def _stability(field: Any) -> tuple[Any, bool]:
    """Orbitals that are lower or the same, and whether these are stable within their own kind."""
    occupied = np.atleast_2d(np.asarray(field.mo_occ))
    if not any(0 < (spin > 0).sum() < len(spin) for spin in occupied):
        return field.mo_coeff, True  # no orbital to rotate into another
    orbitals, _, stable, _ = field.stability(return_status=True, nroots=1, tol=ROUGH)
    return orbitals, bool(stable)
