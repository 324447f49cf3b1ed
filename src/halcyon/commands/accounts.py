"""`halcyon costs` and `halcyon quarantine`: what a campaign cost, and frames without a label.

Not for: the numbers (`campaign.accounts`); this is the command line and its tables.
"""

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from halcyon.campaign import accounts
from halcyon.campaign.campaign import Campaign
from halcyon.commands.terminal import Commands, console, print_json
from halcyon.errors import InputError
from halcyon.wording import significant

LONGEST = 300
"""Characters of a message that are shown; `--json` has all."""


def register(groups: Commands) -> None:
    """Add `halcyon costs` and `halcyon quarantine`."""
    for name, about, run in (
        ("costs", "What a campaign has cost, by generation and stage.", _costs),
        (
            "quarantine",
            "Frames without a good label: what failed, why, and where the files are.",
            _quarantine,
        ),
    ):
        brief = about[0].lower() + about[1:].rstrip(".")
        command = groups.add_parser(name, help=brief, description=about)
        command.add_argument("campaign", type=Path, help="results/<campaign>, or its campaign.json")
        command.add_argument("--system", help="only this system")
        command.add_argument("--json", action="store_true", help="print JSON, for programs")
        if name == "quarantine":
            command.add_argument(
                "--flagged",
                action="store_true",
                help="show good labels that are worth a look instead",
            )
        command.set_defaults(run=run)


def _read(arguments: argparse.Namespace) -> tuple[Campaign, list[str]]:
    from halcyon.commands.status.standing import find

    path = arguments.campaign
    campaign = find(path.parent if path.is_file() else path)  # it may have been moved
    if arguments.system is None:
        return campaign, list(campaign.systems)
    if arguments.system not in campaign.systems:
        raise InputError(
            f"--system {arguments.system}: no such system in {path}, which has "
            f"{', '.join(campaign.systems)}"
        )
    return campaign, [arguments.system]


def _costs(arguments: argparse.Namespace) -> int:
    campaign, systems = _read(arguments)
    entries = [entry for system in systems for entry in accounts.costs(campaign, system)]
    if arguments.json:
        print_json([asdict(entry) for entry in entries])
        return 0
    out = console()
    for system in systems:
        of_system = [entry for entry in entries if entry.system == system]
        table = Table(title=system, title_justify="left", title_style="bold")
        for heading in ("batch", "stage", "outcome", "number", "core-hours"):
            right = heading in {"number", "core-hours"}
            table.add_column(heading, justify="right" if right else "left")
        for before, entry in zip([None, *of_system], of_system, strict=False):
            same = before is not None and before.batch == entry.batch
            table.add_row(
                "" if same else entry.batch,
                entry.stage,
                entry.outcome,
                f"{entry.number:,}",
                significant(entry.core_seconds / 3600),
                style="dim" if entry.outcome == accounts.FOUND else "",
            )
        out.print(table)
    labels = significant(accounts.total(entries, "label", accounts.CHECK_STAGE))
    everything = significant(accounts.total(entries))
    limit = campaign.settings.limits.core_hours
    of = "" if limit is None else f" (limits.core_hours = {limit:g})"
    out.print(
        f"labels {labels} core-hours{of}, everything {everything}; "
        "labels that the store had (found) cost nothing",
        markup=False,
    )
    return 0


def _quarantine(arguments: argparse.Namespace) -> int:
    campaign, systems = _read(arguments)
    frames = [
        frame
        for system in systems
        for frame in accounts.quarantine(campaign, system, flagged=arguments.flagged)
    ]
    if arguments.json:
        print_json([asdict(frame) for frame in frames])
        return 0
    out = console()
    for frame in frames:
        status = "flagged" if arguments.flagged else frame.status
        reason = frame.reason[:LONGEST] + ("…" if len(frame.reason) > LONGEST else "")
        rung = f", rung {frame.rung}" if frame.rung else ""
        out.print(f"{frame.system} {frame.batch} {frame.structure} {frame.key}", style="bold")
        out.print(f"  {status}{rung}, {frame.core_seconds:.1f} core-s: {reason}", markup=False)
        if frame.files:
            out.print(f"  {frame.files}", markup=False, soft_wrap=True)
    numbers = Counter("flagged" if arguments.flagged else frame.status for frame in frames)
    summary = ", ".join(f"{number} {status}" for status, number in numbers.items())
    nothing = "no label is flagged" if arguments.flagged else "every frame has a good label"
    out.print(summary or nothing, style="bold")
    return 0
