"""`halcyon completion`: a script by which a shell completes commands, options and file names.

Not for: the commands themselves; their parser knows them all.
"""

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
    """Add `halcyon completion`.

    Args:
        groups: what it is added to.
        top: the parser of `halcyon`, whose commands and options are completed.
    """
    command = groups.add_parser(
        "completion",
        help="print a script by which your shell completes halcyon's commands",
        description="Print a script by which your shell completes halcyon's commands, options and "
        "file names.",
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
