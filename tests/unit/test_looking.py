"""Commands that only look leave a campaign as it was; a run takes the lock before it writes."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from fabricated import campaign, finish
from snakemake import cli

from conftest import ROOT
from halcyon import files
from halcyon.campaign import budget, checked, looking
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.checked import begin_run
from halcyon.campaign.identity import level_of_theory
from halcyon.campaign.looking import Request, of_options, requested
from halcyon.frames import write_frames
from halcyon.labels.labelling import NOT_COMPUTED

SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
PLUGINS = ["slurm_", "slurm_jobstep_", "report_html_", "scheduler_greedy_", "scheduler_ilp_"]


def content_of(folder):
    """Hash of every file and folder below `folder`, with the time of its last change.

    Without `.snakemake`, where Snakemake writes a log of every command, and keeps its own locks.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if ".snakemake" not in path.parts:
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path.relative_to(folder))] = (digest, path.stat().st_mtime_ns)
    return found


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """Options as Snakemake reads them, with our default profile."""
    (tmp_path / "profiles").symlink_to(ROOT / "workflow/profiles")
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)

    def read(words):
        parser, options = cli.parse_args(words.split())
        return options, parser

    return read


LOOKS = """
    -n; -np; -nq; -nF; -nk; -n -p; --dry-run; --dryrun; -n --quiet; -n -R train; -kn
    --executor dryrun; --lint; --lint json; --list-rules; -l; --list; --lt; --list-target-rules
    --print-compilation; --dag; --dag mermaid-js; --rulegraph; --filegraph; --d3dag; --summary; -S
    --detailed-summary; -D; --summ; --unlock; --unl; --cleanup-metadata x; --cm x; --cleanup-shadow
    --list-changes code; --lc input; --list-input-changes; --li; --list-params-changes; --lp
    --list-untracked; --lu; --archive x.tar.gz; --report; --report x.html; --reporter html
    --generate-unit-tests; --containerize; --export-cwl x; --list-conda-envs
    --conda-cleanup-envs; --conda-create-envs-only; --container-cleanup-images
    --delete-all-output -n; --touch -n; --report x.html -n --report-after-run
"""


@pytest.mark.parametrize("words", LOOKS.replace("\n", ";").split(";"), ids=str.strip)
def test_what_snakemake_only_looks_for(parsed, words):
    if words.strip():
        request = of_options(*parsed(words))
        assert not request.runs
        assert not request.deletes
        assert request.reason


@pytest.mark.parametrize(
    ("words", "every_job"),
    [
        ("", False),
        ("-c 4", False),
        ("--cores 2 -p -k --quiet", False),
        ("all", False),
        ("--workflow-profile profiles/slurm --jobs 20 --slurm-qos big", False),
        ("results/trial/methanol/report.html", True),
        ("-F", True),
        ("-R train", True),
        ("--forcerun train --until domain", True),
        ("--touch", True),
        ("--batch all=1/2", True),
        ("--rerun-triggers code mtime", True),
        ("--report x.html --report-after-run", True),
    ],
)
def test_what_runs(parsed, words, every_job):
    assert of_options(*parsed(words)) == Request(runs=True, every_job=every_job)


def test_a_dry_run_shows_the_graph_of_the_run(parsed):
    assert not of_options(*parsed("-nq")).every_job
    assert of_options(*parsed("-nF")).every_job
    assert of_options(*parsed("--summary")).every_job


def test_deleting_needs_the_lock(parsed):
    request = of_options(*parsed("--delete-all-output"))
    assert request.deletes
    assert not request.runs


def test_a_profile_can_ask_for_a_dry_run(parsed, tmp_path, monkeypatch):
    files.write_text(tmp_path / "mine/profile.yaml", "dry-run: true\n")
    assert of_options(*parsed("--profile mine")).reason == "--dry-run"
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "mine")
    assert of_options(*parsed("")).reason == "--dry-run"


def test_every_option_of_this_snakemake_is_known():
    options = cli.get_argument_parser().parse_args([])
    known = looking.LOOKS | looking.DELETES | looking.CHOOSES | looking.ONLY_HOW
    names = {name for name in vars(options) if not name.startswith(tuple(PLUGINS))}
    assert names <= known


def test_what_is_unknown_looks(parsed):
    options, parser = parsed("")
    parser.add_argument("--new-thing", action="store_true")
    options.new_thing = False
    assert of_options(options, parser).runs
    options.new_thing = True
    request = of_options(options, parser)
    assert not request.runs
    assert "--new-thing" in request.refusal


def test_snakemake_that_cannot_be_asked_looks():
    workflow = SimpleNamespace(output_settings=SimpleNamespace(dryrun=False))
    assert not requested(workflow).runs


