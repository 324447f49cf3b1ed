"""Campaigns on a real SLURM, and everything that dies there: the same labels and the same verdict.

What is tried in `make test` are the faults that happen every day; those marked `faults` take longer
(`make faults`). Their table: docs/cluster.md.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from private_slurm import PrivateSlurm, kill_group, missing

from halcyon.frames import read_frames

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing()), reason=f"no SLURM here: {missing()}"),
]

SMALL = {
    "systems": ["methanol"],
    "pretraining": {"enabled": False},
    "teacher": {
        "md_frames": 90,
        "displaced_frames": 4,
        "stretched_frames": 2,
        "contact_frames": 0,
        "temperatures_K": [300.0],
    },
    "seed_labels": {"train": 8, "validation": 6, "test": 5},
    "training": {"epochs": 20, "updates": None},
    "exploration": {
        "temperatures_K": [300.0],
        "replicas": 4,
        "time_ps": 1.0,
        "candidate_interval_fs": 20.0,
        "checkpoint_s": 0.5,
    },
    "selection": {"frames": 4},
    "limits": {"max_generations": 1, "label_budget": 60},
    "resources": {"label_shards": 1},
}
QUICK = (
    # Without accounting, and asking often: the cluster is this machine.
    *("--slurm-no-account", "--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "1", "--max-status-checks-per-second", "2"),
    *("--latency-wait", "5", "--default-resources", "slurm_partition=cpu", "mem_mb=1000"),
)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    with PrivateSlurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


class Cluster:
    """Campaigns of a checkout, on the cluster."""

    def __init__(self, checkout, slurm) -> None:
        self.checkout, self.slurm = checkout, slurm

    def configure(self, name: str, **changes) -> str:
        content = SMALL | {"label_store": f"results/{name}-labels"} | changes
        return self.checkout.configure(name, **content)

    def command(self, config: str, *more: str) -> list[str]:
        snakemake = self.checkout.command(config)[0]
        words = [snakemake, "--configfile", config, "--workflow-profile", "profiles/slurm"]
        return self.slurm.command([*words, *QUICK, *more], self.checkout.folder)

    @property
    def environment(self) -> dict[str, str]:
        return self.checkout.environment | {"OMP_NUM_THREADS": "1"}

    def start(self, config: str, *more: str) -> subprocess.Popen:
        with (self.checkout / f"{config}.out").open("ab") as out:
            return subprocess.Popen(
                self.command(config, *more),
                env=self.environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def run(self, config: str, *more: str) -> str:
        return self.finish(self.start(config, *more), config)

    def finish(self, process: subprocess.Popen, config: str, seconds: float = 600) -> str:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_group(process)
            code = -1
        said = (self.checkout / f"{config}.out").read_text()
        assert code == 0, said
        return said

    def outcome(self, name: str, system: str = "methanol") -> dict:
        """All labels, bit by bit, and all verdicts."""
        folder = self.checkout / f"results/{name}/{system}"
        labels = {
            str(path.relative_to(folder)): [
                (f.info["key"], f.info["status"], f.info.get("energy"), f.info["split"])
                for f in read_frames(path)
            ]
            for path in sorted(folder.glob("*/labels/*.parquet"))
        }
        verdicts = {
            path.parent.name: json.loads(path.read_text())
            for path in sorted(folder.glob("*/verdict.json"))
        }
        assert labels
        assert verdicts
        return {"labels": labels, "verdicts": verdicts}


@pytest.fixture(scope="session")
def cluster(checkout, slurm):
    return Cluster(checkout, slurm)


@pytest.fixture(scope="session")
def undisturbed(cluster):
    config = cluster.configure("calm")
    cluster.run(config)
    return cluster.outcome("calm")


def test_a_campaign_runs_on_the_cluster(cluster, undisturbed):
    assert list(undisturbed["verdicts"]) == ["gen000"]
    assert len(undisturbed["labels"]["seed/labels/000.parquet"]) == 19
    done = cluster.slurm.jobs("completed").values()
    rules = {what.removeprefix("rule_").split("_")[0] for what in done}
    assert rules == {"forcefield", "label", "train", "domain", "explore", "select"}
