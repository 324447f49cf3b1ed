"""Campaigns on a real SLURM, and everything that dies there: the same labels and the same verdict.

`make test` runs the everyday part, `make faults` all of it. What was seen: docs/cluster.md.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import torch
from cheap_cp2k import CHEAP, TRUSTING
from private_slurm import PrivateSlurm, kill_group, missing

from halcyon import jsonl
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
    # So many that those left do not fit into the grace of a wall time, 10 s and more.
    "training": {"epochs": 500, "updates": None},
    "exploration": {
        "temperatures_K": [300.0],
        "replicas": 4,
        "time_ps": 2.0,
        "equilibration_ps": 0.2,
        "candidate_interval_fs": 20.0,
        "checkpoint_s": 0.5,
    },
    "selection": {"frames": 4},
    "saturation": {"events_per_ns": 1e5},  # all that such short runs can show
    "limits": {"max_generations": 1, "label_budget": 60},
    "certificate": {"when": "always", "replicas": 4, "time_ps": 1.2, "nve_time_ps": 0.2},
    "resources": {"label_shards": 1},
}
QUICK = (
    # Without accounting, and asking often: the cluster is this machine.
    *("--slurm-no-account", "--slurm-status-command", "squeue"),
    *("--max-status-checks-per-second", "2", "--latency-wait", "5"),
)

ONE_CORE_JOB = (
    *("srun", "--partition=gpu", "--ntasks=1", "--cpus-per-task=1", "--mem=1000", "--time=60"),
    *("taskset", "--cpu-list", "0"),  # SLURM would, with its plugins for affinity or cgroups
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

    def command(
        self, config: str, *more: str, profile: str, partition: str, inside: Sequence[str]
    ) -> list[str]:
        words = [*inside, sys.executable, str(Path(__file__).with_name("impatient_snakemake.py"))]
        words += ["--configfile", config, "--workflow-profile", f"profiles/{profile}"]
        resources = [f"slurm_partition={partition}", "mem_mb=1000", "disk_mb=1000"]
        words += [*QUICK, "--default-resources", *resources, *more]
        return self.slurm.command(words, self.checkout.folder)

    def teach(self, name: str, stage: str, *, peak_mb: float) -> None:
        """Let a new campaign believe that its last such stage has taken so much memory."""
        entry = {"system": "methanol", "generation": None, "stage": stage, "what": "made up"}
        entry |= {"number": 99, "work": 1.0, "seconds": 0.01, "cores": 1, "peak_mb": peak_mb}
        folder = self.checkout / f"results/{name}"
        folder.mkdir(parents=True)
        stamp = {"finished": "2026-01-01T00:00:00+00:00"}
        (folder / "stages.jsonl").write_text(json.dumps(entry | stamp) + "\n")

    @property
    def environment(self) -> dict[str, str]:
        # OpenMPI's ranks would wait busily for each other, on cores that they have to share here.
        mpi = {"OMPI_MCA_mpi_yield_when_idle": "1"}
        return self.checkout.environment | mpi | {"OMP_NUM_THREADS": "1"}

    def start(
        self,
        config: str,
        *more: str,
        profile: str = "slurm",
        partition: str = "cpu",
        inside: Sequence[str] = (),
    ) -> subprocess.Popen:
        """Start a campaign; `inside` is the beginning of the command that starts Snakemake."""
        with (self.checkout / f"{config}.out").open("ab") as out:
            return subprocess.Popen(
                self.command(config, *more, profile=profile, partition=partition, inside=inside),
                env=self.environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def finish(self, process: subprocess.Popen, config: str, seconds: float = 1800) -> None:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_group(process)
            code = -1
        assert code == 0, self.said(config)

    def said(self, config: str) -> str:
        return (self.checkout / f"{config}.out").read_text()

    def outcome(self, name: str, system: str = "methanol") -> dict:
        """All labels, bit by bit, and all verdicts."""
        folder = self.checkout / f"results/{name}/{system}"
        labels = {
            str(path.relative_to(folder)): [
                (
                    *(f.info["key"], f.info["status"], f.info.get("energy"), f.info["split"]),
                    f.arrays["forces"].tobytes() if "forces" in f.arrays else None,
                )
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
        for verdict in verdicts.values():
            verdict.pop("core_hours")  # what it cost is the machine's
        return {"labels": labels, "verdicts": verdicts}


@pytest.fixture(scope="session")
def cluster(checkout, slurm):
    return Cluster(checkout, slurm)


@pytest.fixture(scope="session")
def calm(cluster):
    """The undisturbed campaign: it runs on the GPUs' node, while faults are made on the other."""
    config = cluster.configure("calm")
    process = cluster.start(config, profile="slurm-gpu", partition="gpu")
    yield config, process
    if process.poll() is None:
        kill_group(process)


