"""From AMBER's mol2 and frcmod files of molecules to an OpenMM ForceField XML.

    from halcyon.teacher.frcmod import forcefield_xml, read_frcmod, read_mol2

    typed = read_mol2(mol2, numbers=(6, 6, 8, 1, 1, 1, 1, 1, 1))
    xml = forcefield_xml({"ethanol": typed}, read_frcmod(frcmod), prefix="a1-")

Energies of AMBER: K(r - r0)² for bonds and angles, V/n (1 + cos(pφ - φ0)) for torsions, the
third atom in the middle of an improper, 1-4 interactions scaled by 1/2 and 1/1.2.

Not for: typing a molecule (see `gaff2`), or parameters with wild cards: parmchk2 writes every
term of the molecule out (`-a Y`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from xml.etree import ElementTree as ET

from ase.data import chemical_symbols

KCAL = 4.184
"""kJ."""
A = 0.1
"""Å in nm."""
RADIAN = math.pi / 180
"""One degree in rad."""
LJ_14 = 0.5
COULOMB_14 = 1 / 1.2
MULTIPLE_OF_K = 2.0
"""OpenMM's harmonic terms are k/2 (x - x0)², AMBER's K (x - x0)²."""
PARTS = {"BOND": 2, "ANGL": 3, "DIHE": 4, "IMPR": 4}
"""Sections of a frcmod file whose lines begin with so many atom types."""


@dataclass(frozen=True)
class TypedMolecule:
    """Atoms with types and charges.

    Attributes:
        numbers: atomic numbers, N of them.
        types: force-field types.
        charges: partial charges, e.
        bonds: pairs of atoms.
    """

    numbers: tuple[int, ...]
    types: tuple[str, ...]
    charges: tuple[float, ...]
    bonds: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Parameters:
    """AMBER's parameters in AMBER's units (kcal/mol, Å, rad for K, degrees for angles).

    Attributes:
        masses: type → mass, u.
        terms: section → (types, numbers of the line), in the file's order.
        vdw: type → (R_min/2, ε).
        missing: types of the terms that parmchk2 could neither find nor guess.
    """

    masses: dict[str, float]
    terms: dict[str, list[tuple[tuple[str, ...], list[float]]]]
    vdw: dict[str, tuple[float, float]]
    missing: list[tuple[str, ...]]


def read_mol2(text: str, numbers: tuple[int, ...]) -> TypedMolecule:
    """Read types, charges and bonds from a mol2 file.

    Args:
        text: the file's.
        numbers: atomic numbers; the file does not say them.

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
    found = Parameters({}, {name: [] for name in PARTS}, {}, [])
    section = ""
    for line in text.splitlines()[1:]:  # the first is a title
        if not line.strip():
            section = ""
        elif not section:
            section = line.strip()[:4]
        elif section in PARTS:
            width = 3 * PARTS[section] - 1  # types of two letters, joined by hyphens
            types = tuple(name.strip() for name in line[:width].split("-"))
            found.terms[section].append((types, _numbers(line[width:])))
            if "ATTN" in line:
                found.missing.append(types)
        elif section == "MASS":
            name, mass, *_ = line.split()
            found.masses[name] = float(mass)
        elif section == "NONB":
            name, radius, depth, *_ = line.split()
            found.vdw[name] = float(radius), float(depth)
    return found


def _numbers(text: str) -> list[float]:
    """The numbers that a line begins with; parmchk2 writes remarks behind them."""
    numbers = []
    for word in text.split():
        try:
            numbers.append(float(word))
        except ValueError:
            break
    return numbers


def merged(several: Sequence[Parameters]) -> Parameters:
    """The parameters of several molecules, each term once; a type means the same in all of them."""
    whole = Parameters({}, {name: [] for name in PARTS}, {}, [])
    for one in several:
        whole.masses.update(one.masses)
        whole.vdw.update(one.vdw)
        whole.missing.extend(one.missing)
        for name, terms in one.terms.items():
            known = {types for types, _ in whole.terms[name]}
            whole.terms[name].extend(
                term for term in terms if term[0] not in known and term[0][::-1] not in known
            )
    return whole


