"""`halcyon completion`: what a shell needs to complete commands, options and file names."""

import argparse
from functools import partial
from pathlib import Path

import shtab

from halcyon.commands.terminal import Commands

SHELLS = {
    "bash": 'eval "$(halcyon completion bash)"     in ~/.bashrc',
    "zsh": "halcyon completion zsh > FOLDER/_halcyon, with FOLDER in fpath before compinit",
    "tcsh": "halcyon completion tcsh > FILE, and `source FILE` in ~/.cshrc",
}


def register(groups: Commands, top: argparse.ArgumentParser) -> None:
    """Add `halcyon completion`, which completes all that the parser `top` knows."""
    command = groups.add_parser(
        "completion",
        help="print what makes a shell complete this command",
        description="Print a script that makes a shell complete this command.",
        epilog="\n".join(f"{shell}: {how}" for shell, how in SHELLS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("shell", choices=sorted(SHELLS))
    command.set_defaults(run=partial(_completion, top))


def _completion(top: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    _complete_files(top)
    print(shtab.complete(top, arguments.shell))  # noqa: T201
    return 0


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let the shell offer files wherever an option is one."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way through a parser
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                _complete_files(command)
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
