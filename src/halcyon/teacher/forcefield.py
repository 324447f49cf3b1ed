"""The teacher: a cheap potential, in OpenMM, that labels frames.

    from halcyon.config import StructureSettings, XmlForceField
    from halcyon.systems import bonds, start_structure
    from halcyon.teacher.forcefield import make_teacher

    settings = StructureSettings(name="ethanol", smiles="CCO")
    atoms = start_structure(settings)
    files = ["config/forcefields/small-molecules.xml"]
    forcefield = XmlForceField(kind="forcefield_xml", files=files)
    teacher = make_teacher(forcefield, atoms, bonds(settings, atoms))
    energies, forces = teacher.evaluate([atoms])  # eV, eV/Å

A model that is pre-trained on such frames knows the walls of the potential (bonds, angles, close
contacts) before it sees a reference label: E. C.-Y. Yuan, T. Head-Gordon, arXiv:2509.14205. All
bonds are flexible, those of water too, because a rigid bond shows the model no forces. Energies are
in eV, forces in eV/Å; the zero of the energy is the force field's own.

Not for: drawing frames (see `sampling`), typing molecules (see `gaff2`), or accuracy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import openmm
from ase import Atoms
from openmm import unit
from rdkit import Chem

from halcyon.config import (
    AmberForceField,
    ForceFieldSettings,
    Gaff2ForceField,
    GfnffForceField,
    GromacsForceField,
    XmlForceField,
)
from halcyon.config.learning import TEACHER_TIMESTEP_FS
from halcyon.errors import InputError
from halcyon.systems.fixed import fixed_atoms
from halcyon.teacher import gfnff
from halcyon.teacher.calculators import Computation, ComputedForceField
from halcyon.teacher.flexible import check_flexible
from halcyon.teacher.openmm_systems import (
    PART_OF_CELL,
    from_templates,
    from_topology,
    from_xml,
    gaff2_files,
    openmm_cell,
    structure_name,
    use_minimum_image,
    without_ionic,
)
from halcyon.teacher.openmm_units import KJ_PER_MOL, NM
from halcyon.teacher.supercell import Supercell

LEAST_CUTOFF_A = 4.0
"""A cell that is too narrow for this cutoff, Å, is repeated (see `supercell`)."""
REFERENCE_PLATFORM_ATOMS = 150
"""Molecules up to this size run on OpenMM's Reference platform: it is faster there."""
CHARGE_TOLERANCE = 0.05
"""A force field's charges may differ from the structure's charge by this, e."""
_TRIED: set[tuple[str, bytes, bytes]] = set()
"""Programs, and start structures that they computed: settings, coordinates and cells."""


