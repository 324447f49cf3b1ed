"""CP2K's input: a level of theory from a file, what identifies it, and the input of one frame.

A level of theory is CP2K input without a structure, as YAML (the format of cp2k-input-tools) or
plain. In memory it is cp2k-input-tools' canonical tree: section names start with `+`, a section's
parameter has the name `_`, repeating sections and keywords are lists, aliases are resolved and
values converted to CP2K's default units. Every `PRINT` section of the level is ignored: what a
frame's calculation prints is ours to say.

Not for: starting CP2K or reading what it wrote; see `cp2k`.
"""

import copy
import gc
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml
from ase import Atoms
from ase.data import atomic_numbers
from cp2k_input_tools.generator import CP2KInputGenerator
from cp2k_input_tools.parser import CP2KInputParser

from halcyon.errors import InputError

Tree: TypeAlias = dict[str, Any]
TreePath: TypeAlias = tuple[str | int, ...]

MERGE_VERSION = 1
"""Counted up when the same level and structure become another calculation (see `frame_input`)."""

FORCES_FILE = "forces"
FORCE_DIGITS = 12
"""Digits after the decimal point of the forces in hartree/bohr: 5e-11 eV/Å."""

MOLECULE_SOLVER = "WAVELET"
"""Poisson solver of molecules where the level names none; see docs/decisions/cp2k.md."""

WALL_A = 2.0
"""Least distance of a nucleus from the wall of a molecule's box, Å; see docs/decisions/cp2k.md."""

YAML_SUFFIXES = (".yaml", ".yml")
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
"""Entries of GLOBAL that say how to run, not what to compute."""


@dataclass(frozen=True)
class Entry:
    """A basis set or a pseudopotential of one element, as a data file has it.

    Attributes:
        element: chemical symbol.
        names: all its names, upper case.
        text: its lines of numbers, runs of blanks made one.
    """

    element: str
    names: tuple[str, ...]
    text: str

    @property
    def sha256(self) -> str:
        """Hash of the element and the numbers; names and layout do not matter."""
        return hashlib.sha256(f"{self.element}\n{self.text}".encode()).hexdigest()

    @property
    def valence_electrons(self) -> int:
        """Electrons that are left to a pseudopotential's element: its first line, summed."""
        return sum(int(count) for count in self.text.splitlines()[0].split())


