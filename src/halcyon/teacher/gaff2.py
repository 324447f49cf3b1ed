"""GAFF2 for any organic molecule: AmberTools assigns types, OpenMM gets a ForceField XML.

    from pathlib import Path
    from halcyon.teacher.gaff2 import gaff2_xml

    xml = gaff2_xml(molecule, name="methanol", cache=Path("results/prepared"))

`antechamber` assigns types and charges, `parmchk2` the parameters. The programs on PATH are used if
AMBERHOME is set, else those inside the package acpype. For a molecule that is in the cache, no
program starts.

J. Wang, R. M. Wolf, J. W. Caldwell, P. A. Kollman, D. A. Case, J. Comput. Chem. 25, 1157 (2004);
X. He, V. H. Man, W. Yang, T.-S. Lee, J. Wang, J. Chem. Phys. 153, 114502 (2020).

Not for: metals, boron, silicon, single atoms, or liquids with Gasteiger charges.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from halcyon import files
from halcyon.errors import InputError
from halcyon.teacher.frcmod import Parameters, TypedMolecule, forcefield_xml, read_frcmod, read_mol2

VERSION = 1
"""Version of the XML that is written; part of the cache's key."""
ELEMENTS = frozenset({"H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"})
MAX_ATOMS = 250
"""antechamber's own limit is 256."""
TIMEOUT_S = {"gasteiger": 120, "bcc": 7200}
ANTECHAMBER_CHARGES = {"gasteiger": "gas", "bcc": "bcc"}
BOND_TOLERANCE_A = 0.15
"""If a bond's length in GAFF2 and in the start structure differ by more, Å, its type is wrong."""
ALTERNATIVES = (
    "Use another force field for this system: `forcefield: {kind: forcefield_xml, files: […]}` "
    "with an OpenMM XML of your own (docs/add-a-system.md shows one), or kind amber or gromacs"
)


