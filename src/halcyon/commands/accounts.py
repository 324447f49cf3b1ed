"""`halcyon costs` and `halcyon quarantine`: a campaign's two ledgers, for a person.

Not for: what stands in them (`ledgers`).
"""

import argparse
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from halcyon.campaign import accounts
from halcyon.campaign.campaign import Campaign
from halcyon.errors import InputError

WIDTH = 100
LONGEST = 300
"""Characters of a message that are shown; `--json` has all."""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to `halcyon`."""
    for name, about, run in (
        ("costs", "What a campaign has cost, by generation and stage.", _costs),
        (
            "quarantine",
            "Frames without a good label: what failed, why, and where its files are.",
            _quarantine,
        ),
    ):
        brief = about[0].lower() + about[1:].rstrip(".")
        command = commands.add_parser(name, help=brief, description=about)
        command.add_argument("campaign", type=Path, help="results/<campaign>, or its campaign.json")
        command.add_argument("--system", help="only this system")
        command.add_argument("--json", action="store_true", help="for programs")
        if name == "quarantine":
            command.add_argument(
                "--flagged", action="store_true", help="instead: good labels that are worth a look"
            )
        command.set_defaults(run=run)


def _read(arguments: argparse.Namespace) -> tuple[Campaign, list[str]]:
    path = arguments.campaign
    campaign = Campaign.read(path / "campaign.json" if path.is_dir() else path)
    if arguments.system is None:
        return campaign, list(campaign.systems)
    if arguments.system not in campaign.systems:
        raise InputError(
            f"--system {arguments.system}: not in {path}, which has {', '.join(campaign.systems)}"
        )
    return campaign, [arguments.system]


def _console() -> Console:
    console = Console(highlight=False)
    return Console(highlight=False, width=console.width if console.is_terminal else WIDTH)


def _costs(arguments: argparse.Namespace) -> int:
    campaign, systems = _read(arguments)
    entries = [entry for system in systems for entry in accounts.costs(campaign, system)]
    if arguments.json:
        print(json.dumps([asdict(entry) for entry in entries], indent=2))  # noqa: T201
        return 0
    console = _console()
    for system in systems:
        mine = [entry for entry in entries if entry.system == system]
        table = Table(title=system, title_justify="left", title_style="bold")
        for heading in ("batch", "stage", "outcome", "number", "core-hours"):
            right = heading in {"number", "core-hours"}
            table.add_column(heading, justify="right" if right else "left")
        for before, entry in zip([None, *mine], mine, strict=False):
            same = before is not None and before.batch == entry.batch
            table.add_row(
                "" if same else entry.batch,
                entry.stage,
                entry.outcome,
                f"{entry.number:,}",
                f"{entry.core_seconds / 3600:,.4f}",
                style="dim" if entry.outcome == accounts.FOUND else "",
            )
        console.print(table)
    labels = accounts.total(entries, "label", accounts.CHECK_STAGE)
    limit = campaign.settings.limits.core_hours
    of = "" if limit is None else f" (limits.core_hours = {limit:g})"
    console.print(
        f"labels {labels:,.4f} core-hours{of}, everything {accounts.total(entries):,.4f}; "
        "what was found in the label store cost nothing",
        markup=False,
    )
    return 0


def _quarantine(arguments: argparse.Namespace) -> int:
    campaign, systems = _read(arguments)
    found = [
        entry
        for system in systems
        for entry in accounts.quarantine(campaign, system, flagged=arguments.flagged)
    ]
    if arguments.json:
        print(json.dumps([asdict(entry) for entry in found], indent=2))  # noqa: T201
        return 0
    console = _console()
    for entry in found:
        status = "flagged" if arguments.flagged else entry.status
        reason = entry.reason[:LONGEST] + ("…" if len(entry.reason) > LONGEST else "")
        rung = f", rung {entry.rung}" if entry.rung else ""
        console.print(f"{entry.system} {entry.batch} {entry.structure} {entry.key}", style="bold")
        console.print(f"  {status}{rung}, {entry.core_seconds:.1f} core-s: {reason}", markup=False)
        if entry.files:
            console.print(f"  {entry.files}", markup=False, soft_wrap=True)
    kinds = Counter("flagged" if arguments.flagged else entry.status for entry in found)
    told = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    nothing = "no label is flagged" if arguments.flagged else "every frame has a good label"
    console.print(told or nothing, style="bold")
    return 0
