"""The teacher: a classical force field, through OpenMM, that samples and labels frames.

    teacher = make_teacher([Path("config/forcefields/small-molecules.xml")], atoms, bonds)
    frames, counts = sample(teacher, atoms, TeacherSettings(), seed=1)

A model that is pre-trained on such frames knows the walls of the potential (bonds, angles, close
contacts) before it sees a reference label: E. C.-Y. Yuan, T. Head-Gordon, arXiv:2509.14205. All
bonds are flexible, water's too: a constraint would teach nothing. Energies are in eV, forces in
eV/Å; the zero of the energy is the force field's own.

Not for: accuracy, or for making a force field (see `scripts/make_forcefield.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import openmm
from ase import Atoms
from ase import units as ase_units
from openmm import app, unit
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from halcyon.config import TeacherSettings
from halcyon.errors import InputError
from halcyon.frames import structure_only

KJ_PER_MOL = ase_units.kJ / ase_units.mol
"""1 kJ/mol in eV."""
NM = 10.0
"""1 nm in Å."""
TIMESTEP_FS = 0.5
EQUILIBRATION_PS = 1.0
"""Simulated and thrown away before the first frame of each temperature, ps."""
FRICTION_PER_PS = 5.0
REAL_SPACE_CUTOFF_A = 10.0
"""Cutoff of periodic structures, Å; less in a cell narrower than twice that."""
REFERENCE_PLATFORM_ATOMS = 150
"""Molecules up to this size run on OpenMM's Reference platform: it is faster there."""
OPENMM_FORCEFIELDS = Path(app.__file__).parent / "data"
"""Force fields that come with OpenMM, e.g. `amber14/tip3p.xml`."""


@dataclass(frozen=True)
class Teacher:
    """A force field for one composition.

    Attributes:
        system: OpenMM's system.
        numbers: atomic numbers, shape (N,); frames list their atoms in this order.
        order: the system's atom k is the frames' atom order[k], shape (N,). OpenMM wants each
            molecule's atoms together.
        periodic: in all three directions, or in none.
    """

    system: openmm.System
    numbers: np.ndarray
    order: np.ndarray
    periodic: bool

    def evaluate(self, frames: Sequence[Atoms]) -> tuple[np.ndarray, np.ndarray]:
        """Compute energies and forces of frames.

        Args:
            frames: F frames of the teacher's N atoms, in its order.

        Returns:
            Energies, eV, shape (F,), and forces, eV/Å, shape (F, N, 3).

        Raises:
            ValueError: a frame has other atoms, another order or another periodicity.
        """
        context = self._context(openmm.VerletIntegrator(TIMESTEP_FS / 1000))
        energies = np.empty(len(frames))
        forces = np.empty((len(frames), len(self.numbers), 3))
        for index, atoms in enumerate(frames):
            rotation = self._place(context, atoms)
            state = context.getState(energy=True, forces=True)
            energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            force = state.getForces(asNumpy=True).value_in_unit(
                unit.kilojoule_per_mole / unit.nanometer
            )
            energies[index] = energy * KJ_PER_MOL
            forces[index, self.order] = force @ rotation * (KJ_PER_MOL / NM)
        return energies, forces

    def _context(self, integrator: openmm.Integrator) -> openmm.Context:
        if not self.periodic and len(self.numbers) <= REFERENCE_PLATFORM_ATOMS:
            platform, properties = "Reference", {}
        else:
            # One thread: with two, forces differ in the last bits from run to run,
            # DeterministicForces or not (OpenMM 8.6).
            platform, properties = "CPU", {"Threads": "1", "DeterministicForces": "true"}
        return openmm.Context(
            self.system, integrator, openmm.Platform.getPlatformByName(platform), properties
        )

    def _place(self, context: openmm.Context, atoms: Atoms) -> np.ndarray:
        """Set cell and positions. Returns what rotates OpenMM's vectors (rows) back to ours."""
        if not np.array_equal(atoms.numbers, self.numbers):
            raise ValueError(f"{atoms.symbols}: not the teacher's atoms in the teacher's order")
        if bool(atoms.pbc.all()) != self.periodic:
            raise ValueError(f"pbc {atoms.pbc}: the teacher's periodicity is {self.periodic}")
        rotation = np.eye(3)
        if self.periodic:
            cell, rotation = _openmm_cell(atoms)
            context.setPeriodicBoxVectors(*(cell / NM))
        context.setPositions((atoms.positions @ rotation.T / NM)[self.order])
        return rotation