@pytest.fixture(scope="session")
def undisturbed(cluster, calm):
    config, process = calm
    cluster.finish(process, config)
    return cluster.outcome("calm")


SAVED = {
    "train": "gen000/train/mace-run/checkpoint.pt",
    "explore": "gen000/explore/*.checkpoint",
    "certify": "start/certify/*.checkpoint",
    "label": "start/label/seed-000/journal.jsonl",
}
"""What a stage goes on from, in the campaign's work folder."""


class Storm:
    """A campaign that things happen to, while one of its stages works."""

    system = "methanol"

    def __init__(self, cluster: Cluster, config: str, *options: str) -> None:
        self.cluster, self.slurm = cluster, cluster.slurm
        self.name = config.removesuffix(".yaml")
        self.config, self.options = config, options
        self.work = cluster.checkout / f"results/{self.name}/work/{self.system}"
        self.hit: list[int] = []
        self.seen: list[str] = []
        self.process = cluster.start(self.config, *self.options)

    def starts(self, rule: str) -> int:
        """Wait for a job of the rule that was not hit yet; gives its id."""

        def fresh() -> set[int]:
            assert self.process.poll() is None, self.cluster.said(self.config)
            return self.slurm.running(rule, "cpu") - set(self.hit)

        (job,) = self.slurm.wait(fresh, 600)
        self.hit.append(job)
        return job

    def works(self, rule: str) -> int:
        """Wait until it has saved something, too, and done something since."""
        job, since = self.starts(rule), time.time()
        self.slurm.wait(lambda: self.saved_at(rule) > since, 300, every=0.05)
        time.sleep(1)
        return job

    def goes_on(self, rule: str) -> None:
        """Wait for the next attempt: what it first saves is not less than there was."""
        before = self.progress(rule)
        job, since = self.starts(rule), time.time()
        self.slurm.wait(lambda: self.saved_at(rule) > since, 300, every=0.05)
        assert self.progress(rule) >= before > 0
        self.hit.remove(job)

    def progress(self, rule: str) -> int:
        """How far the stage has come: frames, epochs or steps."""
        paths = list(self.work.glob(SAVED[rule]))
        if rule == "label":
            return sum(len(path.read_bytes().splitlines()) for path in paths)
        saved = [torch.load(path, weights_only=True) for path in paths]
        return sum(content["epoch" if rule == "train" else "step"] for content in saved)

    def saved_at(self, rule: str) -> float:
        """When the stage has last saved something."""
        times = []
        for path in self.work.glob(SAVED.get(rule, rule)):
            with suppress(FileNotFoundError):  # a checkpoint is replaced, or done with
                times.append(path.stat().st_mtime)
        return max(times, default=0.0)

    def program(self, rule: str) -> psutil.Process:
        """The stage's own process, of the only job of the rule."""
        campaign = f"results/{self.name}/campaign.json"
        for process in psutil.Process(self.slurm.init.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if words[1:2] and words[1].endswith(f"scripts/{rule}.py") and campaign in words:
                    return process
        raise AssertionError(f"no {rule}.py runs")

    def note(self, what: str, rule: str, job: int, since: float) -> None:
        """Write down what was seen of a fault: the table in docs/cluster.md."""
        restarts = self.slurm.run("scontrol", "show", "job", str(job))
        restarts = restarts.split("Restarts=")[1].split()[0]
        saved = self.saved_at(rule)
        lost = f"{since - saved:.1f} s of work lost" if saved else "nothing saved yet"
        lost = "nothing lost" if saved > since else lost
        state = self.slurm.state(job)
        self.seen.append(f"{what}, {rule}: SLURM says {state}, {restarts} restarts; {lost}")
        print(time.strftime("%H:%M:%S"), self.seen[-1], flush=True)  # noqa: T201 - for the table

    def over(self, job: int, *states: str, seconds: float = 300) -> None:
        """Wait until a job is in one of these states."""
        self.slurm.wait(lambda: self.slurm.state(job) in states, seconds)

    # What can happen.

    def out_of_memory(self, rule: str) -> None:
        """Once or more often: until the product has asked for enough."""
        asked = []
        while True:
            job, since = self.starts(rule), time.time()
            asked.append(self.slurm.asked_mb(job))
            self.over(job, "OUT_OF_MEMORY", "CANCELLED", "FAILED", "COMPLETED")
            if self.slurm.state(job) == "COMPLETED":
                break
            self.note(f"{asked[-1]} MB are too little", rule, job, since)
        assert len(asked) > 1
        assert all(b == pytest.approx(1.5 * a, abs=1) for a, b in pairwise(asked))

    def scancel(self, rule: str) -> None:
        job, since = self.works(rule), time.time()
        self.slurm.run("scancel", str(job))
        self.over(job, "CANCELLED")
        self.note("scancel", rule, job, since)
        self.goes_on(rule)

    def walltime(self, rule: str) -> None:
        """A job that hangs, until its time is up."""
        job, since = self.works(rule), time.time()
        self.program(rule).suspend()
        self.slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
        self.over(job, "TIMEOUT")
        self.note("wall time", rule, job, since)
        self.goes_on(rule)

    def requeued_from_a_drained_node(self, rule: str) -> None:
        job, since = self.works(rule), time.time()
        self.slurm.run("scontrol", "update", "NodeName=cpu1", "State=drain", "Reason=test")
        self.slurm.run("scontrol", "requeue", str(job))
        self.over(job, "PENDING")
        time.sleep(5)
        assert self.slurm.state(job) == "PENDING"
        self.note("node drained, job requeued", rule, job, since)
        self.slurm.run("scontrol", "update", "NodeName=cpu1", "State=resume")
        self.hit.remove(job)  # the same job goes on
        self.goes_on(rule)

    def node_dies(self, rule: str) -> None:
        job = self.works(rule)
        self.slurm.kill_node("cpu1")
        since = time.time()
        self.over(job, "PENDING", "NODE_FAIL")
        self.note("node dies", rule, job, since)
        self.slurm.run("slurmd", "-N", "cpu1")
        self.hit.remove(job)
        self.goes_on(rule)

    def controller_restarts(self, rule: str) -> None:
        job, since = self.works(rule), time.time()
        self.slurm.kill_controller()
        time.sleep(20)
        self.slurm.start_controller()
        self.slurm.wait(lambda: self.slurm.state(job), 60)
        self.note("slurmctld killed, back after 20 s", rule, job, since)
        self.hit.remove(job)

    def workflow_killed(self, rule: str) -> None:
        """The old job is still at work when the new run's job starts: it has to make way."""
        job, since = self.works(rule), time.time()
        kill_group(self.process)
        assert self.slurm.state(job) == "RUNNING"
        old = self.program(rule)
        old.suspend()
        self.process = self.cluster.start(self.config, *self.options)
        self.hit.remove(self.starts(rule))
        old.resume()
        self.over(job, "FAILED")
        self.note("Snakemake killed and started again", rule, job, since)
        self.goes_on(rule)

    def finish(self) -> dict:
        self.cluster.finish(self.process, self.config)
        return self.cluster.outcome(self.name, self.system)


def test_cancelled_and_the_workflow_killed(cluster, calm, request):  # noqa: ARG001 - both at a time
    storm = Storm(cluster, cluster.configure("everyday"))
    storm.scancel("train")
    storm.workflow_killed("explore")
    assert storm.finish() == request.getfixturevalue("undisturbed")


def test_a_campaign_runs_on_the_cluster(cluster, undisturbed):
    assert list(undisturbed["verdicts"]) == ["gen000"]
    assert len(undisturbed["labels"]["seed/labels/000.parquet"]) == 19
    done = cluster.slurm.jobs("completed", partition="gpu").values()
    rules = {what.removeprefix("rule_").split("_")[0] for what in done}
    models = {"train", "domain", "explore", "select", "certify", "final"}
    assert rules == {"forcefield", "label"} | models


def test_snakemake_in_a_job_of_one_core(cluster):
    # Labels alone: tblite's last digits depend on its threads.
    two = {"label_shards": 1, "label_cores": 2}
    config = cluster.configure("from-a-job", resources=two)
    capped = cluster.start(config, "--until", "label", "--cores", "all", inside=ONE_CORE_JOB)
    assert capped.wait(120) != 0
    assert "--cores 1 (`all`: those that Snakemake itself has)" in cluster.said(config)
    assert "resources.label_cores of methanol is 2" in cluster.said(config)

    cluster.finish(cluster.start(config, "--until", "label", inside=ONE_CORE_JOB), config)
    stages = jsonl.read(cluster.checkout / "results/from-a-job/stages.jsonl")
    cores = {entry["stage"]: entry["cores"] for entry in stages}
    assert cores == {"forcefield": 1, "seed": 1, "label": 2}
    jobs = cluster.slurm.jobs("completed", partition="cpu").items()
    newest = max(job for job, what in jobs if what.startswith("rule_label"))
    assert cluster.slurm.asked_cores(newest) == 2


@pytest.mark.faults
def test_everything_dies_once(cluster, calm, request):  # noqa: ARG001 - both at a time
    config = cluster.configure("storm")
    # No stage can have taken so little: it makes the final model's first attempt, which learns from
    # the last domain, ask for 800 MB, and the next ones for half as much again each.
    cluster.teach("storm", "domain", peak_mb=-100)
    storm = Storm(cluster, config)
    storm.scancel("train")
    storm.walltime("train")
    storm.requeued_from_a_drained_node("explore")
    storm.node_dies("explore")
    storm.workflow_killed("certify")
    storm.controller_restarts("certify")
    storm.out_of_memory("final")
    assert storm.finish() == request.getfixturevalue("undisturbed")


CP2K = {
    "systems": ["water"],
    "reference": CHEAP,
    "sanity": TRUSTING,
    "seed_labels": {"train": 3, "validation": 5, "test": 5},
    "selection": {"frames": 2},
    "training": {"epochs": 5, "updates": None},
    "exploration": {"replicas": 4, "time_ps": 1.0, "candidate_interval_fs": 20.0},
    "certificate": {"when": "never"},
}


class Labelling(Storm):
    """One that CP2K labels."""

    system = "water"


@pytest.mark.cp2k
@pytest.mark.faults
def test_labels_of_cp2k(cluster, cheap_level):  # noqa: ARG001 - makes water and its level
    config = cluster.configure("calm-cp2k", **CP2K)
    calm = cluster.start(config, partition="gpu")
    try:
        storm = Labelling(cluster, cluster.configure("storm-cp2k", **CP2K))
        storm.scancel("label")
        storm.workflow_killed("label")
        found = storm.finish()
        cluster.finish(calm, config)
    finally:
        if calm.poll() is None:
            kill_group(calm)
    assert found == cluster.outcome("calm-cp2k", "water")
    statuses = [status for _, status, *_ in found["labels"]["seed/labels/000.parquet"]]
    assert statuses == ["ok"] * 13


@pytest.mark.cp2k
@pytest.mark.faults
def test_cp2k_with_mpi(cluster, cheap_level):  # noqa: ARG001
    reference = CHEAP | {"command": "srun --mpi=pmix -n 2 cp2k.psmp"}
    shards = {"resources": {"label_shards": 6}}  # the first has 3 of 13 frames
    config = cluster.configure("mpi", **CP2K | {"reference": reference} | shards)
    mpi = ("--set-resources", "label:mpi=srun", "label:tasks=2")
    label = "results/mpi/water/seed/labels/000.parquet"
    cluster.finish(cluster.start(config, *mpi, "--", label), config)
    work = cluster.checkout / "results/mpi/work/water/start/label/seed-000"
    outputs = [path.read_text() for path in work.glob("*/cp2k.out")]
    assert len(outputs) == 3
    ranks = "Total number of message passing processes"
    for said in outputs:
        assert next(line for line in said.splitlines() if ranks in line).split()[-1] == "2"
    spent = {
        f.info["core_seconds"] / f.info["seconds"] for f in read_frames(cluster.checkout / label)
    }
    assert spent == {2.0}
