"""From a structure's settings to atoms one can start from: geometry, bonds, atom classes.

    atoms = start_structure(settings)
    graph = bonds(settings, atoms)
    classes = atom_classes(atoms, graph, "symmetry")    # "ethanol:C0", "ethanol:C1", ...

What cannot be simulated is refused here, before anything expensive runs: an impossible spin, a
charge that contradicts the SMILES, overlapping atoms, a box that does not hold the molecule.

Not for: energies (see `teachers`), or packing molecules into a liquid.
"""

from collections import Counter
from pathlib import Path
from typing import Literal, NoReturn

import ase.io
import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import natural_cutoffs, neighbor_list
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from halcyon.config import StructureSettings
from halcyon.errors import InputError

CONFORMER_SEED = 1
"""Seed of RDKit's embedding: one SMILES always gives the same conformer."""
VACUUM_A = 3.0
"""Least gap between a molecule and its neighbour image, however it turns in its box, Å."""
OVERLAP = 0.5
"""Two atoms closer than this part of the sum of their covalent radii overlap."""
BONDED = 1.2
"""Two atoms closer than this multiple of the sum of their covalent radii are bonded."""


def start_structure(settings: StructureSettings) -> Atoms:
    """Build a start structure and check that it can be simulated.

    From SMILES: one conformer (ETKDG), optimised with MMFF94, or UFF where that lacks parameters.
    From a file: as it stands, with its cell if it has one. With `box_A` the molecule is centred in
    a cubic cell that is not periodic.

    Args:
        settings: the structure's part of the system's file.

    Returns:
        Atoms with `info` keys charge (e), multiplicity and structure.

    Raises:
        InputError: the structure cannot be made or simulated; the message names the structure,
            the key, its value and what was expected.
    """
    atoms = _from_file(settings) if settings.smiles is None else _from_smiles(settings)
    atoms.info = {
        "charge": settings.charge,
        "multiplicity": settings.multiplicity,
        "structure": settings.name,
    }
    _check_spin(settings, atoms)
    if settings.box_A is not None:
        _put_in_box(settings, atoms, settings.box_A)
    _check_overlap(settings, atoms)
    return atoms


def bonds(settings: StructureSettings, atoms: Atoms) -> list[tuple[int, int]]:
    """Which atoms are bonded.

    Args:
        settings: the structure's part of the system's file.
        atoms: what `start_structure` made of it.

    Returns:
        Pairs (i, j) with i < j, sorted: the graph of the SMILES, or, for a file, atoms closer
        than 1.2 times the sum of their covalent radii, over periodic boundaries too.
    """
    if settings.smiles is not None:
        pairs = [
            (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
            for bond in _molecule(settings).GetBonds()
        ]
    else:
        first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BONDED))
        pairs = [(int(i), int(j)) for i, j in zip(first, second, strict=True) if i != j]
    return sorted({(min(pair), max(pair)) for pair in pairs})


def atom_classes(
    atoms: Atoms, bonds: list[tuple[int, int]], mode: Literal["symmetry", "element"]
) -> list[str]:
    """Which atoms share an interval of the interpolation domain.

    Args:
        atoms: N atoms, with `info["structure"]`.
        bonds: pairs of bonded atoms.
        mode: element: the chemical symbol. symmetry: atoms that the bond graph cannot tell apart,
            by RDKit's canonical ranks without breaking ties (N. Schneider, R. A. Sayle,
            G. A. Landrum, J. Chem. Inf. Model. 55, 2111 (2015)).

    Returns:
        N names, e.g. `H`, or `ethanol:H1` for the second kind of hydrogen in ethanol.
    """
    symbols = atoms.get_chemical_symbols()
    if mode == "element":
        return symbols
    # Bond orders are left out, so that the two oxygens of a carboxylate are one class.
    graph = Chem.RWMol()
    for number in atoms.numbers:
        atom = Chem.Atom(int(number))
        atom.SetNoImplicit(True)
        graph.AddAtom(atom)
    for i, j in bonds:
        graph.AddBond(i, j, Chem.BondType.SINGLE)
    graph.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(graph)
    ranks = Chem.CanonicalRankAtoms(graph, breakTies=False, includeChirality=False)

    kinds: dict[tuple[str, int], str] = {}
    seen: Counter[str] = Counter()
    for symbol, rank in zip(symbols, ranks, strict=True):
        if (symbol, rank) not in kinds:
            kinds[symbol, rank] = f"{atoms.info['structure']}:{symbol}{seen[symbol]}"
            seen[symbol] += 1
    return [kinds[symbol, rank] for symbol, rank in zip(symbols, ranks, strict=True)]


def _molecule(settings: StructureSettings) -> Chem.Mol:
    with rdBase.BlockLogs():  # what is wrong is said once, by us
        molecule = Chem.MolFromSmiles(settings.smiles, sanitize=False)
        if molecule is None or not molecule.GetNumAtoms():
            _refuse(settings, "smiles", settings.smiles, "not valid SMILES")
        try:
            Chem.SanitizeMol(molecule)
        except Chem.MolSanitizeException as error:
            _refuse(settings, "smiles", settings.smiles, f"not a possible molecule ({error})")
    if len(Chem.GetMolFrags(molecule)) > 1:
        expected = "several molecules; give them, packed, as `file` instead"
        _refuse(settings, "smiles", settings.smiles, expected)
    if any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
        _refuse(settings, "smiles", settings.smiles, "has an atom (*) without an element")
    formal = Chem.GetFormalCharge(molecule)
    if formal != settings.charge:
        expected = f"expected {formal}, the sum of the formal charges in smiles {settings.smiles!r}"
        _refuse(settings, "charge", settings.charge, expected)
    return Chem.AddHs(molecule)


