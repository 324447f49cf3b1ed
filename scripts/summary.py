"""Print what a campaign came to: for every system its verdict, and a row per generation."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from halcyon import report
from halcyon.campaign import paths
from halcyon.campaign.accounts import read_ledger
from halcyon.campaign.campaign import Campaign
from halcyon.commands.terminal import console
from halcyon.errors import EXIT_BAD_INPUT, InputError
from halcyon.verdict.words import rate_text

TONES = {"saturated": "bold green", "continue": "bold yellow"}
"""Colour of a verdict's sentence by its decision; red of all others."""


def show(out: Console, campaign: Campaign, system: str, folder: Path) -> None:
    """Print one system.

    Args:
        out: where to.
        campaign: the whole campaign.
        system: its name.
        folder: of the campaign's results.
    """

    def say(text: str, style: str = "") -> None:
        out.print(text, style=style, markup=False, soft_wrap=True)

    verdicts = report.find_verdicts(folder / system, campaign.systems[system].settings)
    finished = bool(verdicts)
    if not verdicts:
        say(f"{system}: unfinished: no generation is done yet", "bold yellow")
    else:
        contents = report.collect(campaign, system, verdicts)
        last = contents.last
        finished = last.decision != "continue"
        sentence = report.verdict_sentence(contents)
        say(f"{system}: {sentence}", TONES.get(last.decision, "bold red"))
        if finished:
            certificate = contents.certificate
            stable = certificate and certificate.conclusion == "stable"
            tone = "" if certificate is None else "green" if stable else "bold red"
            say(report.certificate_sentence(contents), tone)
        if contents.imported is not None:
            say(contents.imported.sentence)
        if last.audit is not None:
            say(f"errors: {report.audit_text(contents)}")
        if seeing := report.signal_text(contents):
            say(f"signals: {seeing}")
        if reactions := report.reaction_text(last):
            say(f"reactions: {reactions}")
        if last.failures.bound_per_ps is not None:
            say(f"failure rate {rate_text(last.failures)}")
        out.print(report.summary_table(contents))
        say(report.next_step(contents))
        page = folder / system / "report.html"
        say(f"page: {page}" if page.exists() else "page: not made yet")
    entries = read_ledger(paths.ledger(folder), system)
    if entries and not finished:
        stage = entries[-1]
        say(f"last stage that ended: {stage['stage']} ({stage['what']}), {stage['finished']}")
    out.print()


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--campaign", required=True, type=Path, help="campaign.json that the workflow wrote"
    )
    path = parser.parse_args().campaign
    out = console()
    try:
        campaign = Campaign.read(path)
        out.print(f"campaign {campaign.settings.campaign}", style="bold", markup=False)
        for system in campaign.systems:
            show(out, campaign, system, path.parent)
    except InputError as error:
        Console(stderr=True).print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