@dataclass(frozen=True)
class Teacher:
    """A force field for one composition.

    Attributes:
        system: OpenMM's system.
        numbers: atomic numbers, shape (N,); frames list their atoms in this order.
        order: the system's atom k is the frames' atom order[k], shape (N,), or that of their
            supercell. OpenMM needs the atoms of each molecule next to each other.
        periodic: whether the structure is periodic in all three directions; else in none.
        bonds: pairs of bonded atoms, in the frames' order.
        supercell: how a small cell is repeated in the system; None: it is not.
        program: what OpenMM calls for energy and forces (`calculators`); empty: it has terms.
    """

    system: openmm.System
    numbers: np.ndarray
    order: np.ndarray
    periodic: bool
    bonds: tuple[tuple[int, int], ...]
    supercell: Supercell | None = None
    program: str = ""

    @property
    def copies(self) -> int:
        """How often the system has each atom of a frame. The system's energy is that of all."""
        return 1 if self.supercell is None else self.supercell.copies

    @property
    def charge_e(self) -> float:
        """Sum of the atoms' charges, e; 0 where the force field has none."""
        return sum(
            force.getParticleParameters(i)[0].value_in_unit(openmm.unit.elementary_charge)
            for force in self.system.getForces()
            if isinstance(force, openmm.NonbondedForce)
            for i in range(force.getNumParticles())
        ) / float(self.copies)

    def has_charge(self, charge: int) -> bool:
        """Whether the atoms' charges add up to a structure's charge, e; or there are none."""
        has_charges = any(isinstance(f, openmm.NonbondedForce) for f in self.system.getForces())
        return not has_charges or abs(self.charge_e - charge) <= CHARGE_TOLERANCE

    @cached_property
    def fixed(self) -> np.ndarray:
        """Which atoms of a frame do not move, shape (N,): those that have no mass in OpenMM."""
        masses = [self.system.getParticleMass(int(particle)) for particle in self.particles]
        return np.array([mass == 0 * unit.dalton for mass in masses])

    @cached_property
    def particles(self) -> np.ndarray:
        """The system's atom of each atom of a frame, shape (N,); of copies, the first."""
        first: np.ndarray = np.argsort(self.order)[: len(self.numbers)]
        return first

    def nearest(self, atoms: Atoms, i: int, j: int) -> int:
        """The system's atom that is atom j of a frame, or the copy of it that is nearest to i."""
        if self.supercell is None:
            return int(self.particles[j])
        every = self.supercell.repeated(atoms)
        of_j = [copy * len(self.numbers) + j for copy in range(self.copies)]
        distances = every.get_distances(i, of_j, mic=True)
        return int(np.argsort(self.order)[of_j[int(np.argmin(distances))]])

    def evaluate(self, frames: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
        """Compute energies and forces of frames.

        Args:
            frames: F frames of the teacher's N atoms, in its order.

        Returns:
            Energies, eV, shape (F,), and forces, eV/Å, shape (F, N, 3); NaN where a program failed.

        Raises:
            ValueError: a frame has other atoms, another order or another periodicity.
        """
        context = self.context(openmm.VerletIntegrator(TEACHER_TIMESTEP_FS / 1000))
        energies = np.empty(len(frames))
        forces = np.empty((len(frames), len(self.numbers), 3))
        for index, atoms in enumerate(frames):
            rotation = self.place(context, atoms)
            try:
                state = context.getState(energy=True, forces=True)
            except openmm.OpenMMException:
                if not self.program:
                    raise
                energies[index], forces[index] = np.nan, np.nan
                continue
            energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            force = state.getForces(asNumpy=True).value_in_unit(
                unit.kilojoule_per_mole / unit.nanometer
            )
            energies[index] = energy * KJ_PER_MOL / self.copies
            of_frame = (force @ rotation)[self.particles]
            forces[index] = of_frame * (KJ_PER_MOL / NM) / self.copies
        return energies, forces

    def context(
        self, integrator: openmm.Integrator, system: openmm.System | None = None
    ) -> openmm.Context:
        """A context on the platform that is fastest and gives the same bits every time.

        Args:
            integrator: an integrator that no other context uses.
            system: a system of the same atoms; None: the teacher's.
        """
        small = not self.periodic and len(self.numbers) <= REFERENCE_PLATFORM_ATOMS
        if small or self.program:
            platform, properties = "Reference", {}
        else:
            # One thread: with two, forces differ in the last bits from run to run,
            # DeterministicForces or not (OpenMM 8.6).
            platform, properties = "CPU", {"Threads": "1", "DeterministicForces": "true"}
        return openmm.Context(
            system or self.system,
            integrator,
            openmm.Platform.getPlatformByName(platform),
            properties,
        )

    def place(self, context: openmm.Context, atoms: Atoms) -> np.ndarray:
        """Set cell and positions of a frame in a context.

        Returns:
            The matrix, shape (3, 3), that turns OpenMM's vectors (rows) into the frame's.

        Raises:
            ValueError: the frame has other atoms, another order or another periodicity.
        """
        if not np.array_equal(atoms.numbers, self.numbers):
            raise ValueError(f"{atoms.symbols}: not the teacher's atoms in the teacher's order")
        if bool(atoms.pbc.all()) != self.periodic:
            raise ValueError(f"pbc {atoms.pbc}: the teacher's periodicity is {self.periodic}")
        if self.supercell is not None:
            atoms = self.supercell.repeated(atoms)
        rotation = np.eye(3)
        if self.periodic:
            cell, rotation = openmm_cell(atoms)
            context.setPeriodicBoxVectors(*(cell / NM))
        context.setPositions((atoms.positions @ rotation.T / NM)[self.order])
        return rotation


def make_teacher(
    settings: ForceFieldSettings,
    atoms: Atoms,
    bonds: Sequence[tuple[int, int]],
    *,
    molecules: Callable[[], dict[str, list[Chem.Mol]]] | None = None,
    prepared: Path | None = None,
) -> Teacher:
    """Build the force field of a structure.

    Args:
        settings: which force field.
        atoms: the structure, N atoms, periodic in all directions or in none; atoms that are fixed
            (`systems.fixed`) are moved neither by dynamics nor by minimisation.
        bonds: pairs of bonded atoms.
        molecules: returns the structure's different molecules with their bond orders, by the name
            of the structure that declares them; called for GAFF2 only.
        prepared: folder where GAFF2's results are stored and looked up.

    Returns:
        The teacher: without a cutoff for molecules, with particle-mesh Ewald for periodic
        structures, whose cell is repeated where it is too small for the cutoff.

    Raises:
        InputError: a file is missing or broken, a molecule is not covered, a bond or angle has no
            term, a topology file describes a cell that is too small, or a program fails.
    """
    if isinstance(settings, ComputedForceField):
        return _computed(settings, atoms, bonds)
    bonds = without_ionic(atoms, bonds) if isinstance(settings, XmlForceField) else bonds
    numbers, own_bonds, fixed = atoms.numbers.copy(), tuple(bonds), fixed_atoms(atoms)
    supercell = _supercell(atoms, bonds)
    if supercell is not None:
        if isinstance(settings, AmberForceField | GromacsForceField):
            _refuse_small(atoms)
        atoms, bonds = supercell.repeated(atoms), supercell.bonds
    match settings:
        case XmlForceField():
            system, order = from_xml(settings.files, atoms, bonds)
        case Gaff2ForceField():
            if molecules is None:
                raise ValueError("GAFF2 needs the molecules")
            xml = gaff2_files(settings, molecules(), prepared)
            system, order = from_templates(xml, "GAFF2", atoms, bonds)
        case AmberForceField() | GromacsForceField():
            system, order = from_topology(settings, atoms), np.arange(len(atoms))
    named = ", ".join(map(str, settings.paths)) or settings.kind
    check_flexible(
        system, atoms, bonds, order, where=f"{structure_name(atoms)}: forcefield: {named}"
    )
    if atoms.pbc.all():
        box = openmm_cell(atoms)[0]
        system.setDefaultPeriodicBoxVectors(*(box / NM))
        use_minimum_image(system)
        if supercell is not None:
            supercell.tie(system, order, atoms.cell.standard_form()[0].array, box)
    return _held(
        Teacher(system, numbers, order, bool(atoms.pbc.all()), own_bonds, supercell), fixed
    )


def _held(teacher: Teacher, fixed: np.ndarray) -> Teacher:
    """The teacher, with no mass for fixed atoms: OpenMM then leaves them where they are."""
    for particle in teacher.particles[fixed]:
        teacher.system.setParticleMass(int(particle), 0.0)
    return teacher


def _try(computation: Computation, start: Atoms) -> None:
    """Compute the start structure, once in a process: a metal's takes minutes.

    Raises:
        Exception: the calculation failed.
    """
    case = (computation.__getstate__(), start.positions.tobytes(), start.cell.array.tobytes())
    if case not in _TRIED:
        computation.computed(start)
        _TRIED.add(case)


def _computed(
    settings: ComputedForceField, atoms: Atoms, bonds: Sequence[tuple[int, int]]
) -> Teacher:
    """The teacher of a structure.

    Args:
        settings: which program.
        atoms: the structure, N atoms, periodic in all directions or in none, with charge and
            multiplicity.
        bonds: pairs of bonded atoms.

    Raises:
        InputError: the program cannot be made, or cannot compute the structure.
    """
    periodic = bool(atoms.pbc.all())
    start = atoms
    if periodic:
        cell, rotation = openmm_cell(atoms)
        start = Atoms(atoms.numbers, positions=atoms.positions @ rotation.T, cell=cell, pbc=True)
        start.info = dict(atoms.info)
    named = {"gfnff": gfnff.NAME}.get(settings.kind, "")
    try:
        if isinstance(settings, GfnffForceField) and (fault := gfnff.crash(start)):
            raise ValueError(fault)
        computation = Computation(settings, start)
        named = computation.program.name
        if len(atoms) > 1:  # of a single atom no frame is drawn
            _try(computation, start)
    except InputError:
        raise
    except Exception as error:  # calculators may raise anything
        raise InputError(
            f"{structure_name(atoms)}: forcefield: {named} cannot compute it "
            f"({type(error).__name__}: {error}). Check charge and multiplicity, or choose another "
            "`forcefield`"
        ) from error
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(float(mass))
    force = openmm.PythonForce(computation)
    if periodic:
        system.setDefaultPeriodicBoxVectors(*(cell / NM))
        force.setUsesPeriodicBoundaryConditions(True)
    system.addForce(force)
    order = np.arange(len(atoms))
    teacher = Teacher(
        system,
        atoms.numbers.copy(),
        order,
        periodic,
        tuple(bonds),
        program=computation.program.name,
    )
    return _held(teacher, fixed_atoms(atoms))


def _supercell(atoms: Atoms, bonds: Sequence[tuple[int, int]]) -> Supercell | None:
    """The least supercell of a periodic structure that has room for a cutoff; None: it has room."""
    if not atoms.pbc.all():
        return None
    widths = np.diag(openmm_cell(atoms)[0])
    repeats = np.ceil(LEAST_CUTOFF_A / (PART_OF_CELL * widths)).astype(int)
    if (repeats <= 1).all():
        return None
    a, b, c = (int(n) for n in repeats)
    return Supercell.of(atoms, bonds, (a, b, c))


def _refuse_small(atoms: Atoms) -> None:
    width, least = np.diag(openmm_cell(atoms)[0]).min(), LEAST_CUTOFF_A / PART_OF_CELL
    raise InputError(
        f"{structure_name(atoms)}: its cell is {width:.2f} Å wide, and the force field needs "
        f"{least:.2f} Å to have its walls within a cutoff of half the cell. A topology file cannot "
        "be repeated: give a supercell with its topology, or let the force field be built "
        "(forcefield.kind: gaff2 or forcefield_xml)"
    )
