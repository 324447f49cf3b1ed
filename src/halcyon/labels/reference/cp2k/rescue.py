"""The rescue ladder: other settings that lead to orbitals where an SCF does not converge.

A rung changes how the SCF gets to its orbitals: more steps, another minimiser, diagonalisation. It
makes no label. From its orbitals the level's own SCF, with the level's settings and grid, computes
the label: a rescued label is at the same level of theory as any other.

Not for: deciding when a rung is tried (`calculation`).
"""

import copy
from collections.abc import Callable

from halcyon.labels.reference.cp2k.consistency import has_smearing
from halcyon.labels.reference.cp2k.tree import Tree

STEPS = 300
"""Most SCF steps of a rung."""
INNER_STEPS = 30
"""Number of SCF steps after which OT computes its preconditioner again."""


def rescue_tree(tree: Tree, rung: str) -> Tree:
    """Input that makes orbitals for a frame by a rung of the ladder.

    Args:
        tree: the frame's own input; it stays as it is.
        rung: a key of `RUNGS`.
    """
    changed = copy.deepcopy(tree)
    changed["+GLOBAL"]["RUN_TYPE"] = "ENERGY"
    changed["+FORCE_EVAL"][0].pop("+PRINT", None)
    RUNGS[rung](changed["+FORCE_EVAL"][0]["+DFT"])
    return changed


def is_possible(tree: Tree, rung: str) -> bool:
    """Whether CP2K can climb a rung.

    OT has neither k-points nor smeared electrons, and with k-points no multiplicity is held.
    """
    dft = tree["+FORCE_EVAL"][0]["+DFT"]
    if rung == "conjugate_gradients":
        return not ("+KPOINTS" in dft or has_smearing(dft))
    return rung != "smearing" or not ("+KPOINTS" in dft and dft.get("UKS"))


def _more_steps(dft: Tree) -> None:
    scf = dft["+SCF"]
    if "+OT" not in scf:
        scf["MAX_SCF"] = STEPS
        return
    scf["MAX_SCF"] = INNER_STEPS
    scf["+OUTER_SCF"] = scf.get("+OUTER_SCF", {"_": True}) | {"MAX_SCF": STEPS // INNER_STEPS}
    if "EPS_SCF" in scf:
        scf["+OUTER_SCF"]["EPS_SCF"] = scf["EPS_SCF"]


def _conjugate_gradients(dft: Tree) -> None:
    # CP2K's manual: an energy gap that is too small is safe for the preconditioner FULL_ALL.
    dft["+SCF"]["+OT"] = {
        "_": True,
        "MINIMIZER": "CG",
        "LINESEARCH": "3PNT",
        "PRECONDITIONER": "FULL_ALL",
        "ENERGY_GAP": 0.001,
    }
    dft["+SCF"].pop("+DIAGONALIZATION", None)
    _more_steps(dft)


def _diagonalisation(dft: Tree) -> None:
    scf = dft["+SCF"]
    for section in ("+OT", "+OUTER_SCF"):
        scf.pop(section, None)
    scf["+DIAGONALIZATION"] = {"_": True, "ALGORITHM": "STANDARD"}
    scf["+MIXING"] = {"_": True, "METHOD": "BROYDEN_MIXING", "ALPHA": 0.2, "NBROYDEN": 8}
    scf["MAX_SCF"] = STEPS


def _smearing(dft: Tree) -> None:
    _diagonalisation(dft)
    smear = {"_": True, "METHOD": "FERMI_DIRAC", "ELECTRONIC_TEMPERATURE": 3000.0}
    if dft.get("UKS"):  # smeared electrons would otherwise change the multiplicity
        smear["FIXED_MAGNETIC_MOMENT"] = float(dft["MULTIPLICITY"] - 1)
    dft["+SCF"]["+SMEAR"] = smear
    dft["+SCF"]["ADDED_MOS"] = 20


def _finer_grid(dft: Tree) -> None:
    grid = dft.setdefault("+MGRID", {})
    grid["CUTOFF"] = 1.5 * float(grid.get("CUTOFF", 280.0))
    _more_steps(dft)


RUNGS: dict[str, Callable[[Tree], None]] = {
    "more_steps": _more_steps,
    "conjugate_gradients": _conjugate_gradients,
    "diagonalisation": _diagonalisation,
    "smearing": _smearing,
    "finer_grid": _finer_grid,
}
CONTINUED = ("more_steps",)
"""Rungs that start from the last run's orbitals; the others start from atoms."""
