"""A level of theory: CP2K input without a structure, and what identifies it.

    from pathlib import Path
    from halcyon.labels.reference.cp2k.level import read_level

    level = read_level(Path("config/cp2k/pbe-d3-dzvp.yaml"))
    level.kind("O")["POTENTIAL"]  # "GTH-PBE-q6"

The file is YAML (in the format of cp2k-input-tools) or plain CP2K input. Its `PRINT` sections are
ignored: Halcyon decides what a frame's calculation prints.

Not for: the input of a frame (`input`), or starting CP2K (`program`).
"""

import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from halcyon.errors import InputError
from halcyon.labels.reference.cp2k import kpoints
from halcyon.labels.reference.cp2k.consistency import (
    CP2K_CUTOFF_RY,
    CP2K_REL_CUTOFF_RY,
    check_consistency,
)
from halcyon.labels.reference.cp2k.entries import Entry, file_sha256, read_entries
from halcyon.labels.reference.cp2k.tree import Tree, leaves, read_tree, without_print

MERGE_VERSION = 1
"""Part of a level's identity. It is raised when `input.frame_tree` makes another calculation of the
same level and structure."""

MOLECULE_SOLVER = "WAVELET"
"""Poisson solver of molecules where the level names none; see docs/decisions/cp2k.md."""
STRUCTURE_SECTIONS = ("+COORD", "+CELL", "+TOPOLOGY", "+VELOCITY")
METHODS = ("GPW", "GAPW", "GAPW_XC", "LRIGPW", "RIGPW")
DATA_KEYWORDS = ("PARAMETER_FILE_NAME", "KERNEL_FILE_NAME", "T_C_G_DATA")
MACHINE_KEYWORDS = (
    "PROJECT_NAME",
    "RUN_TYPE",
    "PRINT_LEVEL",
    "PREFERRED_FFT_LIBRARY",
    "PREFERRED_DIAG_LIBRARY",
    "FFTW_PLAN_TYPE",
    "FFTW_WISDOM_FILE_NAME",
    "BLACS_GRID",
    "WALLTIME",
    "ECHO_INPUT",
    "TRACE",
    "+FM",
    "+DBCSR",
    "+TIMINGS",
    "+REFERENCES",
    "+PROGRAM_RUN_INFO",
)
"""Entries of GLOBAL that decide how CP2K runs, not what it computes."""


