"""Start structures from a structure's settings: geometry, bonds, atom classes.

    from halcyon.config import StructureSettings
    from halcyon.systems.structures import atom_classes, bonds, start_structure

    settings = StructureSettings(name="ethanol", smiles="CCO")
    atoms = start_structure(settings)
    classes = atom_classes(atoms, bonds(settings, atoms), "symmetry")
    classes[0]  # "ethanol:C0"

What cannot be simulated is refused here, before anything expensive runs: an impossible spin, a
charge that contradicts the SMILES, overlapping atoms, a box that does not hold the molecule.

Not for: energies (see `teacher`), or putting molecules together (see `packing`).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn

import ase.io
import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import find_mic
from ase.neighborlist import natural_cutoffs, neighbor_list
from rdkit import Chem, rdBase
from rdkit.Chem import (
    rdDetermineBonds,
    rdDistGeom,
    rdForceFieldHelpers,
    rdMolDescriptors,
)

from halcyon.config import StructureSettings
from halcyon.errors import InputError
from halcyon.frames import near_origin
from halcyon.systems import crystal_files, headers, isotopes
from halcyon.systems.fixed import mark_fixed

CONFORMER_SEED = 1
"""Seed of RDKit's embedding, so that a SMILES always gives the same conformer."""
VACUUM_A = 3.0
"""Least gap between a molecule and its neighbour image, however it turns in its box, Å."""
OVERLAP = 0.5
"""Two atoms closer than this part of the sum of their covalent radii overlap."""
MMFF_TOLERANCE_A = 0.16
"""If MMFF94 lengthens a bond of RDKit's embedding by more, Å, its geometry is not used."""
BONDED = 1.2
"""Two atoms closer than this multiple of the sum of their covalent radii are bonded."""


