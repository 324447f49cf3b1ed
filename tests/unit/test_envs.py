"""One set of versions everywhere, and programs that answer to --help."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from conftest import ROOT

ENVS = sorted((ROOT / "envs").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
ON_CONDA = {"pytorch": "torch"}
"""Packages that conda-forge calls by another name."""
NO_PYTHON_PACKAGE = {"python", "cp2k", "pip"}
"""In environments, but nothing that pip installs."""


def constraints() -> dict[str, Version]:
    """Version of each package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(pins), "only name==version lines: no paths, no build suffixes"
    return {canonicalize_name(pin[1]): Version(pin[2]) for pin in pins}


def pins_of(env: Path) -> list[tuple[str, str]]:
    """(name on PyPI, version as written) of each pinned Python package of an environment."""
    entries = yaml.safe_load(env.read_text(encoding="utf-8"))["dependencies"]
    pip = [line for entry in entries if isinstance(entry, dict) for line in entry["pip"]]
    conda = [entry for entry in entries if isinstance(entry, str)]
    split = [re.split("==?", entry, maxsplit=1) for entry in [*conda, *pip]]
    split = [parts for parts in split if parts[0] not in NO_PYTHON_PACKAGE]
    unpinned = [parts[0] for parts in split if len(parts) == 1]
    assert not unpinned, f"{env.name}: without a version: {unpinned}"
    return [(ON_CONDA.get(name, name), version) for name, version in split]


@pytest.mark.parametrize("env", ENVS, ids=lambda env: env.stem)
def test_pins_agree_with_constraints(env):
    known = constraints()
    for name, written in pins_of(env):
        # `=2.14` in an environment means any 2.14.x.
        pinned = Version(written).release
        assert known[canonicalize_name(name)].release[: len(pinned)] == pinned, name


def test_constraints_satisfy_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = constraints()
    extras = project["optional-dependencies"].values()
    for line in project["dependencies"] + [line for extra in extras for line in extra]:
        requirement = Requirement(line)
        assert known[canonicalize_name(requirement.name)] in requirement.specifier, line


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_has_help(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script.name, "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage:")
    assert len(text.splitlines()) > 3
