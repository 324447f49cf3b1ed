"""Every command explains itself, completes, and keeps quiet where no terminal listens."""

import argparse
import subprocess
import sys

import pytest

from conftest import ROOT
from halcyon.commands.main import main, parser


def leaves(one, words=()):
    """Every command, as the words that call it."""
    groups = [a for a in one._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups:
        yield list(words)
    for name, command in groups[0].choices.items() if groups else ():
        yield from leaves(command, (*words, name))


@pytest.mark.parametrize("words", leaves(parser()), ids=" ".join)
def test_help(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    assert "usage: halcyon " + " ".join(words) in capsys.readouterr().out


def test_exit_codes_are_documented():
    page = (ROOT / "docs/commands.md").read_text()
    for code in ("| 0 |", "| 1 |", "| 2 |", "| 75 |", "| 130 |"):
        assert code in page
    for words in leaves(parser()):
        assert f"halcyon {' '.join(words)}" in page


def test_bash_completes(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    ask = """
COMP_WORDS=(halcyon statu); COMP_CWORD=1; COMP_LINE="halcyon statu"; COMP_POINT=13
_shtab_halcyon halcyon statu halcyon
printf '%s\\n' "${COMPREPLY[@]}"
"""
    done = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["status"]


def test_a_reader_that_has_seen_enough():
    command = f"{sys.executable} -m halcyon completion bash | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT / "src",
    )
    assert "Traceback" not in done.stderr