@dataclass(frozen=True)
class AmberTools:
    """An installation of AmberTools.

    Attributes:
        home: its folder, AMBERHOME.
        programs: the folder of its programs.
    """

    home: Path
    programs: Path

    def run(
        self, command: Sequence[str], folder: Path, *, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Start one of the programs in a folder and wait for it."""
        # AmberTools' own folders come first, because antechamber starts other programs by name.
        environment = os.environ | {
            "AMBERHOME": str(self.home),
            "PATH": f"{self.programs}{os.pathsep}{os.environ.get('PATH', '')}",
            "OMP_NUM_THREADS": "1",
        }
        libraries = str(self.home / "lib")
        if "LD_LIBRARY_PATH" in os.environ:
            libraries += os.pathsep + os.environ["LD_LIBRARY_PATH"]
        environment["LD_LIBRARY_PATH"] = libraries
        return subprocess.run(
            [str(self.programs / command[0]), *command[1:]],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    @property
    def parameters(self) -> str:
        """Name and version of the parameters: the first line of gaff2.dat."""
        path = self.home / "dat/leap/parm/gaff2.dat"
        with path.open(encoding="utf-8") as lines:
            return lines.readline().strip()


def find_ambertools() -> AmberTools:
    """Find AmberTools: on PATH if AMBERHOME is set, else inside the package acpype.

    Raises:
        InputError: neither exists.
    """
    home, antechamber = os.environ.get("AMBERHOME"), shutil.which("antechamber")
    if home and antechamber:
        return AmberTools(Path(home), Path(antechamber).parent)
    package = importlib.util.find_spec("acpype")
    bundle = "amber_macos" if sys.platform == "darwin" else "amber_linux"
    if package is not None and package.submodule_search_locations:
        home_in_acpype = Path(package.submodule_search_locations[0], bundle)
        if (home_in_acpype / "bin/antechamber").exists():
            return AmberTools(home_in_acpype, home_in_acpype / "bin")
    raise InputError(
        "forcefield: kind gaff2 needs AmberTools' programs antechamber and parmchk2, which are "
        "neither on PATH (with AMBERHOME set) nor in this Python's packages. Install them: "
        "pip install acpype, or conda install -c conda-forge ambertools"
    )


def check_sqm() -> None:
    """Check that the program sqm starts, which charges `bcc` need.

    The sqm of acpype needs libraries of the operating system.

    Raises:
        InputError: it does not start; the message says what to install.
    """
    tools = find_ambertools()
    with tempfile.TemporaryDirectory(prefix="halcyon-sqm-") as folder:
        try:
            output = tools.run(["sqm", "-O", "-i", "none"], Path(folder), timeout_s=60).stderr
        except OSError as error:
            output = f"error: {error}"
    if "shared librar" in output or output.startswith("error:"):
        raise InputError(
            f"forcefield: charges = 'bcc': {tools.programs}/sqm does not start "
            f"({output.strip().splitlines()[-1]}). On Debian and Ubuntu: apt-get install "
            "libarpack2 liblapack3 libgfortran5. Or install AmberTools from conda, or set "
            "`charges: gasteiger`"
        )


def gaff2_xml(
    molecule: Chem.Mol,
    *,
    name: str,
    charges: Literal["gasteiger", "bcc"] | Sequence[float] = "gasteiger",
    multiplicity: int = 1,
    cache: Path | None = None,
) -> str:
    """ForceField XML of one molecule.

    Args:
        molecule: with all hydrogens, bond orders, formal charges and one conformer.
        name: of the structure, for messages.
        charges: how to compute partial charges, or the charges of the atoms, e.
        multiplicity: 2S+1.
        cache: folder where the XML is stored and looked up; None: no cache.

    Returns:
        The XML's text. The names of its types begin with a hash of the molecule, so that they
        differ from those of all other molecules.

    Raises:
        InputError: GAFF2 does not cover the molecule; the message names the atoms.
    """
    _check_elements(molecule, name)
    tools = find_ambertools()
    key = _key(molecule, charges, multiplicity, tools)
    cached = None if cache is None else cache / f"gaff2-{key}.xml"
    if cached is not None and (kept := _whole_xml(cached)):
        return kept
    method = charges if isinstance(charges, str) else "gasteiger"
    typed, parameters = typed_molecule(
        molecule, name, tools, method=method, multiplicity=multiplicity
    )
    if not isinstance(charges, str):
        typed = replace(typed, charges=tuple(float(charge) for charge in charges))
    # Charges are printed with six digits; a periodic cell must be exactly neutral.
    rest = (Chem.GetFormalCharge(molecule) - sum(typed.charges)) / len(typed.charges)
    typed = replace(typed, charges=tuple(charge + rest for charge in typed.charges))
    xml = forcefield_xml(
        {f"{rdMolDescriptors.CalcMolFormula(molecule)}-{key}": typed},
        parameters,
        prefix=f"{key}-",
        remark=f" {Chem.MolToSmiles(Chem.RemoveHs(molecule))}; {tools.parameters}; charges: "
        f"{charges if isinstance(charges, str) else 'given'} ",
    )
    if cached is not None:
        files.write_text(cached, xml)
    return xml


def _whole_xml(path: Path) -> str:
    """Text of a force field's file; empty: there is none, or one that lacks its end."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    return text if text.rstrip().endswith("</ForceField>") else ""


def read_charges(path: Path, molecule: Chem.Mol, name: str) -> list[float]:
    """Read partial charges, e: a number per atom, separated by blanks or line ends.

    Raises:
        InputError: the file is unreadable, does not have a number per atom, or the charges do not
            add up to the molecule's.
    """
    where = f"structure {name}: forcefield.charge_files: {path}"
    try:
        values = [float(word) for word in path.read_text(encoding="utf-8").split()]
    except FileNotFoundError:
        raise InputError(f"{where}: no such file, seen from the working folder") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: expected numbers only ({error})") from error
    if len(values) != molecule.GetNumAtoms():
        raise InputError(f"{where}: {len(values)} numbers, expected {molecule.GetNumAtoms()}")
    formal, total = Chem.GetFormalCharge(molecule), sum(values)
    if not np.isclose(total, formal, atol=0.01):
        raise InputError(f"{where}: the charges add up to {total:.3f} e, expected {formal}")
    return values


def _key(
    molecule: Chem.Mol,
    charges: str | Sequence[float],
    multiplicity: int,
    tools: AmberTools,
) -> str:
    """Hash of all that the XML depends on; of positions only where charges depend on them."""
    content = {
        "version": VERSION,
        "parameters": tools.parameters,
        "atoms": [(a.GetAtomicNum(), a.GetFormalCharge()) for a in molecule.GetAtoms()],
        "bonds": sorted(
            (*sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())), str(b.GetBondType()))
            for b in molecule.GetBonds()
        ),
        "charges": charges if isinstance(charges, str) else list(charges),
        "multiplicity": multiplicity,
    }
    if charges == "bcc":
        content["positions"] = np.round(molecule.GetConformer().GetPositions(), 4).tolist()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def typed_molecule(
    molecule: Chem.Mol,
    name: str,
    tools: AmberTools,
    *,
    method: str = "gasteiger",
    multiplicity: int = 1,
) -> tuple[TypedMolecule, Parameters]:
    """Types and parameters of a molecule, from antechamber and parmchk2.

    Args:
        molecule: with all hydrogens, bond orders, formal charges and one conformer.
        name: of the structure, for messages.
        tools: where the programs are.
        method: how to compute partial charges: `gasteiger` or `bcc`.
        multiplicity: 2S+1.

    Returns:
        The molecule with types and charges, and AMBER's parameters of these types.

    Raises:
        InputError: GAFF2 does not cover the molecule; the message names the atoms.
    """
    charge = Chem.GetFormalCharge(molecule)
    numbers = tuple(atom.GetAtomicNum() for atom in molecule.GetAtoms())
    # AmberTools needs aromatic bonds drawn as single and double ones.
    drawn = Chem.Mol(molecule)
    Chem.Kekulize(drawn, clearAromaticFlags=True)
    with tempfile.TemporaryDirectory(prefix="halcyon-gaff2-") as path:
        folder = Path(path)
        (folder / "it.mol").write_text(Chem.MolToMolBlock(drawn, kekulize=False))
        _run(
            tools,
            "antechamber -i it.mol -fi mdl -o it.mol2 -fo mol2 -at gaff2 -pf y -dr n "
            f"-c {ANTECHAMBER_CHARGES[method]} -nc {charge} -m {multiplicity}",
            folder / "it.mol2",
            molecule,
            name,
            timeout_s=TIMEOUT_S[method],
        )
        # `-s 2` is GAFF2; `-s gaff2` often gives the first GAFF (docs/decisions/forcefields.md).
        _run(
            tools,
            "parmchk2 -i it.mol2 -f mol2 -o it.frcmod -s 2 -a Y",
            folder / "it.frcmod",
            molecule,
            name,
            timeout_s=TIMEOUT_S["gasteiger"],
        )
        typed = read_mol2((folder / "it.mol2").read_text(encoding="utf-8"), numbers)
        parameters = read_frcmod((folder / "it.frcmod").read_text(encoding="utf-8"))
    _check_terms(molecule, name, typed, parameters)
    return typed, parameters


