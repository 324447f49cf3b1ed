"""Profiles: what must be the same in all of them is, and each says why."""

import re

import pytest
import yaml

from conftest import ROOT

PROFILES = sorted((ROOT / "workflow/profiles").glob("*/profile.yaml"))
CLUSTER = [path for path in PROFILES if path.parent.name != "default"]
EVERYWHERE = (
    "nolock",
    "rerun-incomplete",
    "rerun-triggers",
    "max-checksum-file-size",
    "keep-going",
    "scheduler",
)
MODELS = {"pretrain", "train", "domain", "explore", "select", "certify"}


def read(path):
    return yaml.safe_load(path.read_text())


def test_all_are_there():
    names = {path.parent.name for path in PROFILES}
    assert names == {"default", "slurm", "slurm-gpu", "slurm-mixed"}


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.parent.name)
def test_what_protects_labels_is_the_same_everywhere(path):
    # Snakemake loads one workflow profile, not the default one beneath it.
    default = read(ROOT / "workflow/profiles/default/profile.yaml")
    assert {key: read(path)[key] for key in EVERYWHERE} == {key: default[key] for key in EVERYWHERE}


@pytest.mark.parametrize("path", CLUSTER, ids=lambda path: path.parent.name)
def test_attempts_and_status_are_the_same_on_every_cluster(path):
    keys = (
        "executor",
        "retries",
        "slurm-requeue",
        "slurm-status-attempts",
        "latency-wait",
        "cores",
    )
    slurm = read(ROOT / "workflow/profiles/slurm/profile.yaml")
    assert {key: read(path)[key] for key in keys} == {key: slurm[key] for key in keys}


def test_every_job_of_a_cluster_says_how_long_and_how_much():
    # A job that does not would get no more memory after it was killed for it, and could not tell
    # when its time is up.
    words = (ROOT / "Snakefile").read_text()
    local = re.search(r"^localrules:\n((?:    \w+,\n)+)", words, re.MULTILINE)[1]
    for path in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for name in re.findall(r"^(?:rule|checkpoint) (\w+):", path.read_text(), re.MULTILINE):
            if f" {name}," in local:
                continue
            for what in ("runtime_min", "memory_mb"):
                assert f'sized("{name}", "{what}")' in path.read_text(), f"{path}: rule {name}"


def test_a_gpu_is_never_shared():
    assert read(ROOT / "workflow/profiles/default/profile.yaml")["resources"] == ["gpu=1"]
    for name in ("slurm-gpu", "slurm-mixed"):
        rules = read(ROOT / f"workflow/profiles/{name}/profile.yaml")["set-resources"]
        assert {rule for rule, asked in rules.items() if asked.get("gpu") == 1} == MODELS
