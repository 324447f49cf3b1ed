"""What YAML would read otherwise than a person does: refused, with the line and the way out.

    from halcyon.config.yaml_traps import refuse_traps

    refuse_traps("box_A: 1:30", "config/systems/water.yaml")  # InputError: `1:30` reads as 90 …

YAML 1.1, which Snakemake and PyYAML read, takes `1:30` for the number 90, `010` for 8, `NO` for
false and `2026-11-28` for a date, and of a key that stands twice it silently keeps the last.

Not for: whether keys and values are known (`faults`).
"""

import re
from collections.abc import Iterator

import yaml

from halcyon.errors import InputError

DEEPEST = 50
"""Levels of nesting that a configuration may have; the shipped ones have at most 6."""
BOOLEANS = ("true", "false")
"""Words for a truth value that read alike in all versions of YAML, in any case."""
PLAIN = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp", "merge")
}
"""Types of values that a configuration may have; a date is refused with a message of its own."""
SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
OCTAL = re.compile(r"[-+]?0[0-7_]+")


def refuse_traps(text: str, source: str) -> None:
    """Check the text of a YAML file.

    Args:
        text: content of the file.
        source: name of the file for messages.

    Raises:
        InputError: a line for each trap, with the file and the line's number; or it is not YAML.
    """
    # YAML's parser recurses once for each level: refuse before it does.
    if _nesting(text) > DEEPEST:
        raise InputError(
            f"{source}: nested deeper than {DEEPEST} levels of brackets: expected a configuration "
            "of `key: value` lines"
        )
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not valid YAML ({error})") from error
    except RecursionError:
        raise InputError(
            f"{source}: nested too deeply: expected a configuration of `key: value` lines"
        ) from None
    if node is not None and (traps := list(_traps(node, (), set()))):
        raise InputError("\n".join(f"{source}: line {line}: {trap}" for line, trap in traps))


def _nesting(text: str) -> int:
    """The greatest number of brackets that are open at once, an upper bound."""
    depth = deepest = 0
    for character in text:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth = max(0, depth - 1)
    return deepest


def _traps(node: yaml.Node, keys: tuple[str, ...], seen: set[int]) -> Iterator[tuple[int, str]]:
    """Line and description of each trap in a node, whose place is given by its keys.

    An alias (`*name`) is the node that it names, even if it stands in it: each node is seen once.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if node.tag not in PLAIN:
        shown = node.value if isinstance(node, yaml.ScalarNode) else node.tag
        yield (
            node.start_mark.line + 1,
            f"{'.'.join(keys)}: {shown}: YAML reads this as {node.tag.rpartition(':')[2]!r}: "
            "expected a number, text, list or section; quote it if it is text",
        )
        return
    match node:
        case yaml.MappingNode():
            yield from _repeated_keys(node, keys)
            for key, value in node.value:
                place = (*keys, str(key.value))
                yield from _traps(key, place, seen)
                yield from _traps(value, place, seen)
        case yaml.SequenceNode():
            for number, value in enumerate(node.value):
                yield from _traps(value, (*keys, str(number)), seen)
        case yaml.ScalarNode(style=None):  # plain, not quoted
            if misreading := _misreading(node):
                yield (
                    node.start_mark.line + 1,
                    f"{'.'.join(keys)}: {node.value}: YAML reads this as {misreading}: write it "
                    f'otherwise, or quote it ("{node.value}") if it is text',
                )


def _repeated_keys(node: yaml.MappingNode, keys: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and description of each key that stands twice in a mapping."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            yield (
                line,
                f"{'.'.join((*keys, name))} stands here and in line {lines[name]}: the first would "
                "be ignored; keep one",
            )
        lines[name] = line


def _misreading(node: yaml.ScalarNode) -> str:
    """What YAML makes of a plain word that a person reads otherwise; empty where they agree."""
    tag, word = node.tag.rpartition(":")[2], node.value
    if tag in ("int", "float") and SEXAGESIMAL.fullmatch(word):
        return f"the number {yaml.safe_load(word):g} (base 60)"
    if tag == "int" and OCTAL.fullmatch(word):
        return f"the number {yaml.safe_load(word)} (base 8)"
    if tag == "bool" and word.lower() not in BOOLEANS:
        return str(yaml.safe_load(word)).lower()
    return "a date" if tag == "timestamp" else ""
