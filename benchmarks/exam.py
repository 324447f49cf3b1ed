"""An exam: a campaign to its verdict, and its model beside the reference's own dynamics.

Three exams: `aspirin` (gas phase), `water` (a liquid), `hydrogen` (reactions). Each is a campaign
(benchmarks/exams/NAME.yaml), dynamics of the reference and of the campaign's last model from the
same starts with the same random numbers, and a comparison of both with 95 % intervals.

    python benchmarks/exam.py aspirin --list                 cells, and which are done
    python benchmarks/exam.py aspirin --json aspirin.json    do them, or go on where it stopped
    python benchmarks/exam.py aspirin --only reference       cells whose names begin so
    python benchmarks/exam.py aspirin --summary              no computing: what the cells say
    python benchmarks/exam.py aspirin --page aspirin.html    the same as a page
    python benchmarks/exam.py hydrogen --smoke               does it run at all?

Run it from the repository's root: the campaign's results are in `results/exam-NAME` there, also if
it was run by Snakemake alone. Cells are small JSON files in benchmarks/results/exams/NAME, each
minutes to compute. A killed run goes on when it is started again, on another machine too, if the
cells are copied there; two runs started at once share them. Cells that need a campaign, or an
earlier segment, wait for it. The reference's dynamics need only the campaign's seed labels.

Not for: how many labels other ways need.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

import cells
from exams import results, tables
from exams.computing import SCHEMA, Place, compute, grid, waits_for
from exams.definitions import EXAMS, SCRATCH, WHOLE, Exam
from exams.page import page
from halcyon import files

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "benchmarks" / "exams"
RESULTS = ROOT / "benchmarks" / "results" / "exams"
WORK = ROOT / "benchmarks" / "work" / "exams"

SMOKE: dict[str, Any] = {
    "limits": {"max_generations": 1, "label_budget": 300},
    "teacher": {"md_frames": 60, "displaced_frames": 10},
    "pretraining": {"epochs": 2},
    "model": {"preset": "quick"},
    "training": {"epochs": 3, "updates": None},
    "seed_labels": {"train": 6, "validation": 5, "test": 5},
    "selection": {"frames": 2},
    "audit": {"frames": 8},
    "certificate": {"when": "never"},
    "saturation": {"events_per_ns": 2e6},
}
SMOKE_EXPLORATION = {"replicas": 4, "time_ps": 0.2}  # one per structure and temperature, at least


def configs(exam: Exam, work: Path, *, smoke: bool) -> dict[str, Path]:
    """Configuration file of each variant; those that differ from the exam's YAML are written."""
    own = CONFIGS / f"{exam.name}.yaml"
    made = {WHOLE: own}
    for variant in exam.variants:
        if variant == WHOLE and not smoke:
            continue
        content = yaml.safe_load(own.read_text(encoding="utf-8"))
        if smoke:
            content |= SMOKE | {"results": str(work), "label_store": str(work / "labels")}
            content["exploration"] |= SMOKE_EXPLORATION
        if variant == SCRATCH:
            content["campaign"] += f"-{variant}"
            content["pretraining"] = {"enabled": False}
        made[variant] = work / f"{content['campaign']}.yaml"
        text = yaml.safe_dump(content)
        if not made[variant].exists() or made[variant].read_text(encoding="utf-8") != text:
            files.write_text(made[variant], text)
    return made


def compute_missing(place: Place, chosen: Sequence[Any]) -> None:
    """Compute what can be computed, until nothing can."""
    console, progress = Console(), True
    while progress:
        progress = False
        ready = [cell for cell in chosen if not waits_for(cell, place)]
        for cell, path in cells.missing(ready, place.folder, place.work):
            files.write_json(path, compute(cell, place))
            console.print(f"{cell.name}: done")
            progress = True


def main(words: Sequence[str] | None = None) -> None:
    """Do the cells that are missing, and show all."""
    parser = cells.parser(__doc__ or "", results=None, work=WORK)
    parser.add_argument("name", choices=[*EXAMS], help="which exam")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the exam's page, HTML")
    parser.add_argument("--smoke", action="store_true", help="tiny runs; nothing is kept")
    given = parser.parse_args(words)
    exam, work, folder = EXAMS[given.name], given.work / given.name, given.cells
    if given.smoke:
        exam, work = exam.small(), work / "smoke"
        shutil.rmtree(work, ignore_errors=True)
        folder = work / "cells"
    folder = folder or RESULTS / exam.name
    work.mkdir(parents=True, exist_ok=True)
    place = Place(exam, folder, work, configs(exam, work, smoke=given.smoke), ROOT)
    every = grid(exam)
    chosen = cells.chosen(every, given.only)
    done = cells.carry_out(
        given,
        chosen,
        folder,
        compute=lambda: compute_missing(place, chosen),
        done=lambda: cells.read(folder, every, schema=SCHEMA),
    )
    if done is None:
        return
    found = results.summarised(exam, done, len(every))
    tables.show(found, Console())
    if given.json:
        files.write_json(given.json, found)
    if given.page:
        files.write_text(given.page, page(exam, found))


if __name__ == "__main__":
    main()
