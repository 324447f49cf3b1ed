"""docs/architecture.md against the code: the rooms, and every function that it names."""

import importlib
import re

import pytest

from conftest import ROOT

TEXT = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
HOUSE = (ROOT / "tests/unit/test_house.py").read_text(encoding="utf-8")


def rooms_of_the_test() -> list[str]:
    block = HOUSE[HOUSE.index("ROOMS = (") : HOUSE.index(")\n", HOUSE.index("ROOMS = ("))]
    return re.findall(r'"(\w+)"', block)


def named() -> list[str]:
    """Dotted names whose first word is a room, e.g. `verdict.saturation.decide`."""
    words = re.findall(r"`([a-z_]+(?:\.\w+)+)`", TEXT)
    rooms = set(rooms_of_the_test())
    return sorted(
        {w for w in words if w.split(".")[0] in rooms and not w.endswith((".py", ".smk"))}
    )


def test_the_rooms_are_those_that_the_test_enforces():
    table = TEXT[TEXT.index("## The rooms") : TEXT.index("## The way")]
    assert re.findall(r"^\| `\(?(\w+)\)?`", table, re.MULTILINE) == ["top", *rooms_of_the_test()]


def test_many_functions_are_named():
    assert len(named()) > 30


@pytest.mark.parametrize("name", named())
def test_what_is_named_is_there(name):
    parts = ["halcyon", *name.split(".")]
    for length in range(len(parts), 1, -1):
        try:
            place = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            place = getattr(place, part)
        return
    pytest.fail(f"docs/architecture.md names {name}, which is nowhere")


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:tests|scripts|workflow|docs|src)/[\w/.]+)`", TEXT)))
)
def test_paths_that_are_named_are_there(path):
    assert (ROOT / path).exists()