@dataclass(frozen=True)
class Level:
    """A level of theory: the file it came from, and its tree."""

    path: Path
    tree: Tree

    @property
    def force_eval(self) -> Tree:
        """The one FORCE_EVAL section."""
        return self.tree["+FORCE_EVAL"][0]

    @property
    def dft(self) -> Tree:
        """The DFT section."""
        return self.force_eval["+DFT"]

    @property
    def kinds(self) -> dict[str, Tree]:
        """The KIND sections by chemical symbol, or DEFAULT."""
        kinds = self.force_eval.get("+SUBSYS", {}).get("+KIND", [])
        return {_kind_name(kind): kind for kind in kinds}

    @property
    def molecule_solver(self) -> str:
        """Poisson solver of molecules."""
        return self.dft.get("+POISSON", {}).get("POISSON_SOLVER", MOLECULE_SOLVER)

    def kind(self, element: str) -> Tree:
        """The KIND section of an element.

        Raises:
            InputError: there is none, and no DEFAULT.
        """
        kind = self.kinds.get(element, self.kinds.get("DEFAULT"))
        if kind is None:
            raise InputError(
                f"{self.path}: no section FORCE_EVAL/SUBSYS/KIND {element}; "
                f"the file has {', '.join(sorted(self.kinds)) or 'none'}"
            )
        return kind

    def entries(self, element: str, data_dir: Path) -> dict[str, Entry]:
        """Basis sets and pseudopotential of an element, by `<keyword> <name>`.

        Raises:
            InputError: the level names none for this element, or its data files lack it.
        """
        kind = self.kind(element)
        found = {}
        if "+BASIS" not in kind:
            for use, name in _basis_sets(kind):
                found[f"{use} {name}"] = self._entry("BASIS_SET", element, name, data_dir)
            if not any(key.startswith("ORB ") for key in found):
                raise InputError(
                    f"{self.path}: KIND {_kind_name(kind)}: expected the keyword BASIS_SET"
                )
        if "+POTENTIAL" not in kind:
            if "POTENTIAL" not in kind:
                raise InputError(
                    f"{self.path}: KIND {_kind_name(kind)}: expected the keyword POTENTIAL"
                )
            name = _last(kind["POTENTIAL"])
            found[f"POTENTIAL {name}"] = self._entry("POTENTIAL", element, name, data_dir)
        return found

    def valence_electrons(self, element: str, data_dir: Path) -> int:
        """Electrons that one atom brings.

        Raises:
            InputError: as `entries`; or the pseudopotential is written into the level, which is
                not supported.
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
            for path, value in _leaves(self.dft.get("+XC", {}))
            if str(path[-1]) in DATA_KEYWORDS
        }
        return {name: self._file(name, data_dir) for name in sorted(names)}

    def identity(self, data_dir: Path) -> Tree:
        """All that determines a label besides structure and program, as plain JSON values.

        Paths, print levels, the order of KIND sections and what is the machine's are left out;
        of basis sets and pseudopotentials, the hash of the entry counts, not the file.

        Raises:
            InputError: a basis set, a pseudopotential or a file that the level names is missing.
        """
        tree = _without_print(self.tree)
        settings = tree.get("+GLOBAL", {})
        tree["+GLOBAL"] = {k: v for k, v in settings.items() if k not in MACHINE_KEYWORDS}
        force_eval = tree["+FORCE_EVAL"][0]
        for name in ("BASIS_SET_FILE_NAME", "POTENTIAL_FILE_NAME"):
            force_eval["+DFT"].pop(name, None)
        force_eval["+DFT"].setdefault("+POISSON", {})["POISSON_SOLVER"] = self.molecule_solver
        for kind in force_eval["+SUBSYS"]["+KIND"]:
            kind["_"] = _kind_name(kind)
            kind.pop("POTENTIAL_FILE_NAME", None)
        force_eval["+SUBSYS"]["+KIND"].sort(key=lambda kind: kind["_"])
        return {
            "input": json.loads(json.dumps(tree, sort_keys=True)),
            "entries": {
                element: {key: entry.sha256 for key, entry in found.items()}
                for element, found in self._all_entries(data_dir)
            },
            "data_files": {
                Path(name).name: _file_sha256(path)
                for name, path in self.data_files(data_dir).items()
            },
            "merge": MERGE_VERSION,
        }

    def data_file_paths(self, keyword: str, data_dir: Path, kind: Tree | None = None) -> list[Path]:
        """Files with basis sets (keyword BASIS_SET) or pseudopotentials (POTENTIAL).

        Raises:
            InputError: one is missing.
        """
        key = f"{keyword}_FILE_NAME"
        names = (kind or {}).get(key) or self.dft.get(key, keyword)
        return [
            self._file(name, data_dir) for name in ([names] if isinstance(names, str) else names)
        ]

    def _all_entries(self, data_dir: Path) -> Iterator[tuple[str, dict[str, Entry]]]:
        for name, kind in sorted(self.kinds.items()):
            if name != "DEFAULT":
                yield name, self.entries(name, data_dir)
                continue
            # It stands for every element that the files have.
            wanted = _last(kind["POTENTIAL"]).upper() if "POTENTIAL" in kind else ""
            for path in self.data_file_paths("POTENTIAL", data_dir, kind):
                elements = {e.element for e in read_entries(path) if wanted in e.names}
                for element in sorted(elements - self.kinds.keys()):
                    try:
                        yield f"DEFAULT {element}", self.entries(element, data_dir)
                    except InputError:  # a potential without the basis set: of no use to anyone
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
            f"it is there for {', '.join(sorted(available))}" if available else "no element has it"
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


def read_level(path: Path) -> Level:
    """Read a level of theory and check that it is one.

    Raises:
        InputError: missing, not valid CP2K input, or with a structure in it; the message names
            the file, and the section and keyword at fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected the level of theory, "
            "CP2K input as YAML or plain"
        ) from error
    # cp2k-input-tools reads CP2K's whole schema, 27 MB of XML: 1 s, but 5 s when the garbage
    # collector looks through it again and again while it grows.
    collecting = gc.isenabled()
    gc.disable()
    try:
        if path.suffix in YAML_SUFFIXES:
            text = _plain_input(path, text)
        tree = _parse(path, text)
    finally:
        if collecting:
            gc.enable()
    level = Level(path, _without_print(tree))
    _check_level(level)
    return level


