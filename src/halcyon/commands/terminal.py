"""Where commands print: tables for people, in colour on a terminal; JSON for programs.

Not for: the lines that stages print (`campaign.stage`).
"""

import argparse
import json
from typing import Any, TypeAlias

from rich.console import Console

WIDTH = 100
"""Columns of the output where it does not go to a terminal."""

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
"""What a group of commands is added to."""


def console() -> Console:
    """Standard output: as wide as the terminal, or `WIDTH` in a file or a pipe, without colour."""
    output = Console(highlight=False)
    return Console(highlight=False, width=output.width if output.is_terminal else WIDTH)


def tell(line: str, style: str = "red") -> None:
    """Print a line, by default a complaint, on standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, style=style, markup=False)


def print_json(content: Any) -> None:
    """Print a result for a program: JSON, and nothing else, on standard output."""
    print(json.dumps(content, indent=2, allow_nan=False))  # noqa: T201
