"""The checks of a campaign run elsewhere, once for the same content."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from fabricated import campaign

from conftest import ROOT
from halcyon import files
from halcyon.campaign.campaign import (
    CAMPAIGN_VARIABLE,
    NO_RUN,
    RUN_VARIABLE,
    Campaign,
    SystemPlan,
)
from halcyon.campaign.checked import begin_once, begin_run, campaign_of_job, fingerprint
from halcyon.errors import InputError


@pytest.fixture
def content(tmp_path):
    campaign(tmp_path)
    (tmp_path / "results/trial/campaign.json").unlink()
    return yaml.safe_load((tmp_path / "trial.yaml").read_text())


def no_process(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refuse)


def test_the_second_time_nothing_is_checked_again(content, monkeypatch, tmp_path):
    first = begin_once(content, "trial.yaml")
    identity = files.read_json(tmp_path / "results/trial/identity.json")
    no_process(monkeypatch)
    again = begin_once(content, "trial.yaml")
    assert again == first
    with monkeypatch.context() as no_chemistry:
        no_chemistry.setattr(SystemPlan, "start", None)
        assert again.systems["methanol"].atoms == {"methanol": 6}
        job = campaign_of_job(content, "trial.yaml")
        assert job.systems["methanol"].atoms == {"methanol": 6}
    assert first.file.exists()
    # What may change from one moment to the next still counts.
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(InputError, match="min_free_disk_GB"):
            begin_once(content, "trial.yaml")
    files.write_json(tmp_path / "results/trial/identity.json", identity | {"seed": 1})
    with pytest.raises(InputError, match="began with another seed"):
        begin_once(content, "trial.yaml")


def test_another_content_is_another_check(content, tmp_path, monkeypatch):
    found = fingerprint(Campaign.resolve(content, ""))
    assert fingerprint(Campaign.resolve(content, "")) == found
    changed = content | {"exploration": {"time_ps": 3.0}}
    assert fingerprint(Campaign.resolve(changed, "")) != found
    monkeypatch.setenv("CP2K_DATA_DIR", "/elsewhere")
    assert fingerprint(Campaign.resolve(content, "")) != found
    monkeypatch.undo()
    xml = tmp_path / "small-molecules.xml"
    xml.write_text(xml.read_text() + "\n")
    assert fingerprint(Campaign.resolve(content, "")) != found


def test_a_fault_is_told_as_if_checked_here_and_leaves_no_trace(content, tmp_path):
    bad = content | {"seed_labels": {"train": 100_000}}
    with pytest.raises(InputError, match="the teacher makes about"):
        begin_once(bad, "trial.yaml", dry=True)
    assert not (tmp_path / "results/prepared").exists()


def test_a_job_has_the_settings_that_its_run_began_with(content, monkeypatch):
    running, lock = begin_run(content, "trial.yaml")
    monkeypatch.setenv(RUN_VARIABLE, running.run())
    monkeypatch.setenv(CAMPAIGN_VARIABLE, str(running.file))
    edited = content | {"exploration": {"time_ps": 3.0}, "seed": 7}
    assert campaign_of_job(edited, "trial.yaml") == running
    os.close(lock)
    handle = files.take_lock(running.lock)  # a later run
    with pytest.raises(InputError, match="belongs to a run of the workflow that is over"):
        campaign_of_job(content, "trial.yaml")
    monkeypatch.setenv(RUN_VARIABLE, NO_RUN)
    with pytest.raises(InputError, match="belongs to a run"):
        campaign_of_job(content, "trial.yaml")
    os.close(handle)


def test_a_run_with_a_fault_lets_go_of_the_lock(content):
    for _ in range(2):
        with pytest.raises(InputError, match="the teacher makes about"):
            begin_run(content | {"seed_labels": {"train": 100_000}}, "trial.yaml")
    found, lock = begin_run(content, "trial.yaml", dry=True)
    assert not found.file.exists()
    os.close(lock)


def test_snakemake_keeps_no_chemistry_in_memory():
    text = (ROOT / "Snakefile").read_text()
    imports = re.findall(r"^from halcyon[^(\n]*(?:\([^)]*\))?$", text, re.MULTILINE)
    assert len(imports) > 5
    code = "\n".join(
        [
            "import sys",
            *imports,
            "print({'torch', 'rdkit', 'openmm', 'pandas', 'scipy'} & sys.modules.keys())",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src"
    )
    assert done.stdout.strip() == "set()"