def _run(
    tools: AmberTools,
    command: str,
    output: Path,
    molecule: Chem.Mol,
    name: str,
    *,
    timeout_s: float,
) -> None:
    """Run a program in the folder of its output file.

    Raises:
        InputError: it does not start, takes too long, or does not write its output; the message
            says what is wrong with the molecule, if the program knows it.
    """
    program = command.split(maxsplit=1)[0]
    try:
        done = tools.run(command.split(), output.parent, timeout_s=timeout_s)
    except OSError as error:
        raise InputError(f"forcefield: {tools.programs / program}: {error}") from error
    except subprocess.TimeoutExpired:
        _refuse(name, f"{program} took longer than {timeout_s:g} s")
    if not done.returncode and output.exists():
        return
    lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines()]
    lines = [line for line in lines if line and "Info:" not in line and "Welcome" not in line]
    if "shared librar" in done.stderr:
        raise InputError(
            f"forcefield: {tools.programs / program} does not start ({lines[-1]}). Install the "
            "missing library, or AmberTools from conda"
        )
    if no_parameter := re.search(r"atom \(ID: (\d+)", " ".join(lines)):
        atom = _atom(molecule, int(no_parameter[1]))
        _refuse(name, f"GAFF2 has no type for atom {atom} with these bonds")
    fatal = [n for n, line in enumerate(lines) if "Fatal" in line]
    _refuse(name, f"{program} failed: {' '.join(lines[fatal[0] + 1 :] if fatal else lines[-2:])}")