def start_structure(settings: StructureSettings) -> Atoms:
    """Build a start structure and check that it can be simulated.

    From SMILES: one conformer (ETKDG), optimised with MMFF94, or UFF where that lacks parameters.
    From a file: as it stands, with its cell if it has one; a molecule far from the origin is moved
    there. With `box_A` the molecule is centred in
    a cubic cell, which is periodic if `periodic` is true. Packed structures are made by `packing`.

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
    if settings.smiles is not None:
        mark_fixed(settings, atoms, atoms, refuse)
    check_spin(settings, atoms)
    if settings.box_A is not None:
        put_in_box(settings, atoms, settings.box_A)
    if settings.periodic and not atoms.pbc.all():
        refuse(settings, "periodic", settings.periodic, "expected a cell: give `box_A`")
    if settings.periodic is False and atoms.pbc.any():
        refuse(settings, "periodic", settings.periodic, f"{settings.file} is periodic")
    check_overlap(settings, atoms)
    return atoms


def bonds(settings: StructureSettings, atoms: Atoms) -> list[tuple[int, int]]:
    """Pairs of bonded atoms.

    Args:
        settings: the structure's part of the system's file.
        atoms: the structure, from `start_structure`.

    Returns:
        Pairs (i, j) with i < j, sorted: the graph of the SMILES, or, for a file, atoms closer
        than 1.2 times the sum of their covalent radii, over periodic boundaries too.
    """
    if settings.smiles is not None:
        pairs = [
            (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
            for bond in _molecule_of_smiles(settings).GetBonds()
        ]
    else:
        first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BONDED))
        pairs = [(int(i), int(j)) for i, j in zip(first, second, strict=True) if i != j]
    return sorted({(min(pair), max(pair)) for pair in pairs})


def molecules(
    settings: StructureSettings, atoms: Atoms, bonds: list[tuple[int, int]]
) -> list[Chem.Mol]:
    """The different molecules of a structure, with bond orders, formal charges and positions.

    From SMILES, there is one molecule. From a file, RDKit finds bond orders from the bonds and the
    charge; if there are several molecules, each is assumed to be neutral.

    Args:
        settings: the structure's part of the system's file; it must not be packed.
        atoms: the structure, from `start_structure`.
        bonds: pairs of bonded atoms.

    Returns:
        One molecule for each connected graph of elements, its atoms in the structure's order.

    Raises:
        InputError: no bond orders fit the charge.
    """
    if settings.smiles is not None:
        molecule = _molecule_of_smiles(settings)
        _place(molecule, atoms.positions)
        return [molecule]
    graph = bond_graph(atoms, bonds)
    members = Chem.GetMolFrags(graph)
    if len(members) > 1 and settings.charge:
        expected = (
            "the file has several molecules: which one is charged? Give each its own structure"
        )
        refuse(settings, "charge", settings.charge, expected)
    different: dict[str, Chem.Mol] = {}
    for fragment, indices in zip(Chem.GetMolFrags(graph, asMols=True), members, strict=True):
        name = Chem.MolToSmiles(fragment)
        if name in different:
            continue
        _place(fragment, _unwrapped(atoms, fragment, indices))
        formula = rdMolDescriptors.CalcMolFormula(fragment)  # a failure leaves charges behind
        try:
            with rdBase.BlockLogs():
                rdDetermineBonds.DetermineBondOrders(
                    fragment,
                    charge=settings.charge,
                    allowChargedFragments=settings.multiplicity == 1,
                )
        except (ValueError, RuntimeError) as error:
            expected = (
                f"RDKit finds no bond orders for {formula} "
                f"with charge {settings.charge} ({str(error).strip()}). Give the molecule as "
                "`smiles`, or choose another kind of `forcefield`"
            )
            refuse(settings, "file", settings.file, expected)
        different[name] = fragment
    return list(different.values())


def atom_classes(
    atoms: Atoms, bonds: list[tuple[int, int]], mode: Literal["symmetry", "element"]
) -> list[str]:
    """The class of each atom; atoms of a class share an interval of the interpolation domain.

    Args:
        atoms: N atoms, with `info["structure"]`.
        bonds: pairs of bonded atoms.
        mode: element: the class is the chemical symbol. symmetry: atoms that are equivalent in
            the bond graph, by RDKit's canonical ranks without breaking ties (N. Schneider,
            R. A. Sayle, G. A. Landrum, J. Chem. Inf. Model. 55, 2111 (2015)).

    Returns:
        N names, e.g. `H`, or `ethanol:H1` for the second kind of hydrogen in ethanol.
    """
    symbols = atoms.get_chemical_symbols()
    if mode == "element":
        return symbols
    # Bond orders are left out, so that the two oxygens of a carboxylate are one class.
    graph = bond_graph(atoms, bonds)
    ranks = Chem.CanonicalRankAtoms(graph, breakTies=False, includeChirality=False)

    classes: dict[tuple[str, int], str] = {}
    numbers: Counter[str] = Counter()
    for symbol, rank in zip(symbols, ranks, strict=True):
        if (symbol, rank) not in classes:
            classes[symbol, rank] = f"{atoms.info['structure']}:{symbol}{numbers[symbol]}"
            numbers[symbol] += 1
    return [classes[symbol, rank] for symbol, rank in zip(symbols, ranks, strict=True)]


def bond_graph(atoms: Atoms, bonds: list[tuple[int, int]]) -> Chem.Mol:
    """The graph of elements and bonds; all bonds are single."""
    graph = Chem.RWMol()
    for number in atoms.numbers:
        atom = Chem.Atom(int(number))
        atom.SetNoImplicit(True)
        graph.AddAtom(atom)
    for i, j in bonds:
        graph.AddBond(i, j, Chem.BondType.SINGLE)
    graph.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(graph)
    return graph.GetMol()


def _unwrapped(atoms: Atoms, fragment: Chem.Mol, indices: Sequence[int]) -> np.ndarray:
    """Positions of a molecule's atoms, put together if a boundary cuts it, Å, shape (n, 3)."""
    positions = atoms.positions[list(indices)].copy()
    placed, unfinished = {0}, [0]
    while unfinished:
        atom = fragment.GetAtomWithIdx(unfinished.pop())
        for neighbour in (bonded.GetIdx() for bonded in atom.GetNeighbors()):
            if neighbour not in placed:
                step = positions[neighbour] - positions[atom.GetIdx()]
                nearest, _ = find_mic(step, atoms.cell, atoms.pbc)
                positions[neighbour] = positions[atom.GetIdx()] + nearest
                placed.add(neighbour)
                unfinished.append(neighbour)
    return positions