def make_teacher(
    forcefield_files: Sequence[Path], atoms: Atoms, bonds: Sequence[tuple[int, int]]
) -> Teacher:
    """Build the force field of a structure.

    Args:
        forcefield_files: OpenMM ForceField XML files, from the working folder or from those that
            come with OpenMM (`amber14/tip3p.xml`).
        atoms: the structure, N atoms, periodic in all directions or in none.
        bonds: pairs of bonded atoms; each connected molecule must have a residue template.

    Returns:
        The teacher: without cutoff for molecules, with particle-mesh Ewald if periodic.

    Raises:
        InputError: a file is missing or broken, a molecule has no template, or a bond no term.
    """
    templates = {file: _read_templates(file) for file in forcefield_files}
    searched = ", ".join(str(file) for file in forcefield_files)
    structure = f"structure {atoms.info.get('structure', atoms.symbols)}"
    topology, order = _topology(atoms, bonds)
    periodic = bool(atoms.pbc.all())
    try:
        forcefield = app.ForceField(*[str(file) for file in forcefield_files])
    except Exception as error:
        raise InputError(
            f"forcefield: {searched}: OpenMM cannot use it ({type(error).__name__}: {error})"
        ) from error
    if missing := forcefield.getUnmatchedResidues(topology):
        formulas = ", ".join(sorted({_formula(residue) for residue in missing}))
        available = "; ".join(
            f"{file} has {', '.join(names) or 'none'}" for file, names in templates.items()
        )
        raise InputError(
            f"{structure}: forcefield: no residue template for {formulas} with these bonds; "
            f"{available}. Add a force field XML that has one."
        )
    try:
        system = forcefield.createSystem(
            topology,
            nonbondedMethod=app.PME if periodic else app.NoCutoff,
            nonbondedCutoff=_cutoff_A(atoms) / NM,
            constraints=None,
            rigidWater=False,
        )
    except Exception as error:
        raise InputError(f"{structure}: forcefield: {searched}: {error}") from error
    if loose := _bonds_without_term(system, topology):
        raise InputError(
            f"{structure}: forcefield: {searched}: no term holds the bonds {', '.join(loose)}"
        )
    if periodic:
        _use_minimum_image(system)
    return Teacher(system, atoms.numbers.copy(), order, periodic)


def sample(
    teacher: Teacher,
    start: Atoms,
    settings: TeacherSettings,
    *,
    seed: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[list[Atoms], dict[str, int]]:
    """Draw and label frames: Langevin dynamics at each temperature, and displaced copies.

    The same seed gives the same frames, bit for bit, on one machine. One core is used.

    Args:
        teacher: the force field.
        start: where the dynamics start, after a minimisation.
        settings: how many frames, at which temperatures, how far displaced.
        seed: of all random numbers.
        progress: called with frames done and frames asked; may raise to stop.

    Returns:
        Labelled frames with `info` energy (eV), origin (`md` or `displaced`) and, for `md`,
        temperature (K) and time since equilibration (ps), and `arrays["forces"]` (eV/Å).
        And counts: frames kept (`md`, `displaced`), frames dropped (`force_cap`, `not_finite`).

    Raises:
        InputError: the dynamics blow up.
    """
    runs = len(settings.temperatures_K)
    total = settings.md_frames + settings.displaced_frames
    *md_seeds, displacement_seed = np.random.SeedSequence(seed).spawn(runs + 1)
    frames: list[Atoms] = []
    for run, temperature in enumerate(settings.temperatures_K):
        dynamics = _dynamics(teacher, start, temperature, settings.md_interval_fs, md_seeds[run])
        for _ in range(run, settings.md_frames, runs):
            frames.append(next(dynamics))
            progress(len(frames), total)
    frames += _displaced(frames, settings, np.random.default_rng(displacement_seed))

    energies, forces = teacher.evaluate(frames)
    progress(total, total)
    kept: list[Atoms] = []
    counts = {"md": 0, "displaced": 0, "force_cap": 0, "not_finite": 0}
    for frame, energy, force in zip(frames, energies, forces, strict=True):
        if not (np.isfinite(energy) and np.isfinite(force).all()):
            counts["not_finite"] += 1
        elif np.linalg.norm(force, axis=1).max() > settings.force_cap_eV_per_A:
            counts["force_cap"] += 1
        else:
            counts[frame.info["origin"]] += 1
            frame.info["energy"] = float(energy)
            frame.arrays["forces"] = force
            kept.append(frame)
    return kept, counts


def _dynamics(
    teacher: Teacher,
    start: Atoms,
    temperature: float,
    interval_fs: float,
    seed: np.random.SeedSequence,
) -> Iterator[Atoms]:
    """Unlabelled frames, without end, of one Langevin run."""
    # To OpenMM, the seed 0 means any.
    thermostat_seed, velocity_seed = (seed.generate_state(2) % (2**31 - 1) + 1).tolist()
    integrator = openmm.LangevinMiddleIntegrator(temperature, FRICTION_PER_PS, TIMESTEP_FS / 1000)
    integrator.setRandomNumberSeed(thermostat_seed)
    context = teacher._context(integrator)  # noqa: SLF001
    rotation = teacher._place(context, start)  # noqa: SLF001
    steps = max(1, round(interval_fs / TIMESTEP_FS))
    number = 0
    try:
        openmm.LocalEnergyMinimizer.minimize(context)
        context.setVelocitiesToTemperature(temperature, velocity_seed)
        integrator.step(round(EQUILIBRATION_PS * 1000 / TIMESTEP_FS))
        while True:
            integrator.step(steps)
            number += 1
            state = context.getState(positions=True)
            positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
            if not np.isfinite(positions).all():  # the Reference platform says nothing
                raise openmm.OpenMMException("coordinates are not finite")
            frame = structure_only(start)
            frame.positions[teacher.order] = positions @ rotation
            frame.info["origin"] = "md"
            frame.info["temperature"] = float(temperature)
            frame.info["time"] = number * steps * TIMESTEP_FS / 1000
            yield frame
    except openmm.OpenMMException as error:
        raise InputError(
            f"structure {start.info.get('structure', start.symbols)}: the force field's dynamics "
            f"at {temperature} K blow up ({error}): is the start structure strained, or the force "
            "field not meant for it?"
        ) from error


def _displaced(
    frames: Sequence[Atoms], settings: TeacherSettings, random: np.random.Generator
) -> list[Atoms]:
    """Copies of frames drawn with replacement, each with its own width of Gaussian noise."""
    displaced = []
    for _ in range(settings.displaced_frames):
        frame = structure_only(frames[int(random.integers(len(frames)))])
        width = random.uniform(*settings.displacement_A)
        frame.positions += random.normal(scale=width, size=frame.positions.shape)
        frame.info["origin"] = "displaced"
        displaced.append(frame)
    return displaced


def _read_templates(file: Path) -> list[str]:
    """Names of the residue templates in a ForceField XML file."""
    path = file if file.exists() else OPENMM_FORCEFIELDS / file
    try:
        root = ET.parse(path).getroot()  # noqa: S314 (the user's own file)
    except FileNotFoundError:
        raise InputError(
            f"forcefield: {file}: no such file, seen from the working folder, and none of OpenMM's"
        ) from None
    except OSError as error:
        raise InputError(f"forcefield: {file}: cannot be read ({error})") from error
    except ET.ParseError as error:
        raise InputError(f"forcefield: {file}: not valid XML ({error})") from error
    if root.tag != "ForceField":
        raise InputError(
            f"forcefield: {file}: root element <{root.tag}>, expected OpenMM's <ForceField>"
        )
    return [residue.get("name", "?") for residue in root.iterfind("Residues/Residue")]


def _topology(atoms: Atoms, bonds: Sequence[tuple[int, int]]) -> tuple[app.Topology, np.ndarray]:
    """One residue for each connected molecule; and the order of the atoms in it."""
    i, j = np.array(bonds, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(bonds)), (i, j)), shape=(len(atoms), len(atoms)))
    _, molecule_of = connected_components(graph, directed=False)
    order = np.argsort(molecule_of, kind="stable")
    topology = app.Topology()
    chain = topology.addChain()
    residues = [topology.addResidue("MOL", chain) for _ in range(max(molecule_of) + 1)]
    members = {}
    for index in order:
        element = app.Element.getByAtomicNumber(int(atoms.numbers[index]))
        members[index] = topology.addAtom(
            f"{element.symbol}{index}", element, residues[molecule_of[index]]
        )
    for first, second in bonds:
        topology.addBond(members[first], members[second])
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors(_openmm_cell(atoms)[0] / NM * unit.nanometer)
    return topology, order


