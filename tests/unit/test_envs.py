"""One set of versions everywhere, and programs that answer to --help."""

import re
import runpy
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from conftest import ROOT
from halcyon.commands.doctor.checks import PYTHON

ENVS = sorted((ROOT / "envs").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
ON_CONDA = {"pytorch": "torch"}
"""Packages that conda-forge calls by another name."""
NO_PYTHON_PACKAGE = {"python", "cp2k", "pip"}
"""In environments, but nothing that pip installs."""


def constraints() -> dict[str, Version]:
    """Version of each package in constraints.txt, for the Python of the environments, 3.11."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines]
    plain = re.compile(r'[\w.-]+==[\w.]+(; python_version \S+ "[\d.]+")?')
    assert all(map(plain.fullmatch, lines)), "only name==version lines: no paths, no build suffixes"
    oldest = {"python_version": "3.11"}
    return {
        canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("=="))
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(oldest)
    }


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


def test_the_same_pythons_are_named_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    allowed = SpecifierSet(project["requires-python"])
    minors = [str(minor) for minor in range(30) if f"3.{minor}.5" in allowed]
    *early, last = [f"3.{minor}" for minor in minors]
    words = f"{', '.join(early)} or {last}"
    for page in ("README.md", "docs/index.md", "docs/cluster.md", "Makefile"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert set(re.findall(r"(?:Python|\.venv \()\s*(3\.\d+(?:, 3\.\d+)* or 3\.\d+)", text)) == {
            words
        }, page
    assert allowed == PYTHON  # what `halcyon doctor` accepts
    bounds = f"(3, {minors[0]}) <= sys.version_info < (3, {int(minors[-1]) + 1})"
    assert bounds in (ROOT / "Makefile").read_text(encoding="utf-8")


MAKEFILE_NEEDS = ("sh", "make", "grep", "sleep", "cat")


@pytest.fixture
def without_programs(tmp_path):
    """Runs `make` as root of a machine without CP2K, whose apt-get is the given script."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (tmp_path / ".venv/.installed").touch()
    for name in MAKEFILE_NEEDS:
        (programs / name).symlink_to(shutil.which(name))

    def put(name: str, *lines: str) -> None:
        (programs / name).write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
        (programs / name).chmod(0o755)

    def run(target: str, *apt: str, **variables: str) -> subprocess.CompletedProcess:
        put("apt-get", *apt)
        put("id", "echo 0")
        put("ldconfig", "echo libarpack.so.2")
        put("chromium")
        for tool in ("mkdocs", "ruff", "pytest"):
            put(tool, f"echo {tool} >> tested", "exit 1")
        return subprocess.run(
            ["make", target, *(f"{key}={value}" for key, value in variables.items())],
            cwd=tmp_path,
            env={"PATH": str(programs), "APT_WAIT_S": "10"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def test_what_cannot_be_installed_stops_before_any_test(without_programs, tmp_path):
    done = without_programs("test", "echo 'E: Unable to fetch some archives'; exit 100")
    assert done.returncode != 0
    assert not (tmp_path / "tested").exists()
    assert "E: Unable to fetch some archives\napt could not install: cp2k" in done.stdout
    assert "Nothing was tested: cp2k is missing" in done.stdout
    assert 'make test WITHOUT="cp2k"' in done.stdout
    without_programs("test", "exit 100", WITHOUT="cp2k")
    assert (tmp_path / "tested").exists()


def test_the_lock_of_apt_is_waited_for(without_programs, tmp_path):
    busy = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"
    tried = tmp_path / "tried"
    script = [f'if [ ! -e {tried} ]; then : > {tried}; echo "{busy}"; exit 100; fi']
    done = without_programs("cp2k", *script, f'echo "$@" >> {tried}')
    assert done.returncode == 0, done.stdout
    assert "waiting for its lock" in done.stdout
    update, install = tried.read_text().splitlines()
    assert "DPkg::Lock::Timeout=10 update" in update
    assert "DPkg::Lock::Timeout=10 install" in install
    assert install.endswith("cp2k libopenblas0-pthread")