def _place(molecule: Chem.Mol, positions: np.ndarray) -> None:
    """Give a molecule its only conformer; positions in Å, shape (n, 3)."""
    molecule.RemoveAllConformers()
    conformer = Chem.Conformer(molecule.GetNumAtoms())
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=float))
    molecule.AddConformer(conformer)


def _molecule_of_smiles(settings: StructureSettings) -> Chem.Mol:
    """The molecule of a SMILES with its hydrogens, without positions."""
    with rdBase.BlockLogs():  # the messages below replace RDKit's
        molecule = Chem.MolFromSmiles(settings.smiles, sanitize=False)
        if molecule is None or not molecule.GetNumAtoms():
            refuse(settings, "smiles", settings.smiles, "not valid SMILES")
        try:
            Chem.SanitizeMol(molecule)
        except Chem.MolSanitizeException as error:
            expected = (
                f"not a possible molecule ({error}). Where it exists, and bonds of two electrons "
                "do not describe it (diborane, many metals), give a structure file instead"
            )
            refuse(settings, "smiles", settings.smiles, expected)
    if len(Chem.GetMolFrags(molecule)) > 1:
        expected = "several molecules; give each its own structure, and `pack` them"
        refuse(settings, "smiles", settings.smiles, expected)
    if any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
        refuse(settings, "smiles", settings.smiles, "has an atom (*) without an element")
    if marked := isotopes.in_molecule(molecule):
        expected = f"{', '.join(marked)}: isotopes are not simulated: {isotopes.OUT}"
        refuse(settings, "smiles", settings.smiles, expected)
    formal = Chem.GetFormalCharge(molecule)
    if formal != settings.charge:
        expected = f"expected {formal}, the sum of the formal charges in smiles {settings.smiles!r}"
        refuse(settings, "charge", settings.charge, expected)
    return Chem.AddHs(molecule)


def _from_smiles(settings: StructureSettings) -> Atoms:
    """One conformer of a SMILES, relaxed."""
    molecule = _molecule_of_smiles(settings)
    with rdBase.BlockLogs():
        if not any(
            rdDistGeom.EmbedMolecule(
                molecule, randomSeed=CONFORMER_SEED, useRandomCoords=random_start
            )
            == 0
            for random_start in (False, True)
        ):
            expected = "RDKit finds no conformer. Give the geometry as `file` instead"
            refuse(settings, "smiles", settings.smiles, expected)
        _optimise(molecule)
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    return Atoms(numbers, positions=molecule.GetConformer().GetPositions())


def _optimise(molecule: Chem.Mol) -> None:
    """Relax a conformer with MMFF94, or with UFF if MMFF94 has no proper parameters."""
    embedded = _bond_lengths(molecule)
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        relaxed = Chem.Mol(molecule)
        rdForceFieldHelpers.MMFFOptimizeMolecule(relaxed, maxIters=2000)
        # RDKit fills gaps by a rule that takes multiple bonds of small molecules for single ones:
        # N2 becomes 1.46 Å long, CO2 1.40 Å.
        if (_bond_lengths(relaxed) - embedded).max(initial=0) < MMFF_TOLERANCE_A:
            _place(molecule, relaxed.GetConformer().GetPositions())
            return
    if rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.UFFOptimizeMolecule(molecule, maxIters=2000)


def _bond_lengths(molecule: Chem.Mol) -> np.ndarray:
    """Lengths of all bonds, Å."""
    positions = molecule.GetConformer().GetPositions()
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    i, j = np.array(ends, dtype=int).reshape(-1, 2).T
    lengths: np.ndarray = np.linalg.norm(positions[i] - positions[j], axis=1)
    return lengths


