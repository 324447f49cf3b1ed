"""Which structure of a campaign given atoms are, and which atom is which.

    from halcyon.final.monitor.matching import match

    matched = match(atoms, domain, "molecule")
    atoms[matched.order]  # in the order of the domain's structure

The domain of a molecule identifies each atom by its place in the molecule, and a file from
elsewhere may list the atoms in another order. Where the order is not the campaign's, bonds decide:
molecule by molecule, graphs of elements and bonds are matched.

Not for: the campaign's own structures (`systems.structures`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.neighborlist import natural_cutoffs, neighbor_list
from rdkit import Chem
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from halcyon.domain.intervals import Domain
from halcyon.errors import InputError

BONDED = 1.25
"""Atoms closer than this many times the sum of their covalent radii are bonded."""
SAME_ORDER_A = 0.5
"""Atoms are in the campaign's order if no bond differs from its mean length by more than this."""

Bonds = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Match:
    """The structure that some atoms are.

    Attributes:
        structure: name of the structure.
        order: for each atom of the structure its index among the given atoms, shape (N,).
    """

    structure: str
    order: np.ndarray


def match(atoms: Atoms, domain: Domain, system_kind: str) -> Match:
    """Find the structure that some atoms are.

    Args:
        atoms: with bonds near their usual lengths, in any order.
        domain: of the campaign's model.
        system_kind: in a reactive system all atoms of an element are alike, and bonds may
            change.

    Raises:
        InputError: the atoms are none of the domain's structures.
    """
    for structure, classes in domain.classes.items():
        numbers = np.array([_element(name) for name in classes])
        if sorted(numbers.tolist()) != sorted(atoms.numbers.tolist()):
            continue
        bonds = [] if system_kind == "reactive" else domain.bonds.get(structure, [])
        same = np.array_equal(numbers, atoms.numbers)
        if same and _in_place(atoms, bonds):
            return Match(structure, np.arange(len(atoms)))
        if not bonds:
            order = np.empty(len(atoms), dtype=int)
            order[np.argsort(numbers, kind="stable")] = np.argsort(atoms.numbers, kind="stable")
            return Match(structure, order)
        matched = _by_graph(numbers, [(i, j) for i, j, _ in bonds], atoms)
        if matched is not None:
            return Match(structure, matched)
    known = ", ".join(f"{name} ({len(classes)} atoms)" for name, classes in domain.classes.items())
    raise InputError(
        f"{atoms.get_chemical_formula()}, {len(atoms)} atoms: none of the structures in the "
        f"model's domain: {known}. Expected the same elements, bonded in the same way; start from "
        "a geometry whose bonds are near their usual lengths. For another structure, add it to the "
        "system's file and run the campaign again"
    )


def _element(name: str) -> int:
    """Atomic number of a class of atoms, which is named like `H` or `ethanol:H1`."""
    return atomic_numbers[re.sub(r"\d+$", "", name.rpartition(":")[2])]


def _in_place(atoms: Atoms, bonds: Sequence[tuple[int, int, float]]) -> bool:
    return all(
        abs(atoms.get_distance(i, j, mic=bool(atoms.pbc.any())) - length) < SAME_ORDER_A
        for i, j, length in bonds
    )


def _by_graph(numbers: np.ndarray, bonds: Bonds, atoms: Atoms) -> np.ndarray | None:
    """Match molecule by molecule: for each atom of the structure its index among the given atoms.

    The first molecule that fits is taken: molecules of the same graph are interchangeable. None if
    the molecules of structure and atoms are not the same.
    """
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BONDED))
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    present = {(min(i, j), max(i, j)) for i, j in pairs if i != j}
    if len(present) != len(bonds):
        return None
    free = _molecules(atoms.numbers, sorted(present))
    order = np.full(len(numbers), -1)
    for indices, molecule in _molecules(numbers, bonds):
        for place, (others, other) in enumerate(free):
            alike = len(others) == len(indices) and (other.GetNumBonds() == molecule.GetNumBonds())
            fitting = other.GetSubstructMatch(molecule) if alike else ()
            if fitting:
                order[indices] = others[list(fitting)]
                del free[place]
                break
        else:
            return None
    return order


def _molecules(numbers: np.ndarray, bonds: Bonds) -> list[tuple[np.ndarray, Chem.Mol]]:
    """Indices of the atoms of each molecule, and its graph of elements and single bonds."""
    ends = np.array(bonds, dtype=int).reshape(-1, 2).T
    joined = coo_matrix((np.ones(len(bonds)), (ends[0], ends[1])), shape=(len(numbers),) * 2)
    count, label = connected_components(joined, directed=False)
    place = np.empty(len(numbers), dtype=int)
    graphs = [Chem.RWMol() for _ in range(count)]
    for atom, number in enumerate(numbers):
        node = Chem.Atom(int(number))
        node.SetNoImplicit(True)
        place[atom] = graphs[label[atom]].AddAtom(node)
    for i, j in bonds:
        graphs[label[i]].AddBond(int(place[i]), int(place[j]), Chem.BondType.SINGLE)
    return [(np.flatnonzero(label == n), graph.GetMol()) for n, graph in enumerate(graphs)]