@dataclass(frozen=True)
class Cp2kLevel:
    """A level of theory for CP2K.

    Attributes:
        path: its file.
        tree: its content, without PRINT sections.
        k_spacing_per_A: largest distance of the k-points of periodic frames, 1/Å; None: Γ alone.
    """

    path: Path
    tree: Tree
    k_spacing_per_A: float | None = None

    @property
    def force_eval(self) -> Tree:
        """The FORCE_EVAL section, of which a level has exactly one."""
        return self.tree["+FORCE_EVAL"][0]

    @property
    def dft(self) -> Tree:
        """The DFT section."""
        return self.force_eval["+DFT"]

    @property
    def kinds(self) -> dict[str, Tree]:
        """The KIND sections by chemical symbol, or DEFAULT."""
        sections = self.force_eval.get("+SUBSYS", {}).get("+KIND", [])
        return {_kind_name(section): section for section in sections}

    @property
    def molecule_solver(self) -> str:
        """Poisson solver of molecules."""
        return self.dft.get("+POISSON", {}).get("POISSON_SOLVER", MOLECULE_SOLVER)

    def finer(self, factor: float) -> "Cp2kLevel":
        """The same level on a grid with so many times the CUTOFF and REL_CUTOFF."""
        finer = replace(self, tree=copy.deepcopy(self.tree))
        grid = finer.dft.setdefault("+MGRID", {})
        for keyword, default in (("CUTOFF", CP2K_CUTOFF_RY), ("REL_CUTOFF", CP2K_REL_CUTOFF_RY)):
            grid[keyword] = factor * float(grid.get(keyword, default))
        return finer

    def kind(self, element: str) -> Tree:
        """The KIND section of an element.

        Raises:
            InputError: there is none, and no DEFAULT.
        """
        section = self.kinds.get(element, self.kinds.get("DEFAULT"))
        if section is None:
            raise InputError(
                f"{self.path}: no section FORCE_EVAL/SUBSYS/KIND {element}; "
                f"the file has {', '.join(sorted(self.kinds)) or 'none'}"
            )
        return section

    def entries(self, element: str, data_dir: Path) -> dict[str, Entry]:
        """Basis sets and pseudopotential of an element, by `<keyword> <name>`.

        Raises:
            InputError: the level names none for this element, or its data files lack it.
        """
        section = self.kind(element)
        entries = {}
        if "+BASIS" not in section:
            for use, name in _basis_sets(section):
                entries[f"{use} {name}"] = self._entry("BASIS_SET", element, name, data_dir)
            if not any(key.startswith("ORB ") for key in entries):
                raise InputError(
                    f"{self.path}: KIND {_kind_name(section)}: expected the keyword BASIS_SET"
                )
        if "+POTENTIAL" not in section:
            if "POTENTIAL" not in section:
                raise InputError(
                    f"{self.path}: KIND {_kind_name(section)}: expected the keyword POTENTIAL"
                )
            name = _last(section["POTENTIAL"])
            entries[f"POTENTIAL {name}"] = self._entry("POTENTIAL", element, name, data_dir)
        return entries

    def valence_electrons(self, element: str, data_dir: Path) -> int:
        """Valence electrons of one atom.

        Raises:
            InputError: the level or its data files lack the element (see `entries`); or the
                pseudopotential is written into the level, which is not supported.
        """
        for key, entry in self.entries(element, data_dir).items():
            if key.startswith("POTENTIAL "):
                return entry.valence_electrons
        raise InputError(
            f"{self.path}: KIND {element}: expected a pseudopotential by name; "
            "one written into the input is not supported"
        )

    def data_files(self, data_dir: Path) -> dict[str, Path]:
        """Files of parameters that the level names besides basis sets and potentials.

        Raises:
            InputError: one is missing.
        """
        names = {
            str(value)
            for path, value in leaves(self.dft.get("+XC", {}))
            if str(path[-1]) in DATA_KEYWORDS
        }
        return {name: self._file(name, data_dir) for name in sorted(names)}

    def identity(self, data_dir: Path) -> Tree:
        """All that determines a label besides structure and program, as plain JSON values.

        Paths, print levels, the order of KIND sections and `MACHINE_KEYWORDS` are left out. Basis
        sets and pseudopotentials are identified by the hash of their entry, not of their file.

        Raises:
            InputError: a basis set, a pseudopotential or a file that the level names is missing.
        """
        tree = without_print(self.tree)
        settings = tree.get("+GLOBAL", {})
        tree["+GLOBAL"] = {k: v for k, v in settings.items() if k not in MACHINE_KEYWORDS}
        force_eval = tree["+FORCE_EVAL"][0]
        for name in ("BASIS_SET_FILE_NAME", "POTENTIAL_FILE_NAME"):
            force_eval["+DFT"].pop(name, None)
        force_eval["+DFT"].setdefault("+POISSON", {})["POISSON_SOLVER"] = self.molecule_solver
        for section in force_eval["+SUBSYS"]["+KIND"]:
            section["_"] = _kind_name(section)
            section.pop("POTENTIAL_FILE_NAME", None)
        force_eval["+SUBSYS"]["+KIND"].sort(key=lambda section: section["_"])
        return {
            "input": json.loads(json.dumps(tree, sort_keys=True)),
            "entries": {
                element: {key: entry.sha256 for key, entry in entries.items()}
                for element, entries in self._all_entries(data_dir)
            },
            "data_files": {
                Path(name).name: file_sha256(path)
                for name, path in self.data_files(data_dir).items()
            },
            "merge": MERGE_VERSION,
        } | ({"k_spacing_per_A": self.k_spacing_per_A} if self.k_spacing_per_A else {})

    def data_file_paths(
        self, keyword: str, data_dir: Path, section: Tree | None = None
    ) -> list[Path]:
        """Files with basis sets (keyword BASIS_SET) or pseudopotentials (POTENTIAL).

        Args:
            keyword: which of both.
            data_dir: CP2K's data folder.
            section: a KIND section that may name files of its own.

        Raises:
            InputError: a file is missing.
        """
        key = f"{keyword}_FILE_NAME"
        names = (section or {}).get(key) or self.dft.get(key, keyword)
        return [
            self._file(name, data_dir) for name in ([names] if isinstance(names, str) else names)
        ]

    def _all_entries(self, data_dir: Path) -> Iterator[tuple[str, dict[str, Entry]]]:
        for name, section in sorted(self.kinds.items()):
            if name != "DEFAULT":
                yield name, self.entries(name, data_dir)
                continue
            # DEFAULT stands for every element that the data files have.
            potential = _last(section["POTENTIAL"]).upper() if "POTENTIAL" in section else ""
            for path in self.data_file_paths("POTENTIAL", data_dir, section):
                elements = {e.element for e in read_entries(path) if potential in e.names}
                for element in sorted(elements - self.kinds.keys()):
                    try:
                        yield f"DEFAULT {element}", self.entries(element, data_dir)
                    except InputError:  # without the basis set the element cannot be computed
                        continue

    def _entry(self, keyword: str, element: str, name: str, data_dir: Path) -> Entry:
        paths = self.data_file_paths(keyword, data_dir, self.kind(element))
        available = set()
        for path in paths:
            for entry in read_entries(path):
                if name.upper() in entry.names:
                    if entry.element == element:
                        return entry
                    available.add(entry.element)
        what = "basis set" if keyword == "BASIS_SET" else "pseudopotential"
        has = (
            f"the files have it for {', '.join(sorted(available))}"
            if available
            else "the files have it for no element"
        )
        raise InputError(
            f"{self.path}: KIND {element}: {keyword} {name}: no such {what} for {element} in "
            f"{', '.join(str(path) for path in paths)}; {has}"
        )

    def _file(self, name: str, data_dir: Path) -> Path:
        path = data_dir / name  # an absolute name stays as it is
        if not path.is_file():
            raise InputError(
                f"{self.path}: names the data file {name}: not found in {data_dir} "
                "(set `data_dir` or CP2K_DATA_DIR to CP2K's data folder)"
            )
        return path


