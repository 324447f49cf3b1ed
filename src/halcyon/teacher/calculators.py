"""Teachers that are no force field of OpenMM: tight binding, GFN-FF, any calculator of ASE.

    from halcyon.config import XtbForceField
    from halcyon.teacher.calculators import Computation

    energy, forces = Computation(XtbForceField(kind="xtb"), start).computed(start)  # eV, eV/Å

OpenMM calls them for energy and forces at every step (`openmm.PythonForce`), and does the rest as
for a force field: dynamics, minimisation, the springs of close contacts, and saving its state. A
calculation that fails ends the dynamics, and drops a frame that was to be labelled.

Not for: reference labels (`labels.reference`), although both import calculators by the same rules.
"""

import hashlib
import importlib
import json
import tempfile
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import numpy as np
import openmm
from ase import Atoms
from ase.units import Bohr, Hartree
from openmm import unit
from tblite.library import get_version

from halcyon.config import AseForceField, GfnffForceField, XtbForceField
from halcyon.errors import InputError
from halcyon.teacher import tight_binding
from halcyon.teacher.gfnff import GfnForceField
from halcyon.teacher.openmm_units import KJ_PER_MOL, NM

ComputedForceField: TypeAlias = XtbForceField | GfnffForceField | AseForceField
"""Settings of the teachers here."""
LARGEST_FORCE_eV_PER_A = 1e6
"""A calculation with a larger force has failed: two atoms lie on top of each other."""


