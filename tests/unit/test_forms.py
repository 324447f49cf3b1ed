"""`verdict.json` and `exploration.json`: those of today, of earlier and later releases, damaged."""

import json
import subprocess
import sys

import pytest
from fabricated import made_up_verdict

from conftest import ROOT
from halcyon.config import Settings
from halcyon.errors import InputError
from halcyon.verdict.forms import Decision, ExplorationSummary, Finding, Verdict
from halcyon.verdict.saturation import goes_on

DATA = ROOT / "tests/data/verdict"


def within(known, written):
    """Whether JSON says all that other JSON says, and perhaps more keys."""
    if isinstance(known, dict):
        return all(key in written and within(known[key], written[key]) for key in known)
    if isinstance(known, list):
        return len(known) == len(written) and all(map(within, known, written))
    return known == written


def test_a_verdict_is_written_as_it_was_read(tmp_path):
    verdict = Verdict.read(DATA / "verdict.json")
    assert verdict.decision is Decision.CONTINUE
    assert verdict.saturation.finding is Finding.NOT_SATURATED
    assert verdict.labels.spent == 95
    assert verdict.critical_cli.label.median.outcome == "not enough failures"
    verdict.write(tmp_path / "verdict.json")
    assert Verdict.read(tmp_path / "verdict.json") == verdict
    # Keys that came later are added, with what they are where nothing is known.
    known = json.loads((DATA / "verdict.json").read_text())
    assert within(known, json.loads((tmp_path / "verdict.json").read_text()))


def test_a_verdict_of_the_first_release_is_read():
    verdict = Verdict.read(DATA / "first-verdict.json")
    assert (verdict.core_hours.spent, verdict.core_hours.limit) == (0.0, None)
    assert (verdict.labels.spent, verdict.labels.not_computed) == (95, 0)
    assert verdict.explored is verdict.failures is verdict.critical_cli is None
    assert goes_on(verdict, Settings())
    assert not goes_on(verdict, Settings(limits={"label_budget": 95}))


def test_explorations_are_read_and_written(tmp_path):
    summary = ExplorationSummary.read(DATA / "exploration.json")
    assert len(summary.replicas) == 8
    assert len(summary.replicas[0].cli_atoms_ps) == 9
    summary.write(tmp_path / "exploration.json")
    assert ExplorationSummary.read(tmp_path / "exploration.json") == summary
    # The version and later keys are what files of earlier releases lack.
    known = json.loads((DATA / "exploration.json").read_text())
    assert within(known, json.loads((tmp_path / "exploration.json").read_text()))


def test_an_exploration_of_the_first_release_is_read():
    summary = ExplorationSummary.read(DATA / "first-exploration.json")
    assert summary.candidates_passed_over == 0
    assert not any(end.replaces for end in summary.replicas)
    assert summary.replicas[0].cli_atoms_ps is None


def test_a_file_of_a_later_release_is_refused(tmp_path):
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(made_up_verdict("continue").content() | {"schema": 99}))
    with pytest.raises(InputError, match=r"verdict\.json: schema = 99: .* update Halcyon") as error:
        Verdict.read(path)
    assert "delete" not in str(error.value).lower()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "damaged: it is empty or not JSON"),
        ('{"schema": 1, "sys', "damaged: it is empty or not JSON"),
        ("\xff\xfe", "damaged: it is empty or not JSON"),
        ("[]", "damaged: not a JSON object"),
        ('{"schema": 1}', "damaged: system: Field required"),
    ],
)
def test_a_damaged_file_is_named_with_the_way_out(tmp_path, text, complaint):
    path = tmp_path / "verdict.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as error:
        Verdict.read(path)
    assert str(error.value).startswith(f"{path}: {complaint}")
    assert "Delete this file and run the same command" in str(error.value)


def test_a_value_that_cannot_be_is_named(tmp_path):
    path = tmp_path / "verdict.json"
    content = made_up_verdict("continue").content()
    content["saturation"]["finding"] = "calm"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"verdict\.json: damaged: saturation\.finding: Input"):
        Verdict.read(path)


def test_what_snakemake_imports_loads_neither_tables_nor_statistics():
    program = (
        "import sys, halcyon.verdict.saturation, halcyon.verdict.forms, halcyon.campaign.paths\n"
        "print([name for name in ('pandas', 'scipy') if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