def _openmm_cell(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """The cell as OpenMM wants it: lower triangular, reduced.

    Returns:
        Cell vectors as rows, Å, shape (3, 3), and Q with (row in OpenMM's frame) @ Q = (row in
        ours), shape (3, 3).
    """
    standard, rotation = atoms.cell.standard_form()
    a, b, c = np.array(standard)
    c = c - b * np.round(c[1] / b[1])
    c = c - a * np.round(c[0] / a[0])
    b = b - a * np.round(b[0] / a[0])
    return np.array([a, b, c]), rotation


def _cutoff_A(atoms: Atoms) -> float:  # noqa: N802 (the unit)
    if not atoms.pbc.all():
        return REAL_SPACE_CUTOFF_A
    return min(REAL_SPACE_CUTOFF_A, 0.49 * float(np.diag(_openmm_cell(atoms)[0]).min()))


def _bonds_without_term(system: openmm.System, topology: app.Topology) -> list[str]:
    """Bonds that the force field passes over in silence: OpenMM does not complain."""
    held = set()
    for force in system.getForces():
        if hasattr(force, "getBondParameters"):
            for index in range(force.getNumBonds()):
                held.add(frozenset(force.getBondParameters(index)[:2]))
    return sorted(
        {
            "-".join(sorted([bond.atom1.element.symbol, bond.atom2.element.symbol]))
            for bond in topology.bonds()
            if frozenset([bond.atom1.index, bond.atom2.index]) not in held
        }
    )


def _use_minimum_image(system: openmm.System) -> None:
    """Bonded terms reach over the boundary, so that frames may be wrapped or not."""
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setExceptionsUsePeriodicBoundaryConditions(True)
        elif hasattr(force, "setUsesPeriodicBoundaryConditions"):
            force.setUsesPeriodicBoundaryConditions(True)


def _formula(residue: app.topology.Residue) -> str:
    return Atoms([atom.element.symbol for atom in residue.atoms()]).get_chemical_formula()