def pass_checks(found):
    """Write down that the checks were passed, so that no command loads chemistry."""
    outcome = {
        "level_of_theory": level_of_theory(found),
        "atoms": {"methanol": {"methanol": 6}},
        "elements": {"methanol": [1, 6, 8]},
    }
    files.write_json(checked._stamp(found), outcome)


@pytest.fixture
def edited(tmp_path):
    """A campaign with a spent budget; its configuration then got a larger one, and longer runs."""
    found = campaign(tmp_path, limits={"core_hours": 1e-9})
    finish(found, 1, "budget_spent")
    folder = found.folder / "methanol"
    for shard in range(found.systems["methanol"].settings.resources.label_shards):
        frames = found.systems["methanol"].start("methanol")
        frames.info |= {"status": NOT_COMPUTED, "paid": 3600.0}
        write_frames(folder / f"seed/labels/{shard:03d}.parquet", [frames])
    changes = {"limits": {"core_hours": 100.0}, "exploration": {"time_ps": 3.0}}
    content = yaml.safe_load((tmp_path / "trial.yaml").read_text()) | changes
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(content))
    pass_checks(Campaign.resolve(content, "trial.yaml"))
    return tmp_path


def snakemake(folder, *words, **environment):
    return subprocess.run(
        [SNAKEMAKE, "--snakefile", ROOT / "Snakefile", "--configfile", "trial.yaml", *words],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_looking_leaves_every_byte(edited):
    before = content_of(edited / "results")
    for words in ("-nq", "-nF", "--summary", "--unlock"):
        done = snakemake(edited, *words.split())
        assert done.returncode == 0, done.stderr
        assert content_of(edited / "results") == before, words
    # The campaign is one that a run would change.
    content = yaml.safe_load((edited / "trial.yaml").read_text())
    found, lock = begin_run(content, "trial.yaml")
    try:
        assert len(budget.reopen(found)) == 1
    finally:
        os.close(lock)
    after = content_of(edited / "results")
    assert before.keys() - after.keys() >= {
        "trial/methanol/seed/labels/000.parquet",
        "trial/methanol/gen000/verdict.json",
    }
    assert after["trial/campaign.json"] != before["trial/campaign.json"]


def test_a_configuration_with_a_repeated_section_is_refused_before_anything_is_done(edited):
    with (edited / "trial.yaml").open("a") as opened:
        opened.write("limits:\n  core_hours: 1:30\n")
    before = content_of(edited / "results")
    done = snakemake(edited, "--cores", "1")
    assert done.returncode == 1
    assert "limits stands here and in line" in done.stderr
    assert "1:30: YAML reads this as the number 90" in done.stderr
    assert content_of(edited / "results") == before


def test_a_second_command_on_an_edited_configuration_changes_nothing(edited):
    running = Campaign.read(edited / "results/trial/campaign.json")
    lock = files.take_lock(running.lock)
    before = content_of(edited / "results")
    try:
        done = snakemake(edited, "--cores", "1")
    finally:
        os.close(lock)
    assert done.returncode == 1
    assert "another Halcyon process works here (process" in done.stderr
    assert content_of(edited / "results") == before
    assert Campaign.read(running.file) == running


MISTAKEN = """
import sys
from halcyon.campaign import looking
from snakemake.cli import main

looking.ONLY_HOW -= {"jobname"}
main()
"""


def test_a_run_that_was_taken_for_a_look_runs_nothing(edited):
    words = "--snakefile {} --configfile trial.yaml -c1 -R report --jobname x".format(
        ROOT / "Snakefile"
    ).split()
    before = content_of(edited / "results")
    for more, message in (
        ((), "took this command for one that runs no jobs (it does not know --jobname"),
        (("--no-hooks",), "no lock is held: nothing was done"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", MISTAKEN, *words, *more],
            cwd=edited,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert message in " ".join((done.stderr + done.stdout).split())
        if not more:
            assert content_of(edited / "results") == before


def test_the_first_command_of_a_rule_that_fails_is_the_end_of_its_job(tmp_path):
    found = campaign(tmp_path)
    pass_checks(found)
    finish(found, 1)
    (found.folder / "methanol/gen000/verdict.json").unlink()
    done = snakemake(tmp_path, "--cores", "1", "--until", "verdict")
    assert done.returncode == 1
    assert "Error in rule verdict" in done.stderr  # its traces are no Parquet file
    assert "some output files are missing" not in done.stderr
    assert not (found.folder / "methanol/logs/report.log").exists()
    assert (found.folder / "methanol/gen000/traces.parquet").exists()
