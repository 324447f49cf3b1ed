"""OpenMM's systems from force field files: built from templates, or read with their topology.

    from pathlib import Path

    from halcyon.config import StructureSettings
    from halcyon.systems import bonds, start_structure
    from halcyon.teacher.openmm_systems import from_xml

    settings = StructureSettings(name="ethanol", smiles="CCO")
    atoms = start_structure(settings)
    files = [Path("config/forcefields/small-molecules.xml")]
    system, order = from_xml(files, atoms, bonds(settings, atoms))

Molecules have no cutoff, periodic structures particle-mesh Ewald. OpenMM wants the atoms of a
molecule side by side, hence the order that comes with a system: particle i is atom order[i].

Not for: the teacher that computes frames (see `forcefield`), or typing molecules (see `gaff2`).
"""

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import openmm
from ase import Atoms
from openmm import app, unit
from rdkit import Chem
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from halcyon.config import AmberForceField, Gaff2ForceField, GromacsForceField
from halcyon.errors import InputError
from halcyon.systems.molecules import IONS
from halcyon.teacher import gaff2
from halcyon.teacher.openmm_units import NM

REAL_SPACE_CUTOFF_A = 10.0
"""Cutoff of periodic structures, Å; less in a cell narrower than twice that."""
PART_OF_CELL = 0.49
"""The cutoff's greatest part of the width of the cell."""
MAX_NAMES = 20
"""A message lists at most so many templates of a file."""
VIRTUAL = " (has virtual sites, which a teacher cannot use; amber14/tip3p.xml has none)"
OPENMM_FORCEFIELDS = Path(app.__file__).parent / "data"
"""Force fields that come with OpenMM, e.g. `amber14/tip3p.xml`."""


def from_xml(
    paths: Sequence[Path], atoms: Atoms, bonds: Sequence[tuple[int, int]]
) -> tuple[openmm.System, np.ndarray]:
    """A system from OpenMM's own or the user's ForceField XML files.

    Args:
        paths: the files, seen from the working folder or among OpenMM's own.
        atoms: the structure, N atoms.
        bonds: pairs of bonded atoms.

    Returns:
        The system; and the order of the atoms in it, shape (N,).

    Raises:
        InputError: a file is missing or broken, or a molecule has no template.
    """
    templates = {file: read_templates(file) for file in paths}
    available = "; ".join(
        f"{file} has {', '.join(names[:MAX_NAMES]) or 'none'}{' …' * (len(names) > MAX_NAMES)}"
        for file, names in templates.items()
    )
    named = ", ".join(str(path) for path in paths)
    return from_templates([str(path) for path in paths], named, atoms, bonds, available=available)


