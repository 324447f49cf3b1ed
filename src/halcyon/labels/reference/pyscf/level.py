"""A level of theory for PySCF: a small YAML file, checked against what PySCF really has.

    from pathlib import Path
    from halcyon.labels.reference.pyscf.level import read_level

    level = read_level(Path("config/pyscf/pbe-d3bj-def2-svp.yaml"))
    level.functional, level.basis  # "pbe", "def2-svp"

PySCF takes a name that it does not know for something else in places: a basis set for a file, a
functional with a suffix for a dispersion correction. Here each name is one thing, or refused.

Not for: computing with it (`backend`).
"""

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import pyscf
from ase.data import chemical_symbols
from pydantic import Field
from pyscf import gto
from pyscf.dft import libxc
from pyscf.dispersion import dftd3, dftd4
from pyscf.gto.basis import ALIAS, load_ecp
from pyscf.lib.exceptions import BasisNotFoundError

from halcyon.config import read_yaml
from halcyon.config.faults import near, validated
from halcyon.config.section import Section
from halcyon.errors import InputError
from halcyon.labels.reference.base import LevelOfTheory

LAST_ALL_ELECTRON = 36
"""Krypton. Heavier elements need an effective core potential: nothing here is relativistic."""
FORM = "multiplicity 1 restricted, others unrestricted; forces with the response of the grid"
"""What no key of the file says. It is part of the level, so a change here is another level."""

Dispersion = Literal["none", "d3bj", "d3bjatm", "d3zero", "d3zeroatm", "d3bjm", "d3op", "d4"]


class PyscfLevel(Section):
    """All that determines a label of PySCF, besides the structure and the program's version."""

    functional: str = Field(
        min_length=1,
        description="Exchange and correlation by libxc, e.g. pbe, r2scan, b3lyp, pbe0; hf: "
        "Hartree-Fock.",
    )
    basis: str = Field(
        min_length=1,
        description="Name of a basis set that comes with PySCF, e.g. def2-svp. Its own effective "
        "core potential is taken for elements that have one.",
    )
    dispersion: Dispersion = Field(
        description="Dispersion correction with the functional's own parameters."
    )
    density_fitting: bool = Field(
        True, description="Fit the density with the auxiliary basis that PySCF pairs with `basis`."
    )
    grid_level: int = Field(
        3, ge=1, le=9, description="PySCF's grid for exchange and correlation; greater is finer."
    )
    conv_tol_Ha: float = Field(
        1e-9, gt=0, le=1e-6, description="SCF is converged where a step changes the energy by less."
    )
    stability: Literal["open_shells", "all"] = Field(
        "open_shells",
        description="Which frames are checked for lower orbitals of the same kind. It costs "
        "several times the SCF; closed shells near their minimum hardly ever need it.",
    )

    @property
    def identity(self) -> LevelOfTheory:
        """The level with the versions that stand behind its names; see `Reference.level`."""
        versions = {"libxc": libxc.__version__}
        if self.dispersion != "none":
            versions["pyscf-dispersion"] = version("pyscf-dispersion")
        return {
            "program": "PySCF",
            "version": pyscf.__version__,
            "libraries": versions,
            "method": self.functional.lower(),
            "basis": self.basis.lower(),
            "dispersion": self.dispersion,
            "density_fitting": self.density_fitting,
            "grid_level": self.grid_level,
            "conv_tol_Ha": self.conv_tol_Ha,
            "stability": self.stability,
            "form": FORM,
        }


def read_level(path: Path) -> PyscfLevel:
    """Read a level of theory and check that PySCF has its functional, dispersion and basis set.

    Raises:
        InputError: it has not, or a key is wrong; the message names the file, the key and what was
            expected.
    """
    level = validated(PyscfLevel, read_yaml(path), str(path))
    if fault := _functional_fault(level) or _dispersion_fault(level) or _basis_fault(level):
        raise InputError(f"{path}: {fault}")
    return level


def core_potential(basis: str, element: str) -> list:
    """The effective core potential that comes with a basis set; empty: it has none there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return list(load_ecp(basis, element))
        except (BasisNotFoundError, RuntimeError):
            return []


def element_fault(basis: str, element: str) -> str:
    """Why an element cannot be computed with a basis set; empty if it can."""
    if not _has(basis, element):
        return (
            f"basis = {basis}: it has no functions for {element}; expected a basis set that has, "
            "in a level of your own, or another backend"
        )
    if chemical_symbols.index(element) > LAST_ALL_ELECTRON and not core_potential(basis, element):
        return (
            f"basis = {basis}: it has no effective core potential for {element}, and without one a "
            "heavy element needs relativity, which is not offered. Expected e.g. def2-svp"
        )
    return ""


def _has(basis: str, element: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(gto.basis.load(basis, element))
        except (BasisNotFoundError, KeyError, RuntimeError):
            return False


def _functional_fault(level: PyscfLevel) -> str:
    name = level.functional
    if any(suffix in name.lower() for suffix in ("-d3", "-d4", "-3c")):
        return f"functional = {name}: expected it without dispersion, which has its own key"
    try:
        libxc.parse_xc(name)
    except (KeyError, ValueError):
        names = sorted(key.lower() for key in libxc.XC_CODES)
        return f"functional = {name}: libxc has none of this name{near(name.lower(), names)}"
    if libxc.is_nlc(name):
        return (
            f"functional = {name}: it has non-local correlation (VV10), for which PySCF has no "
            "forces of open shells. Expected a functional without, and `dispersion`"
        )
    return ""


def _dispersion_fault(level: PyscfLevel) -> str:
    if level.dispersion == "none":
        return ""
    molecule = gto.M(atom="He", verbose=0)
    try:
        if level.dispersion == "d4":
            dftd4.DFTD4Dispersion(molecule, xc=level.functional)
        else:
            dftd3.DFTD3Dispersion(
                molecule, xc=level.functional, version=level.dispersion.removesuffix("atm")
            )
    except RuntimeError:
        return (
            f"dispersion = {level.dispersion}: there are no parameters of it for functional = "
            f"{level.functional}; expected another dispersion, none, or another functional"
        )
    return ""


def _basis_fault(level: PyscfLevel) -> str:
    if Path(level.basis).is_file():
        return f"basis = {level.basis}: expected a name, not a file, whose content may change"
    if any(_has(level.basis, element) for element in ("H", "C", "Zn", "I")):
        return ""
    hint = near(_plain(level.basis), sorted(ALIAS))
    return f"basis = {level.basis}: PySCF has no basis set of this name{hint}"


def _plain(basis: str) -> str:
    """A name as PySCF compares it."""
    return basis.lower().replace("-", "").replace("_", "").replace(" ", "")
