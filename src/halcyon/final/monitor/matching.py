"""Which structure of a campaign given atoms are, and which atom is which.

    from halcyon.final.monitor.matching import match

    matched = match(atoms, domain, "molecule")
    atoms[matched.order]  # in the order of the domain's structure

The domain of a molecule identifies each atom by its place in the molecule, and a file from
elsewhere may list the atoms in another order. Where the order is not the campaign's, bonds decide:
molecule by molecule, graphs of elements and bonds are matched.

Not for: matching graphs (`systems.graphs`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from halcyon.config.system import BONDS_HOLD
from halcyon.domain.intervals import Domain
from halcyon.errors import InputError
from halcyon.systems.graphs import matching_order

SAME_ORDER_A = 0.5
"""Atoms are in the campaign's order if no bond differs from its mean length by more than this."""


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
        bonds = domain.bonds.get(structure, []) if system_kind in BONDS_HOLD else []
        same = np.array_equal(numbers, atoms.numbers)
        if same and _in_place(atoms, bonds):
            return Match(structure, np.arange(len(atoms)))
        if not bonds:
            order = np.empty(len(atoms), dtype=int)
            order[np.argsort(numbers, kind="stable")] = np.argsort(atoms.numbers, kind="stable")
            return Match(structure, order)
        matched = matching_order(numbers, [(i, j) for i, j, _ in bonds], atoms)
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
