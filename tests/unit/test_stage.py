"""Stage programs as jobs: stopped, killed, taken over, out of disk, not allowed to write."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from halcyon import files, jsonl
from halcyon.campaign import stage
from halcyon.campaign.accounts import read_ledger
from halcyon.campaign.attempts import Attempts, Ended
from halcyon.campaign.budget import Spent
from halcyon.campaign.checks import begin
from halcyon.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_RESUME, InputError, Interrupted

CONTENT = {
    "campaign": "trial",
    "systems": ["methanol"],
    "reference": {"backend": "xtb"},
    "systems_folder": ROOT / "config/systems",
    "teacher": {
        "temperatures_K": [300.0],
        "md_frames": 400,
        "md_interval_fs": 100.0,
        "displaced_frames": 3,
        "stretched_frames": 3,
        "contact_frames": 0,
    },
}


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").symlink_to(ROOT / "config")
    return begin(CONTENT, "trial.yaml")


def words(campaign, *more):
    log = campaign.folder / "logs/explore.log"
    given = ["--campaign", campaign.file, "--system", "methanol", "--log", log, *more]
    return [str(word) for word in given]


def job_of(campaign, *more):
    return stage.Job(stage.parser("A stage.").parse_args(words(campaign, *more)))


def leaves(campaign, main):
    """Exit code of a stage."""
    with pytest.raises(SystemExit) as left:
        stage.run(stage.parser("A stage."), main, words(campaign))
    return left.value.code


def attempts(campaign):
    return Attempts(campaign.attempts("methanol", "explore")).read()


def test_ends_are_written_down_until_the_job_is_done(campaign):
    def stopped(_job):
        raise Interrupted("stopped at 3 of 5 steps")

    def wrong(_job):
        raise InputError("a.yaml: b = 1: expected 2")

    assert leaves(campaign, stopped) == EXIT_RESUME
    assert leaves(campaign, wrong) == EXIT_BAD_INPUT
    assert [one.ended for one in attempts(campaign)] == [Ended.SAVED, Ended.FAILED]
    stage.run(stage.parser("A stage."), lambda _job: None, words(campaign))
    assert attempts(campaign) == []


def test_what_fails_of_itself_is_not_tried_for_ever(campaign, monkeypatch, capsys):
    calls = []

    def broken(_job):
        calls.append(1)
        raise InputError("a.yaml: b = 1: expected 2")

    for run, expected in (("first run", 2), ("second run", 4)):
        monkeypatch.setenv(stage.RUN_VARIABLE, run)
        for _ in range(4):
            assert leaves(campaign, broken) == EXIT_BAD_INPUT
        assert len(calls) == expected
    assert "not tried again in this run: a.yaml: b = 1" in " ".join(capsys.readouterr().err.split())


def test_being_out_of_time_is_no_failure(campaign, monkeypatch):
    monkeypatch.setenv(stage.RUN_VARIABLE, "run")

    def stopped(_job):
        raise Interrupted("saved")

    for _ in range(5):
        assert leaves(campaign, stopped) == EXIT_RESUME
    assert len(attempts(campaign)) == 5


def test_a_later_run_takes_over(campaign, monkeypatch):
    handle = files.take_lock(campaign.lock)
    monkeypatch.setenv(stage.RUN_VARIABLE, campaign.run())
    monkeypatch.setattr(stage, "LOOK_EVERY_S", 0.0)
    job = job_of(campaign)
    assert not job.stopping()
    os.close(handle)
    assert not job.stopping()  # its workflow is gone, but no other has come
    handle = files.take_lock(campaign.lock)
    assert job.stopping()
    os.close(handle)


def test_no_job_begins_under_another_run_or_none(campaign, monkeypatch, capsys):
    handle = files.take_lock(campaign.lock)
    for run, message in (
        (stage.NO_RUN, "no lock is held"),
        ("process 1 on elsewhere", "belongs to a run of the workflow that is over"),
    ):
        monkeypatch.setenv(stage.RUN_VARIABLE, run)
        assert leaves(campaign, lambda _job: pytest.fail("it began")) == EXIT_BAD_INPUT
        assert message in " ".join(capsys.readouterr().err.split())
    assert attempts(campaign) == []
    os.close(handle)


def test_waits_for_a_job_that_still_works_at_it(campaign, tmp_path):
    ready = tmp_path / "ready"
    script = (
        "import sys, time; from pathlib import Path; from halcyon import files\n"
        f"with files.only_one({str(tmp_path / 'work')!r}):\n"
        f"    Path({str(ready)!r}).touch(); time.sleep(2)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script]):
        while not ready.exists():
            time.sleep(0.05)
        began = time.monotonic()
        with job_of(campaign).alone(tmp_path / "work"):
            assert time.monotonic() - began > 1
    log = (campaign.folder / "logs/explore.log").read_text()
    assert "waiting for process" in log


def test_does_not_wait_longer_than_it_has_time(campaign, tmp_path):
    job = job_of(campaign, "--seconds", "0.1")
    with (
        files.only_one(tmp_path / "work"),
        pytest.raises(Interrupted, match="another Halcyon process"),
        job.alone(tmp_path / "work"),
    ):
        pass


def test_the_ledger_counts_all_attempts_and_their_memory(campaign):
    Attempts(campaign.attempts("methanol", "explore")).end(0, Ended.SAVED, 1.0)
    tried = Attempts(campaign.attempts("methanol", "explore"))
    tried.end(tried.begin("run"), Ended.SAVED, 1000.0)
    stage.run(
        stage.parser("A stage."), lambda job: job.done("all of it", Path("x")), words(campaign)
    )
    (entry,) = jsonl.read(campaign.folder / "stages.jsonl")
    assert 1000 <= entry["seconds"] < 1010
    assert entry["peak_mb"] > 10
    assert entry["number"] == -1
    assert entry["units"] == 1, "job: this stage has no other unit"


def test_a_kill_in_mid_line_of_the_ledger_costs_no_other_stage(campaign):
    ledger = campaign.folder / "stages.jsonl"
    whole = b'{"system": "methanol", "stage": "train", "seconds": 7200.0, "cores": 1}\n'
    ledger.write_bytes(whole + b'{"system": "methanol", "stage": "dom')
    stage.run(
        stage.parser("A stage."), lambda job: job.done("all of it", Path("x")), words(campaign)
    )
    entries = read_ledger(ledger, "methanol")
    assert [entry.get("what") for entry in entries] == [None, "all of it"]
    limits = campaign.settings.limits.model_copy(update={"core_hours_of": "everything"})
    spent = Spent(campaign, limits)
    assert 2.0 <= spent.core_hours() < 2.1


def test_a_full_disk_is_said_and_leaves_nothing_half_written(campaign, capsys):
    resource = pytest.importorskip("resource")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails as on a full disk
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    target = campaign.folder / "model.model"
    files.write_text(target, "old")

    def writes(_job):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, usual[1]))
        files.write_text(target, "new" * 20_000)

    try:
        assert leaves(campaign, writes) == EXIT_FAILED
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert target.read_text() == "old"
    assert not list(campaign.folder.glob(".*.tmp"))
    said = " ".join(capsys.readouterr().err.split())
    assert os.strerror(errno.EFBIG) in said
    assert "run the same command again" in said
    assert "Traceback" not in said