def frame_input(level: Level, atoms: Atoms, data_dir: Path) -> str:
    """CP2K input for energy and forces of one frame.

    A molecule (no pbc) is moved to the centre of its cubic box, PERIODIC NONE, with the level's
    Poisson solver; a periodic frame keeps its cell, PERIODIC XYZ. Data files are named by their
    absolute paths, so that the input runs anywhere on this machine.

    Raises:
        InputError: the frame cannot be computed at this level: see `check_frame`.
    """
    check_frame(level, atoms, data_dir)
    tree = copy.deepcopy(level.tree)
    tree["+GLOBAL"] = tree.get("+GLOBAL", {}) | {
        "PROJECT_NAME": "frame",
        "RUN_TYPE": "ENERGY_FORCE",
        "PRINT_LEVEL": "LOW",
    }
    force_eval = tree["+FORCE_EVAL"][0]
    force_eval["+PRINT"] = {
        # `=` makes CP2K take the name as it is.
        "+FORCES": {"_": "ON", "FILENAME": f"={FORCES_FILE}", "NDIGITS": FORCE_DIGITS}
    }
    dft, subsys = force_eval["+DFT"], force_eval["+SUBSYS"]
    off = {"_": "OFF"}
    dft["+SCF"] = dft.get("+SCF", {}) | {"+PRINT": {"+RESTART": off, "+RESTART_HISTORY": off}}
    dft["CHARGE"] = atoms.info["charge"]
    dft["MULTIPLICITY"] = atoms.info["multiplicity"]
    if atoms.info["multiplicity"] > 1 and not dft.get("ROKS"):
        dft["UKS"] = True
    for keyword in ("BASIS_SET", "POTENTIAL"):
        paths = [str(path) for path in level.data_file_paths(keyword, data_dir)]
        dft[f"{keyword}_FILE_NAME"] = paths if keyword == "BASIS_SET" else paths[0]
    files = level.data_files(data_dir)
    for branch in _branches(dft.get("+XC", {})):
        for name in DATA_KEYWORDS:
            if name in branch:
                branch[name] = str(files[branch[name]])
    # Only kinds of this frame: CP2K looks up every KIND that it is given.
    symbols = atoms.get_chemical_symbols()
    subsys["+KIND"] = [
        level.kind(element) | {"_": element} for element in sorted(set(symbols), key=symbols.index)
    ]
    periodic = bool(atoms.pbc.all())
    positions = atoms.positions
    if not periodic:
        middle = (positions.max(axis=0) + positions.min(axis=0)) / 2
        positions = positions - middle + atoms.cell.lengths() / 2
    dft["+POISSON"] = dft.get("+POISSON", {}) | {
        "PERIODIC": "XYZ" if periodic else "NONE",
        "POISSON_SOLVER": "PERIODIC" if periodic else level.molecule_solver,
    }
    subsys["+CELL"] = {
        name: tuple(f"{length:.12f}" for length in vector)
        for name, vector in zip("ABC", atoms.cell.array, strict=True)
    } | {"PERIODIC": "XYZ" if periodic else "NONE"}
    subsys["+COORD"] = {
        "*": [
            f"{symbol} {x:.12f} {y:.12f} {z:.12f}"
            for symbol, (x, y, z) in zip(symbols, positions, strict=True)
        ]
    }
    return "\n".join(_lines(tree)) + "\n"


def check_frame(level: Level, atoms: Atoms, data_dir: Path) -> None:
    """Check what CP2K would refuse or, worse, not notice.

    Raises:
        InputError: an element is missing from the level; charge and multiplicity do not go with
            the electrons; there is no box, or it is too small; partial periodicity.
    """
    name = f"structure {atoms.info.get('structure', '?')}"
    if not np.isfinite(atoms.positions).all():
        raise InputError(f"{name}: a position is not a finite number")
    _check_box(level, atoms, name)
    charge, multiplicity = atoms.info["charge"], atoms.info["multiplicity"]
    valence = {
        element: level.valence_electrons(element, data_dir)
        for element in sorted(set(atoms.get_chemical_symbols()))
    }
    electrons = sum(valence[element] for element in atoms.get_chemical_symbols()) - charge
    if electrons < multiplicity - 1 or (electrons - multiplicity + 1) % 2:
        raise InputError(
            f"{name}: charge = {charge}, multiplicity = {multiplicity}: impossible with "
            f"{electrons} valence electrons; expected an {'even' if electrons % 2 else 'odd'} "
            "multiplicity"
        )


@lru_cache(maxsize=16)
def read_entries(path: Path) -> tuple[Entry, ...]:
    """Basis sets or pseudopotentials of a data file of CP2K, in the file's order.

    An entry is a line with an element and names, and the lines of numbers that follow it.
    """
    entries: list[tuple[str, tuple[str, ...], list[str]]] = []
    for raw in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = raw.partition("#")[0].partition("!")[0].split()
        if not words:
            continue
        element = words[0].capitalize()
        if element in atomic_numbers and len(words) > 1 and not _is_number(words[1]):
            entries.append((element, tuple(word.upper() for word in words[1:]), []))
        elif entries:
            entries[-1][2].append(" ".join(words))
    return tuple(Entry(element, names, "\n".join(lines)) for element, names, lines in entries)