def read_level(path: Path, k_spacing_per_A: float | None = None) -> Cp2kLevel:
    """Read a level of theory and check that it is one.

    Args:
        path: its file.
        k_spacing_per_A: see `Cp2kLevel`.

    Raises:
        InputError: missing, not valid CP2K input, with a structure in it, or contradicting
            itself (`consistency`); the message names the file, and the section and keyword at
            fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected the level of theory, "
            "CP2K input as YAML or plain"
        ) from error
    level = Cp2kLevel(path, without_print(read_tree(path, text)), k_spacing_per_A)
    _check_level(level)
    if k_spacing_per_A:
        kpoints.check_level(path, level.dft)
    return level


def _check_level(level: Cp2kLevel) -> None:
    _check_method(level)
    _check_structure_free(level)
    pair_potentials = level.dft.get("+XC", {}).get("+VDW_POTENTIAL", {}).get("+PAIR_POTENTIAL", [])
    for pair_potential in pair_potentials:
        dispersion = str(pair_potential.get("TYPE", "DFTD3"))
        if dispersion.startswith("DFTD3") and "PARAMETER_FILE_NAME" not in pair_potential:
            raise InputError(
                f"{level.path}: FORCE_EVAL/DFT/XC/VDW_POTENTIAL/PAIR_POTENTIAL: {dispersion} needs "
                "the keyword PARAMETER_FILE_NAME, usually dftd3.dat"
            )
    check_consistency(level.path, level.dft, level.kinds)


def _check_method(level: Cp2kLevel) -> None:
    sections = level.tree.get("+FORCE_EVAL", [])
    if len(sections) != 1:
        raise InputError(f"{level.path}: {len(sections)} sections FORCE_EVAL; expected exactly 1")
    method = level.force_eval.get("METHOD", "QS")
    if method not in ("QS", "QUICKSTEP") or "+DFT" not in level.force_eval:
        raise InputError(
            f"{level.path}: FORCE_EVAL: METHOD = {method}: expected QS and a section DFT"
        )
    if "+KPOINTS" in level.dft:
        raise InputError(
            f"{level.path}: section FORCE_EVAL/DFT/KPOINTS: a mesh that suits a cell is wrong for "
            "its supercell. Remove the section, and set reference.k_spacing_per_A, the distance of "
            "k-points, from which each frame gets its own mesh"
        )
    method = level.dft.get("+QS", {}).get("METHOD", "GPW")
    if method not in METHODS:
        raise InputError(
            f"{level.path}: FORCE_EVAL/DFT/QS: METHOD = {method}: expected one of "
            f"{', '.join(METHODS)}"
        )


def _check_structure_free(level: Cp2kLevel) -> None:
    for where, tree in (("", level.tree), ("FORCE_EVAL/", level.force_eval)):
        if "+EXT_RESTART" in tree:
            raise InputError(
                f"{level.path}: {where}EXT_RESTART: a level of theory cannot restart from a file"
            )
    if "WFN_RESTART_FILE_NAME" in level.dft:
        raise InputError(
            f"{level.path}: FORCE_EVAL/DFT/WFN_RESTART_FILE_NAME: a level of theory cannot start "
            "from a file; orbitals are reused by `reference.reuse_wavefunctions`"
        )
    subsys = level.force_eval.setdefault("+SUBSYS", {})
    for section in STRUCTURE_SECTIONS:
        if section in subsys:
            raise InputError(
                f"{level.path}: section FORCE_EVAL/SUBSYS/{section[1:]}: belongs to the structure, "
                "not to the level of theory; remove it"
            )
    if not subsys.get("+KIND"):
        raise InputError(f"{level.path}: expected sections FORCE_EVAL/SUBSYS/KIND")
    for keyword, tree in (
        ("CHARGE", level.dft),
        ("MULTIPLICITY", level.dft),
        ("PERIODIC", level.dft.get("+POISSON", {})),
    ):
        if keyword in tree:
            raise InputError(
                f"{level.path}: section FORCE_EVAL/DFT: keyword {keyword} = {tree[keyword]}: "
                "belongs to the structure, not to the level of theory; remove it"
            )


def _basis_sets(section: Tree) -> Iterator[tuple[str, str]]:
    """Use (ORB, AUX_FIT …) and name of each basis set of a KIND section."""
    values = section.get("BASIS_SET", [])
    for value in values if isinstance(values, list) else [values]:
        words = value if isinstance(value, tuple | list) else (value,)
        yield ("ORB" if len(words) == 1 else str(words[0]).upper()), str(words[-1])


def _kind_name(section: Tree) -> str:
    """Chemical symbol of a KIND section, or DEFAULT."""
    name = str(section.get("_", ""))
    return "DEFAULT" if name.upper() == "DEFAULT" else name.capitalize()


def _last(words: str | Iterable[str]) -> str:
    return words if isinstance(words, str) else list(words)[-1]
