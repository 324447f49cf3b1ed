"""The house: which room may import from which, and that it stays a house.

docs/architecture.md has the same table, with what each room is for.
"""

import ast
import importlib
import tomllib
from pathlib import Path

import pytest

from conftest import ROOT

SOURCE = ROOT / "src"
TOP = "top"
ROOMS = (
    TOP,
    "config",
    "verdict",
    "domain",
    "systems",
    "teacher",
    "labels",
    "models",
    "exploration",
    "campaign",
    "final",
    "report",
    "commands",
)
"""A room imports only from rooms before it in this list, and from itself."""
FRONT_DOORS = {"halcyon.__main__"}
"""`python -m halcyon`: it hands on to a command, and nobody imports it."""


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    paths = sorted(SOURCE.rglob("*.py"))
    names = [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in paths]
    return dict(zip((name.removesuffix(".__init__") for name in names), paths, strict=True))


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else TOP


def imported(name: str, text: str, known: dict[str, Path]) -> set[str]:
    """Modules of Halcyon that a module imports, anywhere in it: at the top or in a function."""
    package = name if known[name].stem == "__init__" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in known else base)
    return {module for module in found if module.split(".")[0] == "halcyon"}


def wrong_arrows(known: dict[str, Path], texts: dict[str, str]) -> list[str]:
    """Imports that go from a room to one after it."""
    return [
        f"{name} imports {module}"
        for name in known
        if name not in FRONT_DOORS
        for module in sorted(imported(name, texts[name], known))
        if ROOMS.index(room(module)) > ROOMS.index(room(name)) or module in FRONT_DOORS
    ]


def texts_of(known: dict[str, Path]) -> dict[str, str]:
    return {name: path.read_text(encoding="utf-8") for name, path in known.items()}


def test_rooms_import_only_from_rooms_before_them():
    known = modules()
    assert wrong_arrows(known, texts_of(known)) == []


@pytest.mark.parametrize(
    "line",
    [
        "from halcyon.campaign import paths",
        "import halcyon.campaign.paths",
        "from halcyon import campaign",
        "def late():\n    from halcyon.campaign.campaign import Campaign",
        "from ..campaign import paths",
        "if TYPE_CHECKING:\n    from halcyon.campaign import paths",
    ],
)
def test_a_wrong_import_is_seen(line):
    known = modules()
    texts = texts_of(known)
    texts["halcyon.domain.index"] += f"\n{line}\n"
    assert len(wrong_arrows(known, texts)) == 1


def test_every_folder_of_the_library_is_a_room():
    folders = {p.name for p in (SOURCE / "halcyon").iterdir() if (p / "__init__.py").exists()}
    assert folders == set(ROOMS) - {TOP}


def test_the_entrance_stays_small():
    assert len(list((SOURCE / "halcyon").glob("*.py"))) <= 9


RIDDLES = {"told", "said", "mine", "found", "asked", "wanted", "one", "book"}
"""Names that say neither type nor meaning."""
MOST_PARAMETERS = 10


def program_texts() -> dict[str, ast.Module]:
    """The library and the stage programs, parsed."""
    paths = [*SOURCE.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in paths
    }


def test_names_say_what_they_are():
    riddles = [
        f"{path}:{node.lineno}: {name}"
        for path, text in program_texts().items()
        for node in ast.walk(text)
        if isinstance(node, ast.arg | ast.Name)
        for name in [node.arg if isinstance(node, ast.arg) else node.id]
        if name in RIDDLES
    ]
    assert riddles == []


def test_no_function_takes_more_than_ten_parameters():
    for path, text in program_texts().items():
        for node in ast.walk(text):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [parameter.arg for parameter in parameters if parameter.arg != "self"]
                assert len(names) <= MOST_PARAMETERS, f"{path}: {node.name}"


def test_no_circle_of_imports():
    known = modules()
    texts = texts_of(known)
    arrows = {name: imported(name, texts[name], known) - {name} for name in known}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' → '.join([*way[way.index(name) :], name])}"
        if name in done:
            return
        for module in sorted(arrows.get(name, ())):
            visit(module, (*way, name))
        done.add(name)

    for name in known:
        visit(name, ())


def test_the_command_is_where_the_package_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["halcyon"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
