"""The command `halcyon`; also `python -m halcyon`.

Campaigns are run by Snakemake; the commands prepare them, look at them and check their results.
Exit codes: 0 done, 1 faults were found, 2 bad input, 130 stopped by Ctrl-C.

Not for: the stages of a campaign (`scripts/`), or what a command does (its module in `commands`).
"""

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from halcyon import __version__
from halcyon.commands import accounts, completion, labels, states, verify, watch
from halcyon.commands.doctor import command as doctor
from halcyon.commands.new_system import command as new_system
from halcyon.commands.plan import command as plan
from halcyon.commands.status import command as status
from halcyon.errors import EXIT_BAD_INPUT, InputError

GROUPS = (new_system, doctor, plan, status, accounts, verify, labels, states, watch)
"""Groups of commands, in the order of `--help`; `completion` comes last."""
EXIT_CTRL_C = 130


def main(command_line: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command, and return the exit code."""
    arguments = parser().parse_args(command_line)
    try:
        return int(arguments.run(arguments))
    except InputError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"error {error}", style="bold red", markup=False
        )
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_CTRL_C
    except BrokenPipeError:  # the program that reads the output, e.g. `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="halcyon",
        description="Prepare, watch and check campaigns. A campaign itself is run by Snakemake: "
        "snakemake --configfile config/quickstart.yaml",
        epilog="Exit codes: 0 done, 1 faults were found, 2 bad input, 130 stopped by Ctrl-C.",
    )
    top.add_argument("--version", action="version", version=f"halcyon {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in GROUPS:
        group.register(commands)
    completion.register(commands, top)
    return top


if __name__ == "__main__":
    sys.exit(main())