def forcefield_xml(
    molecules: Mapping[str, TypedMolecule],
    parameters: Parameters,
    *,
    prefix: str = "",
    remark: str = "",
) -> str:
    """A ForceField XML with templates and all their parameters.

    Args:
        molecules: atoms, types, charges and bonds, by the template's name.
        parameters: as `read_frcmod` gives them.
        prefix: put before the names of types, so that files of different molecules, with other
            charges or parameters of their own, can be loaded together.
        remark: a comment at the top.
    """
    root = ET.Element("ForceField")
    if remark:
        root.append(ET.Comment(f"{remark.replace('--', '-')}"))
    types = ET.SubElement(root, "AtomTypes")
    numbers = {
        kind: number
        for molecule in molecules.values()
        for kind, number in zip(molecule.types, molecule.numbers, strict=True)
    }
    for kind, number in numbers.items():
        ET.SubElement(
            types,
            "Type",
            {
                "name": prefix + kind,
                "class": prefix + kind,
                "element": chemical_symbols[number],
                "mass": repr(parameters.masses[kind]),
            },
        )
    residues = ET.SubElement(root, "Residues")
    for name, molecule in molecules.items():
        _template(residues, name, molecule, prefix)
    bonds = ET.SubElement(root, "HarmonicBondForce")
    for kinds, (k, r0) in parameters.terms["BOND"]:
        values = {"length": r0 * A, "k": MULTIPLE_OF_K * k * KCAL / A**2}
        ET.SubElement(bonds, "Bond", _classes(kinds, prefix) | _written(values))
    angles = ET.SubElement(root, "HarmonicAngleForce")
    for kinds, (k, degrees) in parameters.terms["ANGL"]:
        values = {"angle": degrees * RADIAN, "k": MULTIPLE_OF_K * k * KCAL}
        ET.SubElement(angles, "Angle", _classes(kinds, prefix) | _written(values))
    torsions = ET.SubElement(root, "PeriodicTorsionForce", ordering="amber")
    for kinds, lines in groupby(parameters.terms["DIHE"], key=lambda term: term[0]):
        proper = _classes(kinds, prefix)
        for number, (_, (divider, height, degrees, fold)) in enumerate(lines, start=1):
            proper |= _torsion(number, height / divider, degrees, fold)
        ET.SubElement(torsions, "Proper", proper)
    for (a, b, centre, d), (height, degrees, fold) in parameters.terms["IMPR"]:
        improper = _classes((centre, a, b, d), prefix) | _torsion(1, height, degrees, fold)
        ET.SubElement(torsions, "Improper", improper)
    pairs = ET.SubElement(
        root, "NonbondedForce", coulomb14scale=repr(COULOMB_14), lj14scale=repr(LJ_14)
    )
    ET.SubElement(pairs, "UseAttributeFromResidue", name="charge")
    for kind, (radius, depth) in parameters.vdw.items():
        values = {"sigma": radius * 2 ** (5 / 6) * A, "epsilon": depth * KCAL}
        ET.SubElement(pairs, "Atom", {"class": prefix + kind} | _written(values))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _template(residues: ET.Element, name: str, molecule: TypedMolecule, prefix: str) -> None:
    residue = ET.SubElement(residues, "Residue", name=name)
    names = [f"{chemical_symbols[z]}{i}" for i, z in enumerate(molecule.numbers)]
    for atom, kind, charge in zip(names, molecule.types, molecule.charges, strict=True):
        ET.SubElement(residue, "Atom", name=atom, type=prefix + kind, charge=repr(charge))
    for i, j in molecule.bonds:
        ET.SubElement(residue, "Bond", atomName1=names[i], atomName2=names[j])


def _classes(kinds: tuple[str, ...], prefix: str) -> dict[str, str]:
    named = ("" if kind == "X" else prefix + kind for kind in kinds)
    return {f"class{number}": name for number, name in enumerate(named, start=1)}


def _torsion(number: int, height: float, degrees: float, fold: float) -> dict[str, str]:
    # A negative fold only says that another line follows.
    values = _written({f"phase{number}": degrees * RADIAN, f"k{number}": height * KCAL})
    return {f"periodicity{number}": str(abs(int(fold)))} | values


def _written(values: dict[str, float]) -> dict[str, str]:
    return {key: repr(value) for key, value in values.items()}
