"""Atoms as graphs of elements and bonds: which molecules they are, and which atom is which.

    from ase.build import molecule
    from halcyon.systems.graphs import bond_matrix, matching_order, pairs_of, species

    bonds = [(0, 1), (0, 2)]  # of a structure whose atoms are O, H, H
    water = molecule("H2O")[[1, 0, 2]]  # another order of atoms
    order = matching_order([8, 1, 1], bonds, water)
    water[order].get_chemical_symbols()  # ["O", "H", "H"]
    (only,) = species(water.numbers, pairs_of(bond_matrix(water, 1.25)))
    only.formula, only.graph  # ("H2O", "[H][O][H]")

All bonds are single: only which atoms are bonded counts.

Not for: bonds of a campaign's own structures, or bond orders (see `structures`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from rdkit import Chem
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

BONDED = (1.25, 1.4, 1.55)
"""Atoms closer than this many times the sum of their covalent radii are bonded. The larger ones are
tried where the smallest does not give the expected graph: a bond may be stretched."""

Bonds = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Species:
    """One molecule among some atoms.

    Attributes:
        formula: in Hill's order.
        graph: its elements and bonds as canonical SMILES, all bonds single, e.g. `[H][O][H]`.
        members: indices of its atoms, ascending.
    """

    formula: str
    graph: str
    members: tuple[int, ...]


def bond_matrix(atoms: Atoms, factor: float) -> np.ndarray:
    """Which atoms are bonded, by distance, over periodic boundaries too.

    Args:
        atoms: N atoms.
        factor: atoms closer than this many times the sum of their covalent radii are bonded
            (radii: B. Cordero et al., Dalton Trans. 2008, 2832).

    Returns:
        Shape (N, N), bool, symmetric; no atom is bonded with itself.
    """
    bonded = atoms.get_all_distances(mic=bool(atoms.pbc.any())) < factor * touching(atoms.numbers)
    np.fill_diagonal(bonded, val=False)
    return np.asarray(bonded)


def touching(numbers: np.ndarray) -> np.ndarray:
    """Sum of the covalent radii of each pair of atoms, Å, shape (N, N)."""
    radii = covalent_radii[numbers]
    return np.asarray(radii[:, None] + radii)


def pairs_of(bonded: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j) with i < j of a symmetric matrix, shape (N, N), bool."""
    first, second = np.nonzero(np.triu(bonded, k=1))
    return list(zip(first.tolist(), second.tolist(), strict=True))


def matching_order(
    numbers: Sequence[int] | np.ndarray,
    bonds: Bonds,
    atoms: Atoms,
    *,
    known: Iterable[np.ndarray] = (),
) -> np.ndarray | None:
    """The order in which some atoms are a structure, bond by bond.

    Args:
        numbers: atomic numbers of the structure, shape (N,).
        bonds: pairs of its bonded atoms.
        atoms: N atoms in any order.
        known: orders that may fit, tried first.

    Returns:
        For each atom of the structure its index among `atoms`, shape (N,), so that `atoms[order]`
        has the structure's elements and bonds. Of equivalent orders, any. None: they have not.
    """
    numbers = np.asarray(numbers)
    if sorted(numbers.tolist()) != sorted(atoms.numbers.tolist()):
        return None
    expected = np.zeros((len(numbers),) * 2, dtype=bool)
    for i, j in bonds:
        expected[i, j] = expected[j, i] = True
    orders = [order for order in known if (atoms.numbers[order] == numbers).all()]
    for factor in BONDED:
        bonded = bond_matrix(atoms, factor)
        for order in orders:
            if (bonded[np.ix_(order, order)] == expected).all():
                return order
        matched = _by_graph(numbers, bonds, atoms.numbers, pairs_of(bonded))
        if matched is not None:
            return matched
    return None


def _by_graph(
    numbers: np.ndarray, bonds: Bonds, others: np.ndarray, present: Bonds
) -> np.ndarray | None:
    """Match molecule by molecule.

    The first molecule that fits is taken: molecules of the same graph are interchangeable. None if
    the molecules of structure and atoms are not the same.
    """
    if len(present) != len(bonds):
        return None
    free = molecule_graphs(others, present)
    order = np.full(len(numbers), -1)
    for indices, molecule in molecule_graphs(numbers, bonds):
        for place, (candidates, candidate) in enumerate(free):
            alike = len(candidates) == len(indices) and (
                candidate.GetNumBonds() == molecule.GetNumBonds()
            )
            fitting = candidate.GetSubstructMatch(molecule) if alike else ()
            if fitting:
                order[indices] = candidates[list(fitting)]
                del free[place]
                break
        else:
            return None
    return order


def molecule_graphs(
    numbers: Sequence[int] | np.ndarray, bonds: Bonds
) -> list[tuple[np.ndarray, Chem.Mol]]:
    """Indices of the atoms of each molecule, and its graph of elements and single bonds.

    Args:
        numbers: atomic numbers, shape (N,).
        bonds: pairs of bonded atoms.
    """
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


def species(numbers: Sequence[int] | np.ndarray, bonds: Bonds) -> list[Species]:
    """The molecules of some atoms.

    Args:
        numbers: atomic numbers, shape (N,).
        bonds: pairs of bonded atoms.
    """
    numbers = np.asarray(numbers)
    return [
        Species(
            formula=Atoms(numbers[members]).get_chemical_formula(),
            graph=Chem.MolToSmiles(graph, allHsExplicit=True),
            members=tuple(members.tolist()),
        )
        for members, graph in molecule_graphs(numbers, bonds)
    ]
