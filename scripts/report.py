"""Make the page that shows one system's campaign, so far or at its end."""

from pathlib import Path

from halcyon import files, report
from halcyon.campaign import stage
from halcyon.report import page


def main(job: stage.Job) -> None:
    contents = report.collect(job.campaign, job.arguments.system, job.arguments.verdicts)
    files.write_text(job.arguments.page, page.render(contents))
    job.done(report.verdict_sentence(contents).rstrip("."), job.arguments.page)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument(
        "--verdicts", required=True, type=Path, nargs="+", help="verdicts, from generation 0 on"
    )
    arguments.add_argument("--page", required=True, type=Path, help="HTML page, written")
    stage.run(arguments, main)