def _from_smiles(settings: StructureSettings) -> Atoms:
    molecule = _molecule(settings)
    with rdBase.BlockLogs():
        if not any(
            rdDistGeom.EmbedMolecule(
                molecule, randomSeed=CONFORMER_SEED, useRandomCoords=random_start
            )
            == 0
            for random_start in (False, True)
        ):
            expected = "RDKit finds no conformer; give the geometry as `file` instead"
            _refuse(settings, "smiles", settings.smiles, expected)
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
            rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=2000)
        elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
            rdForceFieldHelpers.UFFOptimizeMolecule(molecule, maxIters=2000)
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    return Atoms(numbers, positions=molecule.GetConformer().GetPositions())


def _from_file(settings: StructureSettings) -> Atoms:
    try:
        images = list(ase.io.iread(str(settings.file), index=":"))
    except FileNotFoundError:
        _refuse(settings, "file", settings.file, "no such file, seen from the working folder")
    except Exception as error:  # noqa: BLE001 (ASE's many readers raise anything)
        if isinstance(error, KeyError) and str(error.args[0]).isalpha():
            _refuse(settings, "file", settings.file, f"unknown element {error.args[0]!r}")
        expected = f"ASE cannot read it ({type(error).__name__}: {error})"
        _refuse(settings, "file", settings.file, expected)
    if len(images) != 1:
        _refuse(settings, "file", settings.file, f"holds {len(images)} structures, expected one")
    read = images[0]
    if not len(read) or not np.isfinite(read.positions).all():
        _refuse(settings, "file", settings.file, "expected atoms with finite positions")
    if (read.numbers < 1).any():
        _refuse(settings, "file", settings.file, "unknown element 'X'")
    if read.pbc.any() and not read.pbc.all():
        expected = f"periodic along some cell vectors only (pbc {read.pbc.tolist()}); expected all"
        _refuse(settings, "file", settings.file, f"{expected} or none")
    if read.pbc.all() and read.cell.rank < 3:
        _refuse(settings, "file", settings.file, "periodic, but its cell vectors span no volume")
    if read.pbc.all() and settings.box_A is not None:
        expected = f"not for periodic structures; {settings.file} brings its own cell"
        _refuse(settings, "box_A", settings.box_A, expected)
    return Atoms(read.numbers, positions=read.positions, cell=read.cell, pbc=read.pbc)


def _check_spin(settings: StructureSettings, atoms: Atoms) -> None:
    electrons = int(atoms.numbers.sum()) - settings.charge
    unpaired = settings.multiplicity - 1
    if electrons < unpaired or (electrons - unpaired) % 2:
        parity = "odd" if electrons % 2 == 0 else "even"
        expected = (
            f"{atoms.get_chemical_formula()} with charge {settings.charge} has {electrons} "
            f"electrons; expected an {parity} multiplicity of at most {electrons + 1}"
        )
        _refuse(settings, "multiplicity", settings.multiplicity, expected)


def _put_in_box(settings: StructureSettings, atoms: Atoms, edge: float) -> None:
    # The longest distance, not the extent along x, y, z: the molecule will turn.
    length = float(atoms.get_all_distances().max())
    if edge < length + VACUUM_A:
        expected = (
            f"expected at least {length + VACUUM_A:.1f}: the molecule is {length:.1f} Å long and "
            f"needs {VACUUM_A:.1f} Å to its neighbour"
        )
        _refuse(settings, "box_A", edge, expected)
    atoms.pbc = False
    atoms.cell = [edge, edge, edge]
    extent = atoms.positions.min(axis=0) + atoms.positions.max(axis=0)
    atoms.positions += edge / 2 - extent / 2


def _check_overlap(settings: StructureSettings, atoms: Atoms) -> None:
    first, second, distances = neighbor_list(
        "ijd", atoms, natural_cutoffs(atoms, mult=OVERLAP), self_interaction=False
    )
    if not len(distances):
        return
    closest = int(distances.argmin())
    i, j = int(first[closest]), int(second[closest])
    least = OVERLAP * covalent_radii[atoms.numbers[[i, j]]].sum()
    key = "file" if settings.smiles is None else "smiles"
    expected = (
        f"atoms {atoms.symbols[i]}{i} and {atoms.symbols[j]}{j} overlap: "
        f"{distances[closest]:.2f} Å apart, expected at least {least:.2f} Å"
    )
    _refuse(settings, key, getattr(settings, key), expected)


def _refuse(settings: StructureSettings, key: str, value: object, expected: str) -> NoReturn:
    shown = str(value) if isinstance(value, Path) else value
    raise InputError(f"structure {settings.name}: {key} = {shown!r}: {expected}")
