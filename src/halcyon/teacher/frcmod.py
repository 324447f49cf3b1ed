"""An OpenMM ForceField XML from AMBER's mol2 and frcmod files of molecules.

    from halcyon.teacher.frcmod import forcefield_xml, read_frcmod, read_mol2

    typed = read_mol2(mol2, numbers=(6, 6, 8, 1, 1, 1, 1, 1, 1))
    xml = forcefield_xml({"ethanol": typed}, read_frcmod(frcmod), prefix="a1-")

AMBER's energy terms are K(r - r0)² for bonds and angles and V/n (1 + cos(pφ - φ0)) for torsions.
The third atom of an improper torsion is the central one. Interactions between atoms three bonds
apart are scaled by 1/2 (Lennard-Jones) and 1/1.2 (Coulomb).

Not for: assigning types (see `gaff2`), or parameters with wild cards: parmchk2 writes every term
of the molecule out (`-a Y`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from xml.etree import ElementTree as ET

from ase.data import chemical_symbols

KCAL = 4.184
"""1 kcal in kJ."""
A = 0.1
"""1 Å in nm."""
RADIAN = math.pi / 180
"""1 degree in rad."""
LJ_14 = 0.5
COULOMB_14 = 1 / 1.2
MULTIPLE_OF_K = 2.0
"""OpenMM's harmonic terms are k/2 (x - x0)², AMBER's K (x - x0)²."""
PARTS = {"BOND": 2, "ANGL": 3, "DIHE": 4, "IMPR": 4}
"""Sections of a frcmod file, and how many atom types each of their lines begins with."""


@dataclass(frozen=True)
class TypedMolecule:
    """A molecule with force-field types and charges.

    Attributes:
        numbers: atomic numbers of its N atoms.
        types: force-field types of the atoms.
        charges: partial charges of the atoms, e.
        bonds: pairs of bonded atoms.
    """

    numbers: tuple[int, ...]
    types: tuple[str, ...]
    charges: tuple[float, ...]
    bonds: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Parameters:
    """AMBER's parameters in AMBER's units: kcal/mol, Å, rad in K, degrees for angles.

    Attributes:
        masses: type → mass, u.
        terms: section → (types, numbers of the line) for each line, in the file's order.
        vdw: type → (R_min/2 in Å, ε in kcal/mol).
        missing: types of the terms that parmchk2 could neither find nor guess.
    """

    masses: dict[str, float]
    terms: dict[str, list[tuple[tuple[str, ...], list[float]]]]
    vdw: dict[str, tuple[float, float]]
    missing: list[tuple[str, ...]]


def read_mol2(text: str, numbers: tuple[int, ...]) -> TypedMolecule:
    """Read types, charges and bonds from a mol2 file.

    Args:
        text: content of the file.
        numbers: atomic numbers, which the file does not have.

    Raises:
        ValueError: the file has another number of atoms.
    """
    atoms, bonds = [], []
    section = ""
    for line in text.splitlines():
        if line.startswith("@<TRIPOS>"):
            section = line[9:].strip()
        elif line.strip() and section == "ATOM":
            atoms.append(line.split())
        elif line.strip() and section == "BOND":
            bonds.append(line.split())
    if len(atoms) != len(numbers):
        raise ValueError(f"mol2: {len(atoms)} atoms, expected {len(numbers)}")
    return TypedMolecule(
        tuple(numbers),
        tuple(atom[5] for atom in atoms),
        tuple(float(atom[8]) for atom in atoms),
        tuple((int(bond[1]) - 1, int(bond[2]) - 1) for bond in bonds),
    )


def read_frcmod(text: str) -> Parameters:
    """Read a frcmod file that parmchk2 wrote."""
    parameters = Parameters({}, {name: [] for name in PARTS}, {}, [])
    section = ""
    for line in text.splitlines()[1:]:  # the first is a title
        if not line.strip():
            section = ""
        elif not section:
            section = line.strip()[:4]
        elif section in PARTS:
            width = 3 * PARTS[section] - 1  # types of two letters, joined by hyphens
            types = tuple(name.strip() for name in line[:width].split("-"))
            parameters.terms[section].append((types, _numbers(line[width:])))
            if "ATTN" in line:
                parameters.missing.append(types)
        elif section == "MASS":
            name, mass, *_ = line.split()
            parameters.masses[name] = float(mass)
        elif section == "NONB":
            name, radius, depth, *_ = line.split()
            parameters.vdw[name] = float(radius), float(depth)
    return parameters


def _numbers(text: str) -> list[float]:
    """The numbers at the beginning of a text; parmchk2 writes remarks after them."""
    numbers = []
    for word in text.split():
        try:
            numbers.append(float(word))
        except ValueError:
            break
    return numbers


def merged(several: Sequence[Parameters]) -> Parameters:
    """The parameters of several molecules, each term once.

    A type must have the same parameters in all of them.
    """
    union = Parameters({}, {name: [] for name in PARTS}, {}, [])
    for parameters in several:
        union.masses.update(parameters.masses)
        union.vdw.update(parameters.vdw)
        union.missing.extend(parameters.missing)
        for name, terms in parameters.terms.items():
            present = {types for types, _ in union.terms[name]}
            union.terms[name].extend(
                term for term in terms if term[0] not in present and term[0][::-1] not in present
            )
    return union


def forcefield_xml(
    molecules: Mapping[str, TypedMolecule],
    parameters: Parameters,
    *,
    prefix: str = "",
    remark: str = "",
) -> str:
    """A ForceField XML with a template for each molecule, and all parameters.

    Args:
        molecules: atoms, types, charges and bonds, by the template's name.
        parameters: as `read_frcmod` returns them.
        prefix: put before the names of types, so that files of molecules with different charges
            or parameters can be loaded together.
        remark: a comment at the top.
    """
    root = ET.Element("ForceField")
    if remark:
        root.append(ET.Comment(f"{remark.replace('--', '-')}"))
    _add_atom_types(root, molecules.values(), parameters, prefix)
    residues = ET.SubElement(root, "Residues")
    for name, molecule in molecules.items():
        _add_template(residues, name, molecule, prefix)
    _add_bonded_terms(root, parameters, prefix)
    _add_pair_terms(root, parameters, prefix)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _add_atom_types(
    root: ET.Element, molecules: Iterable[TypedMolecule], parameters: Parameters, prefix: str
) -> None:
    types = ET.SubElement(root, "AtomTypes")
    numbers = {
        atom_type: number
        for molecule in molecules
        for atom_type, number in zip(molecule.types, molecule.numbers, strict=True)
    }
    for atom_type, number in numbers.items():
        ET.SubElement(
            types,
            "Type",
            {
                "name": prefix + atom_type,
                "class": prefix + atom_type,
                "element": chemical_symbols[number],
                "mass": repr(parameters.masses[atom_type]),
            },
        )


def _add_template(residues: ET.Element, name: str, molecule: TypedMolecule, prefix: str) -> None:
    residue = ET.SubElement(residues, "Residue", name=name)
    names = [f"{chemical_symbols[z]}{i}" for i, z in enumerate(molecule.numbers)]
    for atom, atom_type, charge in zip(names, molecule.types, molecule.charges, strict=True):
        ET.SubElement(residue, "Atom", name=atom, type=prefix + atom_type, charge=repr(charge))
    for i, j in molecule.bonds:
        ET.SubElement(residue, "Bond", atomName1=names[i], atomName2=names[j])


def _add_bonded_terms(root: ET.Element, parameters: Parameters, prefix: str) -> None:
    """Bonds, angles, and proper and improper torsions."""
    bonds = ET.SubElement(root, "HarmonicBondForce")
    for types, (k, r0) in parameters.terms["BOND"]:
        values = {"length": r0 * A, "k": MULTIPLE_OF_K * k * KCAL / A**2}
        ET.SubElement(bonds, "Bond", _classes(types, prefix) | _written(values))
    angles = ET.SubElement(root, "HarmonicAngleForce")
    for types, (k, degrees) in parameters.terms["ANGL"]:
        values = {"angle": degrees * RADIAN, "k": MULTIPLE_OF_K * k * KCAL}
        ET.SubElement(angles, "Angle", _classes(types, prefix) | _written(values))
    torsions = ET.SubElement(root, "PeriodicTorsionForce", ordering="amber")
    for types, lines in groupby(parameters.terms["DIHE"], key=lambda term: term[0]):
        proper = _classes(types, prefix)
        for number, (_, (divider, height, degrees, fold)) in enumerate(lines, start=1):
            proper |= _torsion(number, height / divider, degrees, fold)
        ET.SubElement(torsions, "Proper", proper)
    for (a, b, centre, d), (height, degrees, fold) in parameters.terms["IMPR"]:
        improper = _classes((centre, a, b, d), prefix) | _torsion(1, height, degrees, fold)
        ET.SubElement(torsions, "Improper", improper)


def _add_pair_terms(root: ET.Element, parameters: Parameters, prefix: str) -> None:
    """Charges (they stand in the templates) and Lennard-Jones parameters."""
    pairs = ET.SubElement(
        root, "NonbondedForce", coulomb14scale=repr(COULOMB_14), lj14scale=repr(LJ_14)
    )
    ET.SubElement(pairs, "UseAttributeFromResidue", name="charge")
    for atom_type, (radius, depth) in parameters.vdw.items():
        values = {"sigma": radius * 2 ** (5 / 6) * A, "epsilon": depth * KCAL}
        ET.SubElement(pairs, "Atom", {"class": prefix + atom_type} | _written(values))


def _classes(types: tuple[str, ...], prefix: str) -> dict[str, str]:
    """XML attributes that name the types of a term; `X` stands for any type."""
    names = ("" if atom_type == "X" else prefix + atom_type for atom_type in types)
    return {f"class{number}": name for number, name in enumerate(names, start=1)}


def _torsion(number: int, height: float, degrees: float, fold: float) -> dict[str, str]:
    # The sign of the fold only says whether another line follows.
    values = _written({f"phase{number}": degrees * RADIAN, f"k{number}": height * KCAL})
    return {f"periodicity{number}": str(abs(int(fold)))} | values


def _written(values: dict[str, float]) -> dict[str, str]:
    return {key: repr(value) for key, value in values.items()}