class Program(Protocol):
    """What computes the frames of a teacher."""

    name: str
    """Program, version and method, in words."""

    def __call__(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        """Energy, eV, and forces, eV/Å, shape (N, 3); raises where it fails."""


class TightBinding:
    """A Hamiltonian of tblite. Open shells are spin-polarised."""

    def __init__(self, settings: XtbForceField) -> None:
        """Keep the settings; nothing is computed yet."""
        self.settings = settings
        self.name = f"tblite {'.'.join(map(str, get_version()))} {settings.method}"

    def __call__(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        """Energy and forces; see `Program`."""
        if fault := tight_binding.fault(atoms, self.settings.method):
            raise ValueError(fault)
        result = tight_binding.calculator(
            atoms, self.settings.method, spin_polarized=atoms.info["multiplicity"] > 1
        ).singlepoint()
        return float(result.get("energy")) * Hartree, -result.get("gradient") * Hartree / Bohr


class AseProgram:
    """A calculator of ASE."""

    def __init__(self, settings: AseForceField) -> None:
        """Import and make it.

        Raises:
            InputError: it cannot be imported or made, or computes no forces.
        """
        path = settings.calculator
        module, make = imported(path, "forcefield")
        self.calculator = made(make, path, settings.arguments, "forcefield")
        offered = getattr(self.calculator, "implemented_properties", ["energy", "forces"])
        if missing := {"energy", "forces"} - {*offered}:
            raise InputError(
                f"forcefield.calculator = {path}: it has no {' and no '.join(sorted(missing))}"
            )
        arguments = json.dumps([settings.arguments, file_hashes(settings.arguments)])
        self.name = f"{path} ({package_version(module)})"
        if settings.arguments:
            self.name += f" with {arguments}"
        if hasattr(self.calculator, "directory") and "directory" not in settings.arguments:
            self.folder = tempfile.TemporaryDirectory(prefix="halcyon-teacher-")
            self.calculator.directory = self.folder.name

    def __call__(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        """Energy and forces; see `Program`."""
        if hasattr(self.calculator, "reset"):
            self.calculator.reset()  # a frame must not depend on the one before
        frame = with_state(atoms)
        frame.calc = self.calculator
        energy, forces = float(frame.get_potential_energy()), np.array(frame.get_forces())
        # Where there is a free energy, it is what the forces belong to.
        return float(getattr(self.calculator, "results", {}).get("free_energy", energy)), forces


class Computation:
    """What OpenMM calls at each step: from its state to energy and forces.

    It is stored as text with OpenMM's system, and is made anew from that text.
    """

    def __init__(self, settings: ComputedForceField, atoms: Atoms) -> None:
        """Make the program.

        Args:
            settings: which program.
            atoms: the structure, with charge and multiplicity, in OpenMM's cell if it is periodic.
                Its positions matter to GFN-FF alone.

        Raises:
            InputError: the program cannot be made.
        """
        self.settings = settings
        self.numbers: list[int] = atoms.numbers.tolist()
        self.info = {name: int(atoms.info[name]) for name in ("charge", "multiplicity")}
        self.periodic = bool(atoms.pbc.all())
        self.start: list[Any] = []
        self.program: Program
        match settings:
            case XtbForceField():
                self.program = TightBinding(settings)
            case GfnffForceField():
                self.start = [atoms.positions.tolist(), atoms.cell.array.tolist()]
                self.program = GfnForceField(atoms)
            case AseForceField():
                self.program = AseProgram(settings)

    def __getstate__(self) -> str:
        """Text, which is the same for the same teacher: saved dynamics are found by it."""
        settings = self.settings.model_dump(mode="json")
        content = [settings, self.numbers, self.info, self.periodic, self.program.name, *self.start]
        return json.dumps(content, sort_keys=True)

    def __setstate__(self, text: str) -> None:
        """Make it again from its text."""
        settings, numbers, info, periodic, _, *start = json.loads(text)
        positions, cell = start or (np.zeros((len(numbers), 3)), None)
        atoms = Atoms(numbers, positions=positions, cell=cell, pbc=periodic, info=info)
        kinds = {"xtb": XtbForceField, "gfnff": GfnffForceField, "ase": AseForceField}
        of_kind = kinds[settings["kind"]]
        self.__init__(of_kind(**settings), atoms)

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Energy, kJ/mol, and forces, kJ/mol/nm, shape (N, 3).

        Raises:
            Exception: the calculation failed; OpenMM passes the message on.
        """
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer) * NM
        atoms = Atoms(self.numbers, positions=positions, pbc=self.periodic, info=self.info)
        if self.periodic:
            vectors = state.getPeriodicBoxVectors(asNumpy=True)
            atoms.cell = vectors.value_in_unit(unit.nanometer) * NM
        energy, forces = self.computed(atoms)
        return energy / KJ_PER_MOL, forces * (NM / KJ_PER_MOL)

    def computed(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        """Energy, eV, and forces, eV/Å, shape (N, 3), of a frame in the teacher's order.

        Raises:
            ValueError: they are not finite.
            Exception: the calculation failed.
        """
        if not np.isfinite(atoms.positions).all():
            raise ValueError("coordinates are not finite")
        energy, forces = self.program(atoms)
        if not (np.isfinite(energy) and np.abs(forces).max(initial=0.0) < LARGEST_FORCE_eV_PER_A):
            raise ValueError("an energy or a force is not a finite number")
        return energy, forces


def imported(path: str, section: str) -> tuple[ModuleType, Any]:
    """A calculator's module, and its class, or the function that makes it.

    Args:
        path: the import path, e.g. `ase.calculators.emt.EMT`.
        section: of the configuration, `reference` or `forcefield`, for messages.

    Raises:
        InputError: it cannot be imported.
    """
    where, (module_path, name) = f"{section}.calculator = {path}", path.rsplit(".", 1)
    try:
        module = importlib.import_module(module_path)
    except Exception as error:  # importing runs foreign code
        raise InputError(
            f"{where}: {module_path} cannot be imported ({type(error).__name__}: {error}): install "
            "it into the environment of Halcyon, or set PYTHONPATH"
        ) from error
    make = getattr(module, name, None)
    if not callable(make):
        raise InputError(f"{where}: {module_path} has no class or function {name}")
    return module, make


def made(make: Any, path: str, arguments: dict[str, Any], section: str) -> Any:
    """The calculator.

    Args:
        make: from `imported`.
        path: its import path, for messages.
        arguments: its keyword arguments.
        section: of the configuration, for messages.

    Raises:
        InputError: it cannot be made.
    """
    try:
        return make(**arguments)
    except Exception as error:
        raise InputError(
            f"{section}.calculator = {path}: cannot be made with arguments {arguments} "
            f"({type(error).__name__}: {error})"
        ) from error


def with_state(atoms: Atoms) -> Atoms:
    """Copy of a frame with charge and multiplicity in all the places where ASE looks for them."""
    charge, multiplicity = atoms.info["charge"], atoms.info["multiplicity"]
    frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    frame.info = {"charge": charge, "multiplicity": multiplicity, "spin": multiplicity}
    if charge:
        frame.set_initial_charges([charge / len(atoms)] * len(atoms))
    if multiplicity > 1:
        frame.set_initial_magnetic_moments([(multiplicity - 1) / len(atoms)] * len(atoms))
    return frame


def package_version(module: ModuleType) -> str:
    """Package and version of a module; of one that belongs to no package, its file's hash."""
    for name in packages_distributions().get(module.__name__.partition(".")[0], []):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    if module.__file__ is None:
        return "unknown"
    return f"sha256 {_sha256(Path(module.__file__))}"


def file_hashes(value: Any) -> dict[str, str]:
    """SHA-256 of the files that arguments name: a result depends on their content."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return {name: sha256 for part in value for name, sha256 in file_hashes(part).items()}
    if isinstance(value, str) and value and Path(value).is_file():
        return {value: _sha256(Path(value))}
    return {}


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
