"""`halcyon verify`: a certificate checked, line by line.

Not for: the checks themselves (`verify`).
"""

import argparse
from pathlib import Path

from rich.console import Console

MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "yellow")}


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    about = (
        "Check a certificate: the hashes of model, domain, labels and traces, and every number "
        "again from the traces. Exits with 1 if something does not hold."
    )
    command = commands.add_parser("verify", help="check a model's certificate", description=about)
    command.add_argument("certificate", type=Path, help="certificate.json, or its folder")
    command.add_argument("--store", type=Path, help="the label store, if it was moved")
    command.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from halcyon.final.certificate import Certificate
    from halcyon.final.checks import verify

    path: Path = arguments.certificate
    if path.is_dir():
        path /= "certificate.json"
    checks = verify(path, store=arguments.store)
    console = Console(highlight=False, soft_wrap=True)
    for check in checks:
        mark, style = MARKS[check.holds]
        console.print(f"{mark} {check.text}", style=style, markup=False)
    wrong = [check for check in checks if check.holds is False]
    if wrong:
        console.print(f"{path}: does not hold: {len(wrong)} faults", style="bold red")
        return 1
    told = Certificate.read(path)
    console.print(f"{path}: holds. {told.sentence}", style="bold", markup=False)
    return 0
