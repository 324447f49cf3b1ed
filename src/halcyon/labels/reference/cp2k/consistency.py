"""What in a level of theory contradicts the rest of it, or makes labels that cannot be trusted.

CP2K computes all of these without a word. The limits and where they come from:
docs/decisions/cp2k.md.

Not for: whether the file is CP2K input (`tree`), or has what a level needs (`level`).
"""

import math
from collections.abc import Mapping
from pathlib import Path

from halcyon.errors import InputError
from halcyon.labels.reference.cp2k.tree import Tree
from halcyon.wording import listed

LOOSEST_EPS_SCF = 1e-5
CP2K_CUTOFF_RY, CP2K_REL_CUTOFF_RY = 280.0, 40.0
"""CP2K's own values where a level names none."""
LEAST_CUTOFF_RY, LEAST_REL_CUTOFF_RY = 200.0, 30.0
HARD_ELEMENTS = ("C", "N", "O", "F", "DEFAULT")
"""KIND sections whose GTH pseudopotential needs at least that grid; DEFAULT may be any element."""

SHORTCUTS = {"PADE": "LDA"}
"""XC_FUNCTIONAL's shortcuts that CP2K has under another name; all others name the functional."""
NO_SHORTCUT = ("NO_SHORTCUT", "NONE")
SECTIONS = {
    "BECKE88 LYP": "BLYP",
    "GGA_C_LYP GGA_X_B88": "BLYP",
    "GGA_C_P86 GGA_X_B88": "BP",
    "GGA_C_PBE GGA_X_PBE": "PBE",
    "GGA_C_PBE GGA_X_PBE_R": "revPBE",
    "GGA_C_PBE GGA_X_RPBE": "RPBE",
    "GGA_C_PBE_SOL GGA_X_PBE_SOL": "PBEsol",
    "LYP OPTX": "OLYP",
    "MGGA_C_R2SCAN MGGA_X_R2SCAN": "r2SCAN",
    "MGGA_C_SCAN MGGA_X_SCAN": "SCAN",
    "MGGA_C_TPSS MGGA_X_TPSS": "TPSS",
}
"""Functionals by the names of their sections in alphabetical order."""
PARAMETRIZATIONS = {"ORIG": "PBE", "REVPBE": "revPBE", "PBESOL": "PBEsol"}
HYBRIDS = {"PBE": "PBE0", "revPBE": "revPBE0"}
"""A functional with a quarter of exact exchange in place of its own."""

PSEUDOPOTENTIALS = {
    "LDA": ("PADE", "LDA"),
    "PBE": ("PBE",),
    "revPBE": ("PBE",),
    "RPBE": ("PBE",),
    "PBEsol": ("PBE", "PBESOL"),
    "PBE0": ("PBE", "PBE0"),
    "revPBE0": ("PBE", "PBE0"),
    "SCAN": ("SCAN", "PBE"),
    "r2SCAN": ("SCAN", "PBE"),
    "TPSS": ("PBE",),
    "BLYP": ("BLYP",),
    "B3LYP": ("BLYP", "PBE"),
    "BP": ("BP",),
    "OLYP": ("OLYP", "BLYP", "PBE"),
    "HCTH120": ("HCTH120", "BLYP", "PBE"),
    "BEEFVDW": ("PBE",),
}
"""Sets of GTH pseudopotentials that are accepted with a functional, the usual one first."""
SETS = frozenset(name for names in PSEUDOPOTENTIALS.values() for name in names)

D3_NAMES = {"BP": ("BP86", "BP")}
"""Names of a functional as a D3 reference, where XC_FUNCTIONAL has another one."""
D3_SCALING = {
    "PBE": (1.0, 1.217, 0.722),
    "revPBE": (1.0, 0.923, 1.010),
    "PBE0": (1.0, 1.287, 0.928),
    "BLYP": (1.0, 1.094, 1.682),
    "B3LYP": (1.0, 1.261, 1.703),
    "TPSS": (1.0, 1.166, 1.105),
}
"""s6, sr6, s8 of zero damping: S. Grimme et al., J. Chem. Phys. 132, 154104 (2010)."""
D3BJ_SCALING = {
    "PBE": (1.0, 0.4289, 0.7875, 4.4407),
    "revPBE": (1.0, 0.5238, 2.3550, 3.5016),
    "PBE0": (1.0, 0.4145, 1.2177, 4.8593),
    "BLYP": (1.0, 0.4298, 2.6996, 4.2359),
    "B3LYP": (1.0, 0.3981, 1.9889, 4.4211),
    "TPSS": (1.0, 0.4535, 1.9435, 4.4752),
}
"""s6, a1, s8, a2: S. Grimme, S. Ehrlich, L. Goerigk, J. Comput. Chem. 32, 1456 (2011)."""


