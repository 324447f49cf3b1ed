"""The programs that decide, make the page and print the table."""

import re
import runpy
import signal
import sys

import pytest

from conftest import ROOT
from halcyon import files
from halcyon.campaign import stage
from toy_campaign import TIME_PS, show, write_audits

SCRIPTS = ROOT / "scripts"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script in this process: exit code, and what it said."""
    monkeypatch.setattr(stage, "THREAD_VARIABLES", ())
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_scripts(toy, tmp_path, run):
    campaign, verdicts = toy(["continue"] * 7 + ["max_generations"])
    page = tmp_path / "trial/toy/report.html"
    options = ("--campaign", campaign.file)
    code, _, complaint = run(
        "report.py", *options, "--system", "toy", "--verdicts", *verdicts, "--page", page
    )
    assert code == 0, complaint
    assert page.stat().st_size > 1_000_000
    code, told, complaint = run("summary.py", *options)
    assert code == 0, complaint
    assert "NOT saturated" in told
    assert "failure rate in 8 ps: with 95 % confidence fewer than 1 failure per 2.6 ps" in told
    assert str(page) in told
    assert "\x1b" not in told
    table = [line for line in told.splitlines() if re.match(r" *\d+ +\d+/", line)]
    assert len(table) == 8
    assert max(map(len, table)) <= 100
    assert table[-1].split()[-2:] == ["max", "gen."]


def test_the_terminal_tells_of_errors_signals_and_the_next_step(toy, rattled, run):
    campaign, verdicts = toy(["continue"] * 7 + ["max_generations"])
    write_audits(verdicts, rattled)
    code, told, complaint = run("summary.py", "--campaign", campaign.file)
    assert code == 0, complaint
    assert "errors: Right on 12 random frames of its own dynamics" in told
    assert "signals: The index counts by the expected error. Blind" in told
    assert "Next: raise limits.max_generations over 8" in told
    table = [line for line in told.splitlines() if re.match(r" *\d+ +\d+/", line)]
    assert len(table) == 8
    assert max(map(len, table)) <= 100
    assert "30 (24–36)" in table[-1]
    assert table[-1].split()[-4:] == ["0", "21", "max", "gen."]


def decide(run, campaign, verdict):
    folder, generation = verdict.parent, int(verdict.parent.name[-3:])
    batches = ["seed", *(f"gen{number:03d}" for number in range(generation + 1))]
    labels = [p for b in batches for p in sorted((folder.parent / b).glob("labels/*.parquet"))]
    options = ("--campaign", campaign.file, "--system", "toy", "--generation", generation)
    options += ("--traces", folder / "traces.parquet", "--summary", folder / "exploration.json")
    options += ("--selection", folder / "selection.json")
    code, _, complaint = run("verdict.py", *options, "--labels", *labels, "--verdict", verdict)
    assert code == 0, complaint
    return files.read_json(verdict)


def test_a_verdict_tells_of_survival_up_to_now(toy, run):
    campaign, verdicts = toy(["continue"] * 3, failing=lambda number: 3 if number < 2 else 0)
    told = decide(run, campaign, verdicts[1])
    assert told["failures"]["failures"] == 3
    # Three fail at 0.05, 0.25, 0.45 ps, the fourth runs for 2 ps; χ² of 8 degrees: 15.507.
    assert told["failures"]["time_ps"] == pytest.approx(2.75)
    assert told["failures"]["bound_per_ps"] == pytest.approx(15.507 / 5.5, rel=1e-4)
    critical = told["critical_cli"]
    assert critical["generations"] == [0, 1]
    assert (critical["label"]["failures"], critical["label"]["survivors"]) == (6, 2)
    assert critical["label"]["median"]["outcome"] == "estimated"
    assert critical["guard"]["median"]["value"] == pytest.approx(
        0.1 * critical["label"]["median"]["value"]
    )
    first = decide(run, campaign, verdicts[0])["critical_cli"]
    assert first["generations"] == [0]
    assert first["label"]["median"]["outcome"] == "not enough failures"


def test_a_longer_exploration_is_judged_by_its_own_length(toy, run):
    campaign, verdicts = toy(["continue"] * 2)
    summary = verdicts[1].with_name("exploration.json")
    usual = decide(run, campaign, verdicts[1])
    files.write_json(summary, files.read_json(summary) | {"time_ps": 1.5 * TIME_PS})
    longer = decide(run, campaign, verdicts[1])
    assert usual["explored"]["time_ps"] == TIME_PS
    assert longer["explored"]["time_ps"] == 1.5 * TIME_PS
    # The replicas ended at TIME_PS: the later half of a longer run has only a part of theirs.
    assert usual["saturation"]["parts"][0]["window_ps"] == pytest.approx(4 * TIME_PS / 2)
    assert longer["saturation"]["parts"][0]["window_ps"] == pytest.approx(4 * TIME_PS / 4)


def test_a_page_from_old_verdicts_says_the_same(toy, run):
    campaign, verdicts = toy(["continue", "max_generations"], failing=lambda _: 3)
    old = show(campaign, verdicts)
    for verdict in verdicts:
        assert "failures" not in files.read_json(verdict)
        assert "failures" in decide(run, campaign, verdict)
    new = show(campaign, verdicts)
    assert "critical Λ of the label domain, which half" in new.texts["critical"]
    for name in ("failure-rate", "critical"):
        assert old.texts[name] == new.texts[name]
    for name in ("rates", "critical-cli"):
        assert old.tables[name] == new.tables[name]


def test_the_summary_of_what_is_not_finished_says_so(toy, run):
    campaign, verdicts = toy()
    verdicts[1].unlink()
    code, told, complaint = run("summary.py", "--campaign", campaign.file)
    assert code == 0, complaint
    assert "toy: Not finished: not saturated after 1 generation so far." in told
    verdicts[0].unlink()
    code, told, complaint = run("summary.py", "--campaign", campaign.file)
    assert code == 0, complaint
    assert "toy: unfinished: no generation is done yet" in told
    assert "last stage that ended: label (x y)" in told
    code, _, complaint = run("summary.py", "--campaign", "nowhere.json")
    assert code == 2
    assert "nowhere.json: no such file" in complaint
