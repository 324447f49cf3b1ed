"""The documentation's code blocks run.

Blocks are found by Sybil. `python` and `bash` blocks run, page by page from the top, in a copy of
the repository; `yaml` blocks are checked against the configuration's models, and any block whose
first line is a comment with a path is put there first. `sh` and `py` are only shown: `SHOWN` lists
them.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser

from conftest import ROOT
from halcyon import config

PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "config/README.md"]
    + [p for p in (ROOT / "docs").rglob("*.md") if "decisions" not in p.parts]
)
PARTS = ("Snakefile", "workflow", "profiles", "scripts", "src", "config", "docs", "pyproject.toml")
SHOWN = {
    "README.md": ["make run ", "make run CONFIG", "source .venv"],
    "docs/add-a-system.md": ["halcyon plan", "snakemake --configfile config/nacl-xtb.yaml"],
    "docs/production.md": [
        "from halcyon.final.monitor.ase",
        "from ase.io import read",
        "from ase.calculators.socketio",
    ],
    "docs/exact-states.md": ["halcyon states "],
    "docs/exams.md": ["python benchmarks/exam.py "],
    "docs/index.md": ["make run ", "source .venv", "snakemake --configfile", "make run CONFIG"],
}
"""Blocks that are not run, by how they begin: they install, or take minutes or a cluster."""
NEEDS_CP2K = {"docs/add-a-system.md"}
"""Pages whose blocks ask CP2K whether it can use a level of theory."""
RUN_S = 900
"""A hung block is an error; on a quiet core each takes seconds."""
NAMED = re.compile(r"(?:#|<!--) *([\w./-]+\.(?:yaml|xml|txt))\b")


def ignored(example) -> None:
    """A block that is only shown."""


def in_copy(example) -> None:
    """Run a bash block in the page's copy."""
    folder = example.namespace["folder"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example.parsed],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(folder / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=RUN_S,
    )
    assert done.returncode == 0, done.stdout


def python_in_copy(example) -> None:
    """Run a python block in the page's copy, in a process of its own."""
    script = example.namespace["folder"] / ".block.py"
    script.write_text(example.parsed)
    example.parsed = f"{sys.executable} {script}"
    in_copy(example)


def put_in_place(example) -> None:
    """Write a block that says which file it is."""
    if named := NAMED.match(example.parsed):
        path = example.namespace["folder"] / named[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(example.parsed)


def check_yaml(example) -> None:
    """See that every key and value of a system's or campaign's file, or of a part, is known."""
    put_in_place(example)
    content = yaml.safe_load(example.parsed)
    assert isinstance(content, dict)
    campaign = {"campaign": "it", "systems": ["it"], "reference": {"backend": "xtb"}}
    system = {"name": "it", "structures": [{"name": "it", "smiles": "CCO"}]}
    source = f"{example.path}:{example.line}"
    if content.keys() & {"structures", "forcefield", "overrides"}:
        whole = system | content
        named = {entry["name"] for entry in whole["structures"]}
        packed = {name for entry in whole["structures"] for name in entry.get("pack", ())}
        left_out = [{"name": name, "smiles": "C"} for name in sorted(packed - named)]
        parsed = config.System.model_validate(
            whole | {"structures": whole["structures"] + left_out}
        )
        config.settings_for(config.parse_campaign(campaign, source), parsed)
    else:
        config.parse_campaign(campaign | content, source)


SYBIL = Sybil(
    [
        CodeBlockParser("python", python_in_copy),
        CodeBlockParser("bash", in_copy),
        CodeBlockParser("yaml", check_yaml),
        CodeBlockParser("xml", put_in_place),
        CodeBlockParser("sh", ignored),
        CodeBlockParser("py", ignored),
    ]
)


def blocks(page: Path) -> list:
    return list(SYBIL.parse(page).examples())


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_every_language_is_known():
    """A block of another language would be neither run nor listed."""
    known = {"python", "bash", "yaml", "xml", "sh", "py", "text"}
    for page in PAGES:
        fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(fences[::2]) <= known, name(page)


def test_what_is_shown_only_is_listed():
    for page in PAGES:
        shown = [e.parsed for e in blocks(page) if e.region.evaluator is ignored]
        listed = SHOWN.get(name(page), [])
        assert len(shown) == len(listed), name(page)
        for text, begin in zip(shown, listed, strict=True):
            assert text.startswith(begin), name(page)


@pytest.fixture
def folder(tmp_path):
    skipped = shutil.ignore_patterns("__pycache__", "figures")
    for part in PARTS:
        source = ROOT / part
        if source.is_symlink():
            (tmp_path / part).symlink_to(source.readlink())
        elif source.is_dir():
            shutil.copytree(source, tmp_path / part, ignore=skipped)
        else:
            shutil.copy(source, tmp_path / part)
    return tmp_path


def marked(page: Path):
    return pytest.param(page, marks=[pytest.mark.cp2k] if name(page) in NEEDS_CP2K else [])


@pytest.mark.parametrize("page", [marked(p) for p in PAGES if blocks(p)], ids=name)
def test_blocks_run(page, folder):
    for example in blocks(page):
        example.namespace["folder"] = folder
        try:
            example.evaluate()
        except Exception as error:
            raise AssertionError(f"{name(page)}:{example.line}: {error}") from error