def _read_file(settings: StructureSettings) -> Atoms:
    """The one structure of a file, as ASE reads it."""
    try:
        images = list(ase.io.iread(str(settings.file), index=":"))
    except FileNotFoundError:
        refuse(settings, "file", settings.file, "no such file, seen from the working folder")
    except Exception as error:  # noqa: BLE001 (ASE's many readers raise anything)
        symbol = str(error.args[0]) if isinstance(error, KeyError) else ""
        if symbol in isotopes.HYDROGENS:
            expected = f"{symbol} is {isotopes.HYDROGENS[symbol]}: {isotopes.OUT}"
        elif symbol.isalpha():
            expected = f"unknown element {symbol!r}"
        else:
            expected = f"ASE cannot read it ({type(error).__name__}: {error})"
        refuse(settings, "file", settings.file, expected)
    if len(images) != 1:
        refuse(settings, "file", settings.file, f"holds {len(images)} structures, expected one")
    return images[0]


def _from_file(settings: StructureSettings) -> Atoms:
    """The one structure of a file, with its cell if it has one."""
    read = _read_file(settings)
    if not len(read) or not np.isfinite(read.positions).all():
        refuse(settings, "file", settings.file, "expected atoms with finite positions")
    if (read.numbers < 1).any():
        refuse(settings, "file", settings.file, "unknown element 'X'")
    if read.pbc.any() and not read.pbc.all():
        if not (settings.periodic and read.cell.rank == 3):
            expected = (
                f"periodic along some cell vectors only (pbc {read.pbc.tolist()}); expected all "
                "or none: reference and model compute nothing else. With `periodic: true` a slab "
                "whose cell has a vacuum is repeated along its third vector, too"
            )
            refuse(settings, "file", settings.file, expected)
        read.pbc = True
    if read.pbc.all() and read.cell.rank < 3:
        refuse(settings, "file", settings.file, "periodic, but its cell vectors span no volume")
    if read.pbc.all() and settings.box_A is not None:
        expected = f"not possible: {settings.file} is periodic and has its own cell"
        refuse(settings, "box_A", settings.box_A, expected)
    if settings.supercell and not read.pbc.all():
        expected = f"{settings.file} is not periodic"
        refuse(settings, "supercell", settings.supercell, expected)
    _check_isotopes(settings, read)
    if expected := crystal_files.fault(Path(str(settings.file)), read):
        refuse(settings, "file", settings.file, expected)
    _check_header(settings, read)
    atoms = Atoms(read.numbers, positions=read.positions, cell=read.cell, pbc=read.pbc)
    if settings.supercell:
        atoms = atoms.repeat(settings.supercell)
    mark_fixed(settings, atoms, read, refuse)
    return near_origin(atoms)


def _check_isotopes(settings: StructureSettings, read: Atoms) -> None:
    """Refuse a file with masses that are not those of natural abundance."""
    if marked := isotopes.in_atoms(read) or isotopes.in_file(Path(str(settings.file))):
        expected = f"{', '.join(marked)}: isotopes are not simulated: {isotopes.OUT}"
        refuse(settings, "file", settings.file, expected)


def _check_header(settings: StructureSettings, read: Atoms) -> None:
    """Refuse a file whose header says another charge or spin than the settings, given or not."""
    try:
        charge = headers.charge_of(read.info)
        if charge is None:
            charge = headers.charge_in_mol_file(Path(str(settings.file)))
    except InputError as error:
        refuse(settings, "file", settings.file, f"its header: {error}")
    if charge is not None and charge != settings.charge:
        expected = (
            f"{_whence(settings, 'charge')}, but the header of {settings.file} says {charge}: "
            f"write `charge: {charge}`, or correct the header"
        )
        refuse(settings, "charge", settings.charge, expected)
    partial = headers.sum_of_partial_charges(read)
    if partial and charge is None and "charge" not in settings.model_fields_set:
        name, total = partial
        if round(total) != 0 and abs(total - round(total)) < headers.SUM_TOLERANCE:
            expected = (
                f"the default, but the column {name} of {settings.file} adds up to {total:.2f}: "
                f"write `charge: {round(total)}` if that is the total charge, else `charge: 0`"
            )
            refuse(settings, "charge", settings.charge, expected)
    _check_header_spin(settings, read)


