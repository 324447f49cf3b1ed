"""Every test that docs/ names is there.

A page may shorten a name with `…`, and may leave the file out where the same line named it before.
"""

import re
from fnmatch import fnmatchcase

import pytest

from conftest import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
FILES = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
FILE = re.compile(r"(?:tests/(\w+)/)?(test_\w+\.py)(?:::(.+))?")
NAME = re.compile(r"[\w…]*")


def named(page) -> list[tuple[str, str, str]]:
    """Folder of tests (or empty), file, and name (or empty) of each test that a page names."""
    tests = []
    for line in page.read_text(encoding="utf-8").splitlines():
        file = ""
        for quoted in re.findall(r"`([^`\s]+)`", line):
            if match := FILE.fullmatch(quoted):
                folder, file, name = match.groups(default="")
                tests.append((folder, file, name))
            elif file and NAME.fullmatch(quoted) and quoted.startswith(("test_", "…")):
                tests.append(("", file, quoted))
    return tests


@pytest.mark.parametrize("page", [p for p in PAGES if named(p)], ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page):
    for folder, file, name in named(page):
        assert file in FILES, f"{page}: {file}"
        path = FILES[file]
        assert folder in {"", path.parent.name}, f"{page}: tests/{folder}/{file}"
        tests = re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        pattern = name.replace("…", "*") or "*"
        assert any(fnmatchcase(test, pattern) for test in tests), f"{page}: {file}::{name}"


def test_the_bug_table_names_tests_in_every_line():
    lines = (ROOT / "docs/decisions/own-data.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ")][1:]
    assert len(rows) > 20
    assert all("`test_" in row.split("|")[-2] for row in rows)
    tests = named(ROOT / "docs/decisions/own-data.md")
    assert len(tests) >= len(rows)
