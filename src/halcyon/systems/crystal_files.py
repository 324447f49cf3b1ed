"""Faults of crystal structure files that ASE reads without a word.

    from pathlib import Path
    from ase.io import read
    from halcyon.systems.crystal_files import fault

    path = Path("config/structures/mgo.cif")
    fault(path, read(path))  # ""

A site that is occupied in part, or by two elements, is filled with one; hydrogens that were not
seen in the experiment are not there, although the formula has them.

Not for: what else is wrong with a structure (`structures`).
"""

from math import gcd
from pathlib import Path

from ase import Atoms
from ase.formula import Formula
from ase.io.cif import parse_cif

LEAST_OCCUPANCY = 0.999
"""A site that is filled to this part is full."""


def fault(path: Path, atoms: Atoms) -> str:
    """What is wrong with a file, in words; empty: nothing.

    Args:
        path: the file.
        atoms: what ASE read from it.
    """
    for kinds in atoms.info.get("occupancy", {}).values():
        if len(kinds) > 1 or min(kinds.values()) < LEAST_OCCUPANCY:
            words = " and ".join(f"{part:g} {symbol}" for symbol, part in kinds.items())
            return (
                f"a site is occupied by {words}: expected whole atoms. Write a supercell in which "
                "each site has one atom or none"
            )
    return _formula_fault(path, atoms) if path.suffix.lower() == ".cif" else ""


def _formula_fault(path: Path, atoms: Atoms) -> str:
    """How a CIF's atoms differ from its chemical formula."""
    blocks = [*parse_cif(str(path))]
    written = str(blocks[0].get("_chemical_formula_sum", "")).replace(" ", "") if blocks else ""
    try:
        expected = _reduced(Formula(written).count())
    except ValueError:  # fractions, or none at all: nothing to compare with
        return ""
    present = _reduced(atoms.symbols.formula.count())
    if not expected or present == expected:
        return ""
    missing = sorted(expected.keys() - present.keys())
    if missing == ["H"] or present == _reduced({k: v for k, v in expected.items() if k != "H"}):
        return (
            f"its formula is {written}, but it has no hydrogen atoms: expected all atoms. Add them "
            "(e.g. with a crystal viewer), since no X-ray saw them"
        )
    return (
        f"its formula is {written}, but its atoms are {atoms.get_chemical_formula()}: expected the "
        "same composition. Correct _chemical_formula_sum, or the sites and their symmetry"
    )


def _reduced(numbers: dict[str, int]) -> dict[str, int]:
    """Numbers of atoms without their common factor."""
    common = gcd(*numbers.values()) or 1
    return {symbol: number // common for symbol, number in numbers.items()}
