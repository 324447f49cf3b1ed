"""Campaigns on a real SLURM, and everything that dies there: the same labels and the same verdict.

All of it takes too long for `make test`: `make faults`. What was seen: docs/cluster.md.
"""

import json
import shutil
import subprocess
import time

import pytest
from cheap_cp2k import CHEAP, TRUSTING
from private_slurm import PrivateSlurm, kill_group, missing

from halcyon.frames import read_frames

pytestmark = [
    pytest.mark.faults,
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
    "training": {"epochs": 300, "updates": None},
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
    *("--latency-wait", "5"),
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

    def command(self, config: str, *more: str, profile: str, partition: str) -> list[str]:
        snakemake = self.checkout.command(config)[0]
        words = [snakemake, "--configfile", config, "--workflow-profile", f"profiles/{profile}"]
        resources = [f"slurm_partition={partition}", "mem_mb=1000", "disk_mb=1000"]
        words += [*QUICK, "--default-resources", *resources, *more]
        return self.slurm.command(words, self.checkout.folder)

    @property
    def environment(self) -> dict[str, str]:
        # OpenMPI's ranks would wait busily for each other, on cores that they have to share here.
        mpi = {"OMPI_MCA_mpi_yield_when_idle": "1"}
        return self.checkout.environment | mpi | {"OMP_NUM_THREADS": "1"}

    def start(
        self, config: str, *more: str, profile: str = "slurm", partition: str = "cpu"
    ) -> subprocess.Popen:
        with (self.checkout / f"{config}.out").open("ab") as out:
            return subprocess.Popen(
                self.command(config, *more, profile=profile, partition=partition),
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


class Storm:
    """A campaign that things happen to, while one of its stages works."""

    system = "methanol"
    rule = "train"
    job = "gen000-train"
    saved = "gen000/train/mace-run/checkpoint.pt"

    def __init__(self, cluster: Cluster, config: str, *options: str) -> None:
        self.cluster, self.slurm = cluster, cluster.slurm
        self.name = config.removesuffix(".yaml")
        self.config, self.options = config, options
        self.process = cluster.start(self.config, *options)
        self.work = cluster.checkout / f"results/{self.name}/work/{self.system}"
        self.hit: list[int] = []
        self.seen: list[str] = []

    def working(self) -> int:
        """Wait for a job of the rule that was not hit yet and has saved something; gives its id."""

        def ours() -> int | None:
            assert self.process.poll() is None, (
                self.cluster.checkout / f"{self.config}.out"
            ).read_text()
            job = self.slurm.running(self.rule, "cpu")
            return None if job in self.hit else job

        job = self.slurm.wait(ours, 900)
        self.hit.append(job)
        self.saves(time.time())
        return job

    def saves(self, since: float) -> None:
        """Wait for the stage to save something."""

        def newer() -> bool:
            return any(p.stat().st_mtime > since + 0.1 for p in self.work.glob(self.saved))

        self.slurm.wait(newer, 300)

    def note(self, what: str, job: int) -> None:
        """Write down what was seen of a fault."""
        told = self.work / f"attempts/{self.job}.jsonl"
        lines = told.read_text().splitlines() if told.exists() else []
        ends = [line for line in lines if '"ended"' in line]
        restarts = (
            self.slurm.run("scontrol", "show", "job", str(job)).split("Restarts=")[1].split()[0]
        )
        state = self.slurm.state(job)
        self.seen.append(
            f"{what}: SLURM says {state}, {restarts} restarts; saved {len(ends)} times"
        )
        print(time.strftime("%H:%M:%S"), self.seen[-1], flush=True)  # noqa: T201 - for the table

    def over(self, job: int, *states: str, seconds: float = 300) -> None:
        """Wait until a job is in one of these states."""
        self.slurm.wait(lambda: self.slurm.state(job) in states, seconds)

    # What can happen.

    def scancel(self) -> None:
        job = self.working()
        self.slurm.run("scancel", str(job))
        self.over(job, "CANCELLED")
        self.note("scancel", job)

    def walltime(self) -> None:
        job = self.working()
        self.slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
        self.over(job, "TIMEOUT")
        self.note("walltime", job)

    def requeued_from_a_drained_node(self) -> None:
        job = self.working()
        self.slurm.run("scontrol", "update", "NodeName=cpu1", "State=drain", "Reason=test")
        self.slurm.run("scontrol", "requeue", str(job))
        self.over(job, "PENDING")
        time.sleep(5)
        assert self.slurm.state(job) == "PENDING"
        self.note("node drained, job requeued", job)
        self.slurm.run("scontrol", "update", "NodeName=cpu1", "State=resume")
        self.over(job, "RUNNING")
        self.hit.remove(job)  # the same job, and the next to be hit

    def node_dies(self) -> None:
        job = self.working()
        self.slurm.kill_node("cpu1")
        self.over(job, "PENDING", "NODE_FAIL")
        self.note("node dies", job)
        self.slurm.run("slurmd", "-N", "cpu1")
        self.over(job, "RUNNING")
        self.hit.remove(job)

    def controller_restarts(self) -> None:
        job = self.working()
        self.slurm.kill_controller()
        time.sleep(20)
        self.slurm.start_controller()
        self.slurm.wait(lambda: self.slurm.state(job), 60)
        self.note("slurmctld killed, back after 20 s", job)
        self.hit.remove(job)

    def workflow_killed(self) -> None:
        job = self.working()
        kill_group(self.process)
        assert self.slurm.state(job) == "RUNNING"
        self.process = self.cluster.start(self.config, *self.options)
        self.over(job, "FAILED", "COMPLETED")
        self.note("Snakemake killed and started again", job)

    def finish(self) -> dict:
        self.cluster.finish(self.process, self.config)
        return self.cluster.outcome(self.name, self.system)


def test_cancelled_and_the_workflow_killed(cluster, calm, request):  # noqa: ARG001 - both at a time
    storm = Storm(cluster, cluster.configure("everyday"))
    storm.scancel()
    storm.workflow_killed()
    assert storm.finish() == request.getfixturevalue("undisturbed")


@pytest.mark.faults
def test_everything_dies_once(cluster, calm, request):  # noqa: ARG001 - both at a time
    # 700 MB are not enough for two Snakemakes and PyTorch; the second attempt is given 2800 MB.
    memory = ("--set-resources", "train:mem_mb=700*attempt**2")
    storm = Storm(cluster, cluster.configure("storm"), *memory)
    job = storm.slurm.wait(lambda: storm.slurm.running("train", "cpu"), 900)
    storm.hit.append(job)
    storm.over(job, "OUT_OF_MEMORY", "CANCELLED", "FAILED", "COMPLETED")
    storm.note("out of memory", job)
    for fault in (
        storm.scancel,
        storm.walltime,
        storm.requeued_from_a_drained_node,
        storm.node_dies,
        storm.controller_restarts,
        storm.workflow_killed,
    ):
        fault()
    assert storm.finish() == request.getfixturevalue("undisturbed")
    assert len(storm.seen) == 7


def test_a_campaign_runs_on_the_cluster(cluster, undisturbed):
    assert list(undisturbed["verdicts"]) == ["gen000"]
    assert len(undisturbed["labels"]["seed/labels/000.parquet"]) == 19
    done = cluster.slurm.jobs("completed", partition="gpu").values()
    rules = {what.removeprefix("rule_").split("_")[0] for what in done}
    assert rules == {"forcefield", "label", "train", "domain", "explore", "select"}


class Labelling(Storm):
    """Things happen while CP2K labels the seed."""

    system = "water"
    rule = "label"
    job = "seed-label-000"
    saved = "start/label/seed-000/journal.jsonl"


CP2K = {
    "systems": ["water"],
    "reference": CHEAP,
    "sanity": TRUSTING,
    "seed_labels": {"train": 3, "validation": 5, "test": 5},
    "selection": {"frames": 2},
    "training": {"epochs": 5, "updates": None},
}
cp2k = pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="no cp2k.psmp")


@pytest.mark.cp2k
@pytest.mark.faults
@cp2k
def test_labels_of_cp2k(cluster, cheap_level):  # noqa: ARG001 - makes water and its level
    config = cluster.configure("calm-cp2k", **CP2K)
    calm = cluster.start(config, partition="gpu")
    try:
        storm = Labelling(cluster, cluster.configure("storm-cp2k", **CP2K))
        storm.scancel()
        storm.workflow_killed()
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
@cp2k
def test_cp2k_with_mpi(cluster, cheap_level):  # noqa: ARG001
    reference = CHEAP | {"command": "srun --mpi=pmix -n 2 cp2k.psmp"}
    config = cluster.configure("mpi", **CP2K | {"reference": reference})
    mpi = ("--set-resources", "label:mpi=srun", "label:tasks=2")
    label = "results/mpi/water/seed/labels/000.parquet"
    cluster.finish(cluster.start(config, *mpi, "--", label), config)
    work = cluster.checkout / "results/mpi/work/water/start/label/seed-000"
    outputs = [path.read_text() for path in work.glob("*/cp2k.out")]
    assert len(outputs) == 13
    ranks = "Total number of message passing processes"
    for said in outputs:
        assert next(line for line in said.splitlines() if ranks in line).split()[-1] == "2"
    spent = {
        f.info["core_seconds"] / f.info["seconds"] for f in read_frames(cluster.checkout / label)
    }
    assert spent == {2.0}
