"""Model files that the user names: refused before the first job, and read again when replaced."""

import os
import re
import time

import numpy as np
import pytest
import torch
import yaml
from fabricated import campaign, finish
from test_looking import pass_checks, snakemake
from test_mace_model import TINY

from conftest import ROOT
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.checked import begin_once, fingerprint
from halcyon.campaign.checks import begin
from halcyon.config import DomainSettings
from halcyon.errors import InputError
from halcyon.models import mace

METHANOL = [1, 6, 8]


def write_model(path, elements=METHANOL, heads=("Default",)):
    """Write a small MACE model with random weights."""
    from mace.tools.scripts_utils import extract_config_mace_model

    model = mace.new(TINY, dict.fromkeys(elements, 0.0), scale=1.0, mean_neighbours=5.0)
    if len(heads) > 1:
        count = len(heads)
        settings = extract_config_mace_model(model)
        settings |= {"heads": list(heads), "atomic_energies": np.zeros((count, len(elements)))}
        settings |= {"atomic_inter_scale": [1.0] * count, "atomic_inter_shift": [0.0] * count}
        model = mace.modules.ScaleShiftMACE(**settings)
    torch.save(model, path)
    return str(path)


@pytest.fixture
def content(tmp_path):
    campaign(tmp_path)
    (tmp_path / "results/trial/campaign.json").unlink()
    return yaml.safe_load((tmp_path / "trial.yaml").read_text())


def started(path, **more):
    return {"pretraining": {"start": path, **more}}


def watched(*paths, signals=("committee",)):
    return {"domain": {"signals": list(signals), "committee": list(paths)}}


FAULTS = {
    "start: several heads": (
        started,
        {"heads": ("low", "high")},
        "pretraining.start: {path}: pretraining.start_head is missing: the model has several "
        "heads; expected one of low, high",
    ),
    "start: wrong head": (
        lambda path: started(path, start_head="middle"),
        {"heads": ("low", "high")},
        "pretraining.start: {path}: pretraining.start_head = 'middle': expected one of low, high",
    ),
    "start: missing element": (
        started,
        {"elements": [1, 6]},
        "pretraining.start: {path}: the model to fine-tune lacks O; it knows H, C",
    ),
    "committee: several heads": (
        watched,
        {"heads": ("low", "high")},
        "domain.committee: {path}: the model has several heads (low, high): expected a model "
        "with one",
    ),
    "committee: missing element": (
        watched,
        {"elements": [1, 8]},
        "domain.committee: {path}: the model of the committee lacks C; it knows H, O",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_does_not_suit_is_refused_before_any_job(content, tmp_path, fault):
    section, model, message = FAULTS[fault]
    path = write_model(tmp_path / "other.model", **model)
    with pytest.raises(InputError) as error:
        begin(content | section(path), "trial.yaml", dry=True)
    expected = "trial.yaml: system methanol: " + message.format(path=path)
    assert str(error.value).startswith(expected)


def test_each_member_of_the_committee_is_read(content, tmp_path):
    good = write_model(tmp_path / "good.model")
    (tmp_path / "text.model").write_text("not a model")
    begin(content | watched(good, good), "trial.yaml", dry=True)
    bad = watched(good, str(tmp_path / "text.model"))
    with pytest.raises(InputError, match=r"committee: .*text\.model: not a readable MACE model"):
        begin(content | bad, "trial.yaml", dry=True)


def test_models_that_suit_are_taken(content, tmp_path):
    """A head that is named, and elements beyond those of the system."""
    both = write_model(tmp_path / "both.model", [1, 6, 7, 8], ("low", "high"))
    member = write_model(tmp_path / "member.model", [1, 6, 7, 8])
    sections = started(both, start_head="high") | watched(member)
    assert begin(content | sections, "trial.yaml", dry=True).systems["methanol"]
    # A committee that is not watched is not read.
    assert begin(content | watched(both, signals=["latent"]), "trial.yaml", dry=True).systems


def test_a_two_headed_committee_is_refused_by_the_jobs_too(tmp_path):
    path = write_model(tmp_path / "both.model", heads=("low", "high"))
    settings = DomainSettings(signals=["committee"], committee=[path])
    with pytest.raises(InputError, match=re.escape(f"{path}: the model has several heads")):
        mace.load_committee(settings, device="cpu")


@pytest.mark.parametrize("section", [started, watched])
def test_a_replaced_model_is_checked_again(content, tmp_path, section):
    path = write_model(tmp_path / "other.model")
    changed = content | section(path)
    begin_once(changed, "trial.yaml")
    write_model(tmp_path / "other.model", heads=("low", "high"))
    with pytest.raises(InputError, match="several heads"):
        begin_once(changed, "trial.yaml", dry=True)


def test_a_missing_model_has_a_fingerprint(content, tmp_path):
    member = tmp_path / "other.model"
    resolved = Campaign.resolve(content | watched(str(member)), "")
    missing = fingerprint(resolved)
    member.write_bytes(b"a model")
    assert fingerprint(resolved) != missing


def planned(folder):
    """Number of jobs of each rule that `snakemake -n` shows."""
    done = snakemake(folder, "-n")
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    table = shown.partition("Job stats:")[2].partition("total")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)", table, re.MULTILINE)}


def replace_with_new(path):
    path.write_bytes(b"another model")
    when = time.time()
    os.utime(path, (when, when))


@pytest.mark.parametrize("signals", [["committee"], ["latent"]])
def test_a_replaced_committee_makes_domain_and_exploration_again(tmp_path, signals):
    member = tmp_path / "other.model"
    member.write_bytes(b"a model")
    os.utime(member, (time.time() - 1e5,) * 2)
    resolved = campaign(tmp_path, **watched(str(member), signals=signals))
    finish(resolved, 1, "saturated")
    pass_checks(resolved)
    assert planned(tmp_path) == {}
    replace_with_new(member)
    pass_checks(resolved)
    jobs = planned(tmp_path)
    if signals == ["committee"]:
        assert jobs["domain"] == jobs["explore"] == 1  # then the verdict decides
        assert "train" not in jobs
    else:
        assert "domain" not in jobs


def test_every_rule_whose_program_reads_the_committee_has_its_files_as_inputs():
    reading = {
        path.stem
        for path in (ROOT / "scripts").glob("*.py")
        if re.search(r"load_committee|watched_model|watched\(", path.read_text())
    }
    rules = [path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk")]
    inputs = {
        name: block
        for text in rules
        for name, block in re.findall(
            r"^rule (\w+):\n    input:\n(.*?)    output:", text, re.MULTILINE | re.DOTALL
        )
    }
    assert reading == {"domain", "explore", "select_frames", "certify"}
    rules_of = {name.removesuffix("_frames") for name in reading}
    assert {name for name, block in inputs.items() if "committee=committee," in block} == rules_of