def _check_box(level: Level, atoms: Atoms, name: str) -> None:
    if atoms.pbc.all():
        if atoms.cell.rank < 3:
            raise InputError(f"{name}: periodic, but without a cell of three vectors")
        return
    if atoms.pbc.any():
        raise InputError(
            f"{name}: pbc = {atoms.pbc.tolist()}: expected periodic along all three vectors or none"
        )
    extent = float(np.ptp(atoms.positions, axis=0).max())
    # MT needs twice the extent of the density (G. J. Martyna, M. E. Tuckerman, J. Chem. Phys.
    # 110, 2810 (1999)), which ends about WALL_A beyond the nuclei.
    needed = extent + 2 * WALL_A
    if level.molecule_solver == "MT":
        needed = max(needed, 2 * extent)
    if atoms.cell.rank == 0:
        raise InputError(
            f"{name}: no box; CP2K needs `box_A`, the edge of a cubic box around the molecule: "
            f"at least {needed:.1f} Å"
        )
    edge = float(atoms.cell.array[0, 0])
    if not np.allclose(atoms.cell.array, edge * np.eye(3), atol=1e-6):
        raise InputError(
            f"{name}: cell = {atoms.cell.array.tolist()}: a molecule needs a cubic box along the "
            "axes (`box_A`)"
        )
    if edge < needed:
        raise InputError(
            f"{name}: box_A = {edge:g}: the molecule extends over {extent:.2f} Å; expected at "
            f"least {needed:.1f} Å ({level.molecule_solver} Poisson solver, {WALL_A:g} Å between "
            "every nucleus and the wall)"
        )


def _check_level(level: Level) -> None:
    _check_method(level)
    _check_structure_free(level)
    pair_potentials = level.dft.get("+XC", {}).get("+VDW_POTENTIAL", {}).get("+PAIR_POTENTIAL", [])
    for pair_potential in pair_potentials:
        kind = str(pair_potential.get("TYPE", "DFTD3"))
        if kind.startswith("DFTD3") and "PARAMETER_FILE_NAME" not in pair_potential:
            raise InputError(
                f"{level.path}: FORCE_EVAL/DFT/XC/VDW_POTENTIAL/PAIR_POTENTIAL: {kind} needs the "
                "keyword PARAMETER_FILE_NAME, usually dftd3.dat"
            )


def _check_method(level: Level) -> None:
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
            f"{level.path}: section FORCE_EVAL/DFT/KPOINTS: k-points are not supported; use a "
            "larger cell"
        )
    method = level.dft.get("+QS", {}).get("METHOD", "GPW")
    if method not in METHODS:
        raise InputError(
            f"{level.path}: FORCE_EVAL/DFT/QS: METHOD = {method}: expected one of "
            f"{', '.join(METHODS)}"
        )


