"""How the commands speak: tables for people, coloured where a terminal listens; JSON for programs.

Not for: the stages' own lines (`stage`).
"""

import argparse
import json
from typing import Any, TypeAlias

from rich.console import Console

WIDTH = 100
"""Columns where no terminal says how many."""

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
"""What a group of commands adds itself to."""


def console() -> Console:
    """Where results go: as wide as the terminal, or `WIDTH` in a file or a pipe, without colour."""
    found = Console(highlight=False)
    return Console(highlight=False, width=found.width if found.is_terminal else WIDTH)


def tell(line: str, style: str = "red") -> None:
    """A complaint, or what goes on, on standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, style=style, markup=False)


def print_json(content: Any) -> None:
    """The result for a program: JSON alone on standard output."""
    print(json.dumps(content, indent=2, allow_nan=False))  # noqa: T201
