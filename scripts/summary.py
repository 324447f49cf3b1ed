"""Print where a campaign stands: for every system its verdict, and a row per generation."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from halcyon import report
from halcyon.campaign.campaign import Campaign
from halcyon.errors import EXIT_BAD_INPUT, InputError
from halcyon.verdict.words import rate_text

WIDTH = 100


def show(console: Console, campaign: Campaign, system: str, folder: Path) -> None:
    """Print one system."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, soft_wrap=True)

    verdicts = report.find_verdicts(folder / system, campaign.systems[system].settings)
    ledger = report.read_ledger(folder / "stages.jsonl", system)
    if not verdicts:
        say(f"{system}: unfinished: no generation is done yet", "bold yellow")
    else:
        contents = report.collect(campaign, system, verdicts)
        last = contents.last
        tone = {"saturated": "bold green", "continue": "bold yellow"}
        say(
            f"{system}: {report.verdict_sentence(contents)}",
            tone.get(last.decision, "bold red"),
        )
        if last.decision != "continue":
            certificate = contents.certificate
            style = "" if certificate is None else "bold red"
            if certificate is not None and certificate.conclusion == "stable":
                style = "green"
            say(report.certificate_sentence(contents), style)
        if last.failures.bound_per_ps is not None:
            say(f"failure rate {rate_text(last.failures)}")
        console.print(report.summary_table(contents))
        page = folder / system / "report.html"
        say(f"page: {page}" if page.exists() else "page: not made yet")
    if ledger and (not verdicts or last.decision == "continue"):
        stage = ledger[-1]
        say(f"last stage that ended: {stage['stage']} ({stage['what']}), {stage['finished']}")
    console.print()


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--campaign", required=True, type=Path, help="campaign.json that the workflow wrote"
    )
    path = parser.parse_args().campaign
    console = Console(highlight=False)
    console = Console(highlight=False, width=console.width if console.is_terminal else WIDTH)
    try:
        campaign = Campaign.read(path)
        console.print(f"campaign {campaign.settings.campaign}", style="bold", markup=False)
        for system in campaign.systems:
            show(console, campaign, system, path.parent)
    except InputError as error:
        Console(stderr=True).print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
