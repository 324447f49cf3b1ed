"""CP2K input as a tree: read from YAML or plain input, walked, and written.

    from pathlib import Path
    from halcyon.labels.reference.cp2k.tree import lines, read_tree

    path = Path("config/cp2k/pbe-d3-dzvp.yaml")
    for line in lines(read_tree(path, path.read_text())):
        print(line)

The tree is cp2k-input-tools' canonical one: section names start with `+`, a section's parameter
has the name `_`, repeating sections and keywords are lists, aliases are resolved and values
converted to CP2K's default units.

Not for: what the sections mean (`level`, `input`).
"""

import gc
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from cp2k_input_tools.generator import CP2KInputGenerator
from cp2k_input_tools.parser import CP2KInputParser

from halcyon.errors import InputError

Tree: TypeAlias = dict[str, Any]
TreePath: TypeAlias = tuple[str | int, ...]

YAML_SUFFIXES = (".yaml", ".yml")


def read_tree(path: Path, text: str) -> Tree:
    """Parse CP2K input, YAML or plain by the suffix of `path`.

    Raises:
        InputError: not valid; the message names the file, and the section and keyword at fault.
    """
    # cp2k-input-tools reads CP2K's whole schema, 27 MB of XML. That takes 1 s, but 5 s when the
    # garbage collector searches it again and again while it grows.
    collecting = gc.isenabled()
    gc.disable()
    try:
        if path.suffix in YAML_SUFFIXES:
            text = _plain_input(path, text)
        return _parse(path, text)
    finally:
        if collecting:
            gc.enable()


def leaves(tree: Any, path: TreePath = ()) -> Iterator[tuple[TreePath, Any]]:
    """Yield every keyword's value with the names that lead to it, and every empty section."""
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from leaves(value, (*path, name))
    elif isinstance(tree, list) and tree and isinstance(tree[0], dict):
        for index, value in enumerate(tree):
            yield from leaves(value, (*path, index))
    elif path:
        yield path, tree


def branches(tree: Tree) -> Iterator[Tree]:
    """Yield the section and every section below it."""
    yield tree
    for name, value in tree.items():
        if name.startswith("+"):
            for section in value if isinstance(value, list) else [value]:
                yield from branches(section)


def without_print(tree: Tree) -> Tree:
    """Copy of the tree without any PRINT section."""
    copied: Tree = {}
    for name, value in tree.items():
        if name == "+PRINT":
            continue
        if name.startswith("+"):
            sections = value if isinstance(value, list) else [value]
            sections = [without_print(section) for section in sections]
            copied[name] = sections if isinstance(value, list) else sections[0]
        else:
            copied[name] = value
    return copied


def lines(tree: Tree, indent: str = "") -> Iterator[str]:
    """Write a tree as CP2K input, line by line."""
    for name, value in tree.items():
        if name.startswith("+"):
            for section in value if isinstance(value, list) else [value]:
                parameter = f" {_written(section['_'])}" if "_" in section else ""
                yield f"{indent}&{name[1:]}{parameter}"
                yield from lines(section, indent + "  ")
                yield f"{indent}&END {name[1:]}"
        elif name == "*":
            yield from (f"{indent}{line}" for line in value)
        elif name != "_":
            for repeated in value if isinstance(value, list) else [value]:
                yield f"{indent}{name} {_written(repeated)}"


def _written(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(_written(part) for part in value)
    if isinstance(value, bool):
        return ".TRUE." if value else ".FALSE."
    text = str(value)
    return f'"{text}"' if any(character.isspace() for character in text) else text


def _parse(path: Path, text: str) -> Tree:
    handle = io.StringIO(text)
    parser = CP2KInputParser(base_dir=str(path.parent), key_trafo=str.upper)
    try:
        return parser.parse(handle)
    except Exception as error:
        # Where a section's parameter is wrong, the parser fails a second time, with an IndexError.
        fault = error.__context__ if isinstance(error, IndexError) else error
        messages = [
            str(cause.args[0])
            for cause in (fault, fault and fault.__cause__)
            if cause and cause.args
        ]
        # The parser does not always tell the line; it is the last one that was read.
        read_lines = text[: handle.tell()].splitlines()
        last = read_lines[-1].strip() if read_lines else ""
        where = f"{path}:{len(read_lines)}" if path.suffix not in YAML_SUFFIXES else f"{path}"
        raise InputError(
            f"{where}: section {_section_at(read_lines)}: {last!r}: "
            f"{': '.join(messages) or type(error).__name__} "
            "(message of cp2k-input-tools, which knows CP2K 2024.1)"
        ) from error


def _section_at(lines: list[str]) -> str:
    """Path of the section in which the last of these lines of CP2K input stands."""
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
        # The generator does not tell which value it refuses: each is tried alone.
        fault, where = error, ""
        for leaf, value in leaves(content):
            try:
                list(generator.line_iter(_branch(leaf, value)))
            except Exception as alone:  # noqa: BLE001 — its exceptions have no common base
                names = [str(name).upper() for name in leaf if not isinstance(name, int)]
                where = f"section {'/'.join(names[:-1]) or '(top)'}: keyword {names[-1]}: "
                fault = alone
                break
        raise InputError(
            f"{path}: {where}{fault or type(fault).__name__} "
            "(message of cp2k-input-tools, which knows CP2K 2024.1)"
        ) from error


def _content(path: Path, node: yaml.Node) -> Any:
    """Value of a YAML node, scalars as text: `OFF` must not become false, nor `1E-6` a number."""
    if isinstance(node, yaml.MappingNode):
        content: Tree = {}
        for key, value in node.value:
            if key.value.lower() in {known.lower() for known in content}:
                raise InputError(
                    f"{path}:{key.start_mark.line + 1}: {key.value}: is given twice in one section"
                )
            content[key.value] = _content(path, value)
        return content
    if isinstance(node, yaml.SequenceNode):
        return [_content(path, value) for value in node.value]
    return {} if node.tag == "tag:yaml.org,2002:null" else node.value


def _branch(path: TreePath, value: Any) -> Any:
    """A tree with this leaf only."""
    for name in reversed(path):
        value = [value] if isinstance(name, int) else {name: value}
    return value