def check_consistency(path: Path, dft: Tree, kinds: Mapping[str, Tree]) -> None:
    """Refuse a level that contradicts itself, or whose SCF ends too early.

    Args:
        path: file of the level, for the message.
        dft: its section DFT.
        kinds: its KIND sections by element.

    Raises:
        InputError: dispersion or pseudopotential of another functional, a loose EPS_SCF, or
            smearing that CP2K cannot do or whose energy has no forces.
    """
    xc = functional(dft)
    if xc is not None:
        _check_dispersion(path, dft, xc)
        _check_pseudopotentials(path, kinds, xc)
    _check_scf(path, dft)
    _check_smearing(path, dft)


def check_grid(path: Path, dft: Tree, kinds: Mapping[str, Tree]) -> None:
    """Refuse a grid so coarse that the check of the net force would reject its labels.

    Only GPW is checked: GAPW computes what is near a nucleus on atomic grids.

    Args:
        path: file of the level, for the message.
        dft: its section DFT.
        kinds: its KIND sections by element.

    Raises:
        InputError: CUTOFF or REL_CUTOFF is too low for an element of the level.
    """
    hard = [element for element in HARD_ELEMENTS if element in kinds]
    if not hard or dft.get("+QS", {}).get("METHOD", "GPW") != "GPW":
        return
    grid = dft.get("+MGRID", {})
    for keyword, default, least, usual, harm in (
        (
            "CUTOFF",
            CP2K_CUTOFF_RY,
            LEAST_CUTOFF_RY,
            300,
            "Labels would be rejected by sanity.net_force_eV_per_A after they were computed: "
            "for methanol |ΣF|/√N is 0.8 eV/Å at 150 Ry, 4 eV/Å at 120 Ry",
        ),
        (
            "REL_CUTOFF",
            CP2K_REL_CUTOFF_RY,
            LEAST_REL_CUTOFF_RY,
            50,
            "Forces would be wrong: for methanol by up to 0.1 eV/Å at 20 Ry, 10 eV/Å at 10 Ry",
        ),
    ):
        value = float(grid.get(keyword, default))
        if value < least:
            raise InputError(
                f"{path}: FORCE_EVAL/DFT/MGRID: {keyword} = {value:g} Ry: too coarse for GTH "
                f"pseudopotentials of {listed(hard)}; expected at least {least:g} Ry, usually "
                f"{usual}. {harm}. Where labels need not be right, as in a "
                "test, set sanity.net_force_eV_per_A to null"
            )


def has_smearing(dft: Tree) -> bool:
    """Whether a section DFT smears electrons."""
    smear = dft.get("+SCF", {}).get("+SMEAR")
    return smear is not None and smear.get("_") is not False


def functional(dft: Tree) -> str | None:
    """Name of the exchange-correlation functional; None where it is none that we know for sure."""
    xc = dft.get("+XC", {})
    section = xc.get("+XC_FUNCTIONAL", {})
    exact = [float(part.get("FRACTION", 1.0)) for part in xc.get("+HF", [])]
    shortcut = str(section.get("_", "NO_SHORTCUT")).upper()
    parts = {
        name[1:]: value
        for name, value in section.items()
        if name.startswith("+") and name != "+PBE_HOLE_T_C_LR"
    }
    if shortcut not in NO_SHORTCUT:
        name = SHORTCUTS.get(shortcut, shortcut)
        # The shortcuts PBE0 and B3LYP leave exact exchange to the section HF.
        return None if parts or (exact and name not in ("PBE0", "B3LYP")) else name
    if list(parts) == ["PBE"]:
        pbe = parts["PBE"]
        name = PARAMETRIZATIONS.get(str(pbe.get("PARAMETRIZATION", "ORIG")).upper(), "")
        scales = (float(pbe.get("SCALE_X", 1.0)), float(pbe.get("SCALE_C", 1.0)))
        if not exact:
            return name if name and scales == (1.0, 1.0) else None
        return HYBRIDS.get(name) if exact == [0.25] and scales == (0.75, 1.0) else None
    if exact or any(
        float(part.get(scale, 1.0)) != 1.0
        for part in parts.values()
        if isinstance(part, dict)
        for scale in ("SCALE", "SCALE_X", "SCALE_C")
    ):
        return None
    return SECTIONS.get(" ".join(sorted(parts)))