def _check_structure_free(level: Level) -> None:
    for where, tree in (("", level.tree), ("FORCE_EVAL/", level.force_eval)):
        if "+EXT_RESTART" in tree:
            raise InputError(
                f"{level.path}: {where}EXT_RESTART: a level of theory cannot restart from a file"
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


def _parse(path: Path, text: str) -> Tree:
    handle = io.StringIO(text)
    parser = CP2KInputParser(base_dir=str(path.parent), key_trafo=str.upper)
    try:
        return parser.parse(handle)
    except Exception as error:
        # The parser stumbles over its own missing context where a section's parameter is wrong.
        fault = error.__context__ if isinstance(error, IndexError) else error
        said = [str(one.args[0]) for one in (fault, fault and fault.__cause__) if one and one.args]
        # It does not always tell where it was; how far it read does.
        read = text[: handle.tell()].splitlines()
        where = f"{path}:{len(read)}" if path.suffix not in YAML_SUFFIXES else f"{path}"
        raise InputError(
            f"{where}: section {_section_at(read)}: {read[-1].strip() if read else ''!r}: "
            f"{': '.join(said) or type(error).__name__} "
            "(says cp2k-input-tools, which knows CP2K 2024.1)"
        ) from error


def _section_at(lines: list[str]) -> str:
    """Path of the section that the last of these lines of CP2K input is in."""
    names: list[str] = []
    for line in lines[:-1]:
        words = line.split()
        if not words or not words[0].startswith("&"):
            continue
        if words[0].upper().startswith("&END"):
            names = names[:-1]
        else:
            names.append(words[0][1:].upper())
    return "/".join(names) or "(top)"


def _plain_input(path: Path, text: str) -> str:
    """Turn YAML into plain CP2K input."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({error})") from error
    content = _content(path, node) if node is not None else {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected CP2K's sections as `name: …` lines")
    generator = CP2KInputGenerator()
    try:
        return "\n".join(generator.line_iter(content))
    except Exception as error:
        # The generator does not say where: find the first value that it refuses alone.
        fault, where = error, ""
        for leaf, value in _leaves(content):
            try:
                list(generator.line_iter(_branch(leaf, value)))
            except Exception as alone:  # noqa: BLE001 — its exceptions have no common base
                names = [str(name).upper() for name in leaf if not isinstance(name, int)]
                where = f"section {'/'.join(names[:-1]) or '(top)'}: keyword {names[-1]}: "
                fault = alone
                break
        raise InputError(
            f"{path}: {where}{fault or type(fault).__name__} "
            "(says cp2k-input-tools, which knows CP2K 2024.1)"
        ) from error


def _content(path: Path, node: yaml.Node) -> Any:
    """Value of a YAML node with all scalars as text, so that OFF stays OFF and 1E-6 itself."""
    if isinstance(node, yaml.MappingNode):
        content: Tree = {}
        for key, value in node.value:
            if key.value.lower() in {known.lower() for known in content}:
                raise InputError(
                    f"{path}:{key.start_mark.line + 1}: {key.value}: stands twice in one section"
                )
            content[key.value] = _content(path, value)
        return content
    if isinstance(node, yaml.SequenceNode):
        return [_content(path, value) for value in node.value]
    return {} if node.tag == "tag:yaml.org,2002:null" else node.value


def _leaves(tree: Any, path: TreePath = ()) -> Iterator[tuple[TreePath, Any]]:
    """Every keyword's value, with the names that lead to it; an empty section counts as one."""
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from _leaves(value, (*path, name))
    elif isinstance(tree, list) and tree and isinstance(tree[0], dict):
        for index, value in enumerate(tree):
            yield from _leaves(value, (*path, index))
    elif path:
        yield path, tree


def _branch(path: TreePath, value: Any) -> Any:
    """Build the tree with one leaf only."""
    for name in reversed(path):
        value = [value] if isinstance(name, int) else {name: value}
    return value


def _branches(tree: Tree) -> Iterator[Tree]:
    """Yield the section and every section below it."""
    yield tree
    for name, value in tree.items():
        if name.startswith("+"):
            for section in value if isinstance(value, list) else [value]:
                yield from _branches(section)


def _without_print(tree: Tree) -> Tree:
    """Copy of the tree without any PRINT section."""
    copied: Tree = {}
    for name, value in tree.items():
        if name == "+PRINT":
            continue
        if name.startswith("+"):
            sections = value if isinstance(value, list) else [value]
            sections = [_without_print(section) for section in sections]
            copied[name] = sections if isinstance(value, list) else sections[0]
        else:
            copied[name] = value
    return copied


def _lines(tree: Tree, indent: str = "") -> Iterator[str]:
    """Write a canonical tree as CP2K input."""
    for name, value in tree.items():
        if name.startswith("+"):
            for section in value if isinstance(value, list) else [value]:
                parameter = f" {_written(section['_'])}" if "_" in section else ""
                yield f"{indent}&{name[1:]}{parameter}"
                yield from _lines(section, indent + "  ")
                yield f"{indent}&END {name[1:]}"
        elif name == "*":
            yield from (f"{indent}{line}" for line in value)
        elif name != "_":
            for one in value if isinstance(value, list) else [value]:
                yield f"{indent}{name} {_written(one)}"


def _written(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(_written(one) for one in value)
    if isinstance(value, bool):
        return ".TRUE." if value else ".FALSE."
    text = str(value)
    return f'"{text}"' if any(character.isspace() for character in text) else text


def _basis_sets(kind: Tree) -> Iterator[tuple[str, str]]:
    """Use (ORB, AUX_FIT …) and name of each basis set of a KIND section."""
    values = kind.get("BASIS_SET", [])
    for value in values if isinstance(values, list) else [values]:
        words = value if isinstance(value, tuple | list) else (value,)
        yield ("ORB" if len(words) == 1 else str(words[0]).upper()), str(words[-1])


def _kind_name(kind: Tree) -> str:
    name = str(kind.get("_", ""))
    return "DEFAULT" if name.upper() == "DEFAULT" else name.capitalize()


def _last(words: str | Iterable[str]) -> str:
    return words if isinstance(words, str) else list(words)[-1]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=16)
def _file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