def without_ionic(atoms: Atoms, bonds: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Bonds without those of a salt of ions of single atoms: templates have an ion by itself.

    Args:
        atoms: the structure.
        bonds: pairs of atoms that are near.

    Returns:
        The bonds, without those of an ion of `molecules.IONS` to another one, or to an atom that
        has no other neighbours than such ions.
    """
    metal = np.isin(atoms.numbers, IONS)
    neighbours: dict[int, set[int]] = defaultdict(set)
    for i, j in bonds:
        neighbours[i].add(j)
        neighbours[j].add(i)

    def is_ion(atom: int) -> bool:
        return bool(metal[atom]) or all(metal[other] for other in neighbours[atom])

    return [(i, j) for i, j in bonds if not ((metal[i] or metal[j]) and is_ion(i) and is_ion(j))]


def gaff2_files(
    settings: Gaff2ForceField,
    molecules: dict[str, list[Chem.Mol]],
    prepared: Path | None,
) -> list[io.StringIO]:
    """ForceField XML of each different molecule, typed by AmberTools.

    Args:
        settings: of GAFF2, with its charges.
        molecules: the different molecules by the name of the structure that declares them.
        prepared: folder where results are stored and looked up.

    Raises:
        InputError: a molecule cannot be typed, or a file of charges does not fit.
    """
    texts = []
    for name, different in molecules.items():
        for molecule in different:
            charges: Any = settings.charges
            if name in settings.charge_files:
                if len(different) > 1:
                    raise InputError(
                        f"structure {name}: forcefield.charge_files: possible for one kind of "
                        f"molecule; this structure has {len(different)}"
                    )
                charges = gaff2.read_charges(settings.charge_files[name], molecule, name)
            electrons = sum(a.GetAtomicNum() for a in molecule.GetAtoms())
            electrons -= Chem.GetFormalCharge(molecule)
            texts.append(
                gaff2.gaff2_xml(
                    molecule,
                    name=name,
                    charges=charges,
                    # AmberTools only needs it to fit the number of electrons.
                    multiplicity=1 + electrons % 2,
                    cache=prepared,
                )
            )
    return [io.StringIO(xml) for xml in dict.fromkeys(texts)]


def from_templates(
    xml: Sequence[str | io.StringIO],
    named: str,
    atoms: Atoms,
    bonds: Sequence[tuple[int, int]],
    *,
    available: str = "",
) -> tuple[openmm.System, np.ndarray]:
    """A system from residue templates, one of which must fit each connected molecule.

    Args:
        xml: ForceField XML, as files' names or texts.
        named: what messages call it.
        atoms: the structure, N atoms.
        bonds: pairs of bonded atoms.
        available: the templates that there are, for messages.

    Returns:
        The system; and the order of the atoms in it, shape (N,).

    Raises:
        InputError: OpenMM cannot use it, or a molecule has no template, or several.
    """
    structure = structure_name(atoms)
    topology, order = topology_of(atoms, bonds)
    try:
        forcefield = app.ForceField(*xml)
    except Exception as error:
        raise InputError(
            f"forcefield: {named}: OpenMM cannot use it ({type(error).__name__}: {error})"
        ) from error
    try:
        missing = forcefield.getUnmatchedResidues(topology)
    except Exception as error:  # two templates of the same elements and bonds, e.g. Fe²⁺ and Fe³⁺
        raise InputError(
            f"{structure}: forcefield: {named}: {error} Use a file that has only the template that "
            "is meant"
        ) from error
    if missing:
        raise InputError(f"{structure}: forcefield: {_without_template(missing, available)}")
    try:
        system = forcefield.createSystem(
            topology,
            nonbondedMethod=app.PME if atoms.pbc.all() else app.NoCutoff,
            nonbondedCutoff=cutoff_A(atoms) / NM,
            constraints=None,
            rigidWater=False,
        )
    except Exception as error:
        raise InputError(f"{structure}: forcefield: {named}: {error}") from error
    return system, order


def _without_template(residues: Sequence[app.topology.Residue], available: str) -> str:
    """What to say of molecules that no template fits."""
    atoms_of = {_formula(residue): residue for residue in residues}
    formulas = ", ".join(
        f"{formula} (atoms {', '.join(atom.name for atom in residue.atoms())})"
        for formula, residue in sorted(atoms_of.items())
    )
    return (
        f"no residue template for {formulas} with these bonds; {available}. Add a force field XML "
        "that has one, or let AmberTools assign the types: `forcefield: {kind: gaff2}`"
    )


def from_topology(settings: AmberForceField | GromacsForceField, atoms: Atoms) -> openmm.System:
    """A system from a file that has both topology and parameters.

    Args:
        settings: names the file of each structure.
        atoms: the structure; the file must list its atoms in the same order.

    Raises:
        InputError: the file is missing, broken, or has other atoms.
    """
    if isinstance(settings, AmberForceField):
        key, paths = "prmtop", settings.prmtop
    else:
        key, paths = "top", settings.top
    name = str(atoms.info.get("structure", atoms.symbols))
    if name not in paths:
        raise InputError(
            f"structure {name}: forcefield.{key}: no file for it; there are files for "
            f"{', '.join(paths)}"
        )
    path = paths[name]
    where = f"structure {name}: forcefield.{key}: {path}"
    if not path.is_file():
        raise InputError(f"{where}: no such file, seen from the working folder")
    periodic = bool(atoms.pbc.all())
    box = openmm_cell(atoms)[0] / NM * unit.nanometer if periodic else None
    try:
        parsed: Any
        if isinstance(settings, AmberForceField):
            parsed = app.AmberPrmtopFile(str(path), periodicBoxVectors=box)
        else:
            parsed = app.GromacsTopFile(
                str(path),
                periodicBoxVectors=box,
                includeDir=settings.include_dir and str(settings.include_dir),
                defines={"FLEXIBLE": ""},  # GROMACS's water files then have bonds and angles
            )
        _check_same_atoms(parsed.topology, atoms, where)
        return parsed.createSystem(
            nonbondedMethod=app.PME if periodic else app.NoCutoff,
            nonbondedCutoff=cutoff_A(atoms) / NM,
            constraints=None,
            rigidWater=False,
        )
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where}: OpenMM cannot use it ({type(error).__name__}: {error})"
        ) from error


def _check_same_atoms(topology: app.Topology, atoms: Atoms, where: str) -> None:
    """Refuse a topology of other atoms, or of the same in another order."""
    elements = [atom.element.atomic_number if atom.element else 0 for atom in topology.atoms()]
    if len(elements) != len(atoms):
        virtual = "; virtual sites cannot be used" if 0 in elements else ""
        raise InputError(
            f"{where}: {len(elements)} atoms, expected {len(atoms)} as in the structure{virtual}"
        )
    for index, (number, element) in enumerate(zip(atoms.numbers, elements, strict=True)):
        if element not in (0, number):
            symbol = app.Element.getByAtomicNumber(element).symbol
            raise InputError(
                f"{where}: atom {index} is {symbol}, expected {atoms.symbols[index]} as in the "
                "structure: both must list the atoms in the same order"
            )


def structure_name(atoms: Atoms) -> str:
    """The structure as messages name it."""
    return f"structure {atoms.info.get('structure', atoms.symbols)}"


def read_templates(file: Path) -> list[str]:
    """Names of the residue templates in a ForceField XML file."""
    path = file if file.exists() else OPENMM_FORCEFIELDS / file
    try:
        root = ET.parse(path).getroot()  # noqa: S314 (the user's own file)
    except FileNotFoundError:
        raise InputError(
            f"forcefield: {file}: no such file in the working folder, nor among OpenMM's own"
        ) from None
    except OSError as error:
        raise InputError(f"forcefield: {file}: cannot be read ({error})") from error
    except ET.ParseError as error:
        raise InputError(f"forcefield: {file}: not valid XML ({error})") from error
    if root.tag != "ForceField":
        raise InputError(
            f"forcefield: {file}: root element <{root.tag}>, expected OpenMM's <ForceField>"
        )
    return [
        residue.get("name", "?") + VIRTUAL * (residue.find("VirtualSite") is not None)
        for residue in root.iterfind("Residues/Residue")
    ]


def topology_of(atoms: Atoms, bonds: Sequence[tuple[int, int]]) -> tuple[app.Topology, np.ndarray]:
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
        topology.setPeriodicBoxVectors(openmm_cell(atoms)[0] / NM * unit.nanometer)
    return topology, order


def openmm_cell(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """The cell in the form that OpenMM needs: lower triangular, reduced.

    Returns:
        Cell vectors as rows, Å, shape (3, 3), and Q, shape (3, 3), with (row in OpenMM's
        orientation) @ Q = (row in the frame's).
    """
    standard, rotation = atoms.cell.standard_form()
    a, b, c = np.array(standard)
    c = c - b * np.round(c[1] / b[1])
    c = c - a * np.round(c[0] / a[0])
    b = b - a * np.round(b[0] / a[0])
    return np.array([a, b, c]), rotation


def cutoff_A(atoms: Atoms) -> float:  # noqa: N802 (the unit)
    """Cutoff of non-bonded interactions, Å: just under half of the narrowest cell."""
    if not atoms.pbc.all():
        return REAL_SPACE_CUTOFF_A
    return min(REAL_SPACE_CUTOFF_A, PART_OF_CELL * float(np.diag(openmm_cell(atoms)[0]).min()))


def use_minimum_image(system: openmm.System) -> None:
    """Let bonded terms reach over the boundary, so that frames may be wrapped or not."""
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setExceptionsUsePeriodicBoundaryConditions(True)
        elif hasattr(force, "setUsesPeriodicBoundaryConditions"):
            force.setUsesPeriodicBoundaryConditions(True)


def _formula(residue: app.topology.Residue) -> str:
    return Atoms([atom.element.symbol for atom in residue.atoms()]).get_chemical_formula()