def _check_header_spin(settings: StructureSettings, read: Atoms) -> None:
    """Refuse a multiplicity that no reading of the header is, or, by default, not the likely."""
    try:
        readings = headers.readings(read.info)
        likely = {*readings.values()}
        if "multiplicity" not in settings.model_fields_set:
            spin = headers.spin_of(read.info, int(read.numbers.sum()) - settings.charge)
            likely = {spin.multiplicity} if spin else set()
    except InputError as error:
        refuse(settings, "file", settings.file, f"its header: {error}")
    if not likely or likely & {settings.multiplicity, *settings.multiplicities}:
        return
    words = ", or ".join(f"{words} → multiplicity {m}" for words, m in readings.items())
    expected = (
        f"{_whence(settings, 'multiplicity')}, but the header of {settings.file} says "
        f"{words}: write the right one as `multiplicity`, or correct the header"
    )
    refuse(settings, "multiplicity", settings.multiplicity, expected)


def _whence(settings: StructureSettings, key: str) -> str:
    """Whether a value stands in the system's file."""
    return "given" if key in settings.model_fields_set else "the default"


def check_spin(settings: StructureSettings, atoms: Atoms) -> None:
    """Refuse multiplicities that the number of electrons does not allow."""
    electrons = int(atoms.numbers.sum()) - settings.charge
    given = {"multiplicity": [settings.multiplicity], "multiplicities": settings.multiplicities}
    for key, values in given.items():
        for value in values:
            if electrons >= value - 1 and (electrons - value + 1) % 2 == 0:
                continue
            parity = "odd" if electrons % 2 == 0 else "even"
            expected = (
                f"{atoms.get_chemical_formula()} with charge {settings.charge} has {electrons} "
                f"electrons; expected an {parity} multiplicity of at most {electrons + 1}"
            )
            refuse(settings, key, value, expected)


def put_in_box(settings: StructureSettings, atoms: Atoms, edge: float) -> None:
    """Centre a molecule in a cubic cell of edge `edge`, Å, in which it can turn freely."""
    # The longest distance, not the extent along x, y, z: the molecule will turn.
    length = float(atoms.get_all_distances().max())
    if edge < length + VACUUM_A:
        expected = (
            f"expected at least {length + VACUUM_A:.1f}: the molecule is {length:.1f} Å long and "
            f"needs {VACUUM_A:.1f} Å to its neighbour"
        )
        refuse(settings, "box_A", edge, expected)
    atoms.pbc = bool(settings.is_periodic)
    atoms.cell = [edge, edge, edge]
    extent = atoms.positions.min(axis=0) + atoms.positions.max(axis=0)
    atoms.positions += edge / 2 - extent / 2


def check_overlap(settings: StructureSettings, atoms: Atoms) -> None:
    """Refuse atoms that lie on top of each other."""
    first, second, distances = neighbor_list(
        "ijd", atoms, natural_cutoffs(atoms, mult=OVERLAP), self_interaction=False
    )
    if not len(distances):
        return
    closest = int(distances.argmin())
    i, j = int(first[closest]), int(second[closest])
    least = OVERLAP * covalent_radii[atoms.numbers[[i, j]]].sum()
    key = next(key for key in ("smiles", "file", "pack") if getattr(settings, key))
    expected = (
        f"atoms {atoms.symbols[i]}{i} and {atoms.symbols[j]}{j} overlap: "
        f"{distances[closest]:.2f} Å apart, expected at least {least:.2f} Å"
    )
    refuse(settings, key, getattr(settings, key), expected)


def refuse(settings: StructureSettings, key: str, value: object, expected: str) -> NoReturn:
    """Refuse a value of a structure's settings.

    Raises:
        InputError: always.
    """
    shown = str(value) if isinstance(value, Path) else value
    raise InputError(f"structure {settings.name}: {key} = {shown!r}: {expected}")
