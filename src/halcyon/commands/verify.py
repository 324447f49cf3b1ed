"""`halcyon verify`: check a certificate, and print each check with its outcome.

Not for: the checks themselves (`final.checks`).
"""

import argparse
from pathlib import Path

from rich.console import Console

from halcyon.commands.terminal import Commands
from halcyon.wording import count

MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("–", "yellow")}


def register(groups: Commands) -> None:
    """Add `halcyon verify`."""
    about = (
        "Check a certificate: compare the hashes of model, domain, labels and traces, and compute "
        "every number again from the traces. Exits with 1 if something does not hold."
    )
    command = groups.add_parser("verify", help="check a model's certificate", description=about)
    command.add_argument("certificate", type=Path, help="certificate.json, or its folder")
    command.add_argument("--store", type=Path, help="the label store, if it has moved")
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
        faults = count(len(wrong), "fault")
        console.print(f"{path}: does not hold: {faults}, marked ✗ above", style="bold red")
        return 1
    sentence = Certificate.read(path).sentence
    console.print(f"{path}: holds. {sentence}", style="bold", markup=False)
    return 0