def _check_elements(molecule: Chem.Mol, name: str) -> None:
    """Refuse elements that GAFF2 does not have, a single atom, and too many atoms."""
    foreign = [a.GetIdx() for a in molecule.GetAtoms() if a.GetSymbol() not in ELEMENTS]
    if foreign:
        atoms = ", ".join(_atom(molecule, index) for index in foreign)
        known = ", ".join(sorted(ELEMENTS))
        _refuse(name, f"GAFF2 has no type for atom {atoms}; it knows {known}")
    if molecule.GetNumAtoms() == 1:
        _refuse(name, f"GAFF2 has no type for the single atom {_atom(molecule, 0)}")
    if molecule.GetNumAtoms() > MAX_ATOMS:
        _refuse(name, f"{molecule.GetNumAtoms()} atoms; AmberTools takes at most {MAX_ATOMS}")


def _check_terms(
    molecule: Chem.Mol, name: str, typed: TypedMolecule, parameters: Parameters
) -> None:
    """Refuse what AmberTools reports as success: dummy types, empty terms, wrong bond lengths."""
    dummies = [_atom(molecule, i) for i, atom_type in enumerate(typed.types) if atom_type == "DU"]
    if dummies:
        _refuse(name, f"GAFF2 has no type for atom {', '.join(dummies)} with these bonds")
    _check_bonds(molecule, name, typed, parameters)
    _check_angles(molecule, name, typed, parameters)


def _check_bonds(
    molecule: Chem.Mol, name: str, typed: TypedMolecule, parameters: Parameters
) -> None:
    terms = {frozenset(types): (k, r0) for types, (k, r0) in parameters.terms["BOND"]}
    positions = molecule.GetConformer().GetPositions()
    for i, j in typed.bonds:
        stiffness, expected = terms.get(frozenset((typed.types[i], typed.types[j])), (0.0, 0.0))
        pair = f"{_atom(molecule, i)}-{_atom(molecule, j)}"
        if not stiffness:
            _refuse(name, f"GAFF2 has no parameters for the bond {pair}")
        length = float(np.linalg.norm(positions[i] - positions[j]))
        if abs(length - expected) > BOND_TOLERANCE_A:
            _refuse(
                name,
                f"GAFF2's length of the bond {pair} is {expected:.2f} Å, and in the start "
                f"structure it is {length:.2f} Å: GAFF2 has no type that fits these atoms",
            )


def _check_angles(
    molecule: Chem.Mol, name: str, typed: TypedMolecule, parameters: Parameters
) -> None:
    empty = {types for types in parameters.missing if len(types) == 3}
    for atom in molecule.GetAtoms():
        around = [neighbour.GetIdx() for neighbour in atom.GetNeighbors()]
        for i in around:
            for j in around:
                three = (typed.types[i], typed.types[atom.GetIdx()], typed.types[j])
                if i < j and not empty.isdisjoint({three, three[::-1]}):
                    angle = "-".join(_atom(molecule, k) for k in (i, atom.GetIdx(), j))
                    _refuse(name, f"GAFF2 has no parameters for the angle {angle}")


def _atom(molecule: Chem.Mol, index: int) -> str:
    """An atom in words: its element and index, e.g. `C3`."""
    return f"{molecule.GetAtomWithIdx(index).GetSymbol()}{index}"


def _refuse(name: str, what: str) -> NoReturn:
    raise InputError(f"structure {name}: forcefield: {what}. {ALTERNATIVES}")