def _check_dispersion(path: Path, dft: Tree, xc: str) -> None:
    where = "FORCE_EVAL/DFT/XC/VDW_POTENTIAL/PAIR_POTENTIAL"
    pairs = dft.get("+XC", {}).get("+VDW_POTENTIAL", {}).get("+PAIR_POTENTIAL", [])
    for pair in pairs:
        reference = pair.get("REFERENCE_FUNCTIONAL")
        known = {_plain(name) for name in D3_NAMES.get(xc, (xc,))}
        if reference is not None and _plain(str(reference)) not in known:
            raise InputError(
                f"{path}: {where}: REFERENCE_FUNCTIONAL = {reference}: contradicts XC_FUNCTIONAL, "
                f"which is {xc}: dispersion is fitted to one functional; {_instead(xc)}"
            )
        for keyword, published in (("D3_SCALING", D3_SCALING), ("D3BJ_SCALING", D3BJ_SCALING)):
            values = pair.get(keyword)
            if values is None:
                continue
            owners = [
                name
                for name, numbers in published.items()
                if len(values) == len(numbers)
                and all(
                    math.isclose(float(a), b, abs_tol=6e-4)
                    for a, b in zip(values, numbers, strict=True)
                )
            ]
            if owners and xc not in owners:
                numbers = " ".join(f"{float(value):g}" for value in values)
                raise InputError(
                    f"{path}: {where}: {keyword} = {numbers}: those are the parameters of "
                    f"{listed(owners)}, which contradicts XC_FUNCTIONAL, which is {xc}; remove "
                    f"the keyword and {_instead(xc)}"
                )


def _instead(xc: str) -> str:
    if xc == "LDA":
        return "remove the section VDW_POTENTIAL: there is no D3 for LDA"
    return f"write REFERENCE_FUNCTIONAL {D3_NAMES.get(xc, (xc,))[0]}, or change XC_FUNCTIONAL"


def _check_pseudopotentials(path: Path, kinds: Mapping[str, Tree], xc: str) -> None:
    accepted = PSEUDOPOTENTIALS.get(xc)
    if accepted is None:
        return
    for element, section in kinds.items():
        potential = section.get("POTENTIAL")
        if potential is None:
            continue
        name = potential if isinstance(potential, str) else list(potential)[-1]
        words = name.upper().split("-")
        fitted = [word for word in words[1:] if word in SETS]
        if words[0] == "GTH" and fitted and fitted[0] not in accepted:
            usual = "-".join(["GTH", accepted[0], *name.split("-")[words.index(fitted[0]) + 1 :]])
            raise InputError(
                f"{path}: FORCE_EVAL/SUBSYS/KIND {element}: POTENTIAL = {name}: was made for "
                f"{fitted[0]}, which contradicts XC_FUNCTIONAL, which is {xc}; write "
                f"{usual}, or change XC_FUNCTIONAL"
            )


def _check_scf(path: Path, dft: Tree) -> None:
    scf = dft.get("+SCF", {})
    for where, section in (("SCF", scf), ("SCF/OUTER_SCF", scf.get("+OUTER_SCF", {}))):
        threshold = float(section.get("EPS_SCF", LOOSEST_EPS_SCF))
        if threshold > LOOSEST_EPS_SCF:
            raise InputError(
                f"{path}: FORCE_EVAL/DFT/{where}: EPS_SCF = {threshold:g}: too loose for forces; "
                f"a label would depend on the orbitals that its SCF started from. Write 1.0E-6 "
                f"(at most {LOOSEST_EPS_SCF:g}), and the same in OUTER_SCF"
            )


def _check_smearing(path: Path, dft: Tree) -> None:
    """Refuse smearing without orbitals for it, with OT, or by a method that was not checked.

    With a Fermi–Dirac distribution CP2K's total energy is the free energy of the electrons, whose
    slopes are its forces and its stress (N. D. Mermin, Phys. Rev. 137, A1441, 1965).
    """
    if not has_smearing(dft):
        return
    scf = dft["+SCF"]
    smear = scf["+SMEAR"]
    where = f"{path}: FORCE_EVAL/DFT/SCF"
    method = str(smear.get("METHOD", "ENERGY_WINDOW")).upper()
    if method != "FERMI_DIRAC":
        raise InputError(
            f"{where}/SMEAR: METHOD = {method}: expected FERMI_DIRAC, of which forces and stress "
            "are known to be slopes of the energy"
        )
    if "FIXED_MAGNETIC_MOMENT" in smear:
        raise InputError(
            f"{where}/SMEAR: FIXED_MAGNETIC_MOMENT = {smear['FIXED_MAGNETIC_MOMENT']}: belongs to "
            "the structure, whose multiplicity is always held; remove it"
        )
    if "+OT" in scf:
        raise InputError(
            f"{where}: SMEAR and OT: OT has no empty orbitals; replace OT by sections "
            "DIAGONALIZATION and MIXING"
        )
    added = scf.get("ADDED_MOS", 0)
    if not all(int(number) for number in (added if isinstance(added, list | tuple) else [added])):
        raise InputError(
            f"{where}: SMEAR, but ADDED_MOS = {added}: expected -1, for all empty orbitals: "
            "electrons are smeared into them, and a number that suits a cell is too small for its "
            "supercell"
        )


def _plain(name: str) -> str:
    """A functional's name without case and punctuation: B3-LYP is B3LYP."""
    return "".join(character for character in name.upper() if character.isalnum())
