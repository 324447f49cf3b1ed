"""A SLURM of our own for tests: two nodes, two partitions, two pretended GPUs, gone when we are.

Everything lives in namespaces: the daemons see their own /etc/slurm, processes, network and host
name, and the kernel ends them all when the test does, however it does. Nothing of the machine's
own SLURM, if it has one, is touched or seen.

Needs root with the right to make namespaces, and Debian's slurm-wlm and munge (`make slurm`).
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "unshare", "nsenter", "ip")
ADDRESS = "10.81.19.1"
CONF = """\
ClusterName=halcyon
SlurmctldHost=controller({address})
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge/socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SchedulerParameters=batch_sched_delay=0
GresTypes=gpu
MinJobAge=3600
KillWait=10
SlurmdTimeout=10
ReturnToService=2
NodeName=cpu1 NodeHostname=controller NodeAddr={address} Port=17001 CPUs=4 RealMemory=64000
NodeName=gpu1 NodeHostname=controller NodeAddr={address} Port=17002 CPUs=4 RealMemory=64000{gpus}
PartitionName=cpu Nodes=cpu1 Default=YES MaxTime=120
PartitionName=gpu Nodes=gpu1 MaxTime=120
"""
# The first process of the namespaces: it ends with its standard input, and all others with it.
# A network beside the loopback: else glibc looks no name up (AI_ADDRCONFIG), and OpenMPI does not
# start.
INIT = """\
set -e
shopt -s nullglob
ip link set lo up
ip link add here type veth peer name there
ip addr add {address}/24 dev here
ip link set here up
ip link set there up
hostname controller
mount --bind {folder}/etc /etc/slurm
mount --bind {folder}/hosts /etc/hosts
# Debian's SLURM looks for PMIx, which MPI programs under srun need, by its development name.
for lib in /usr/lib/*/pmix2/lib; do
  cp -a $lib {folder}/pmix
  ln -sf libpmix.so.2 {folder}/pmix/libpmix.so
  mount --bind {folder}/pmix $lib
done
munged --force --key-file={folder}/munge/key --socket={folder}/munge/socket \
  --pid-file={folder}/munge/pid --log-file={folder}/munge/log --seed-file={folder}/munge/seed
echo ready
cat
"""


def missing() -> str:
    """Why there can be no SLURM here; empty: there can."""
    gone = [name for name in NEEDED if shutil.which(name) is None]
    if gone:
        return f"no {', '.join(gone)}: make slurm"
    trial = [
        "unshare",
        "--mount",
        "--pid",
        "--net",
        "--uts",
        "--mount-proc",
        "--fork",
        "bash",
        "-c",
    ]
    trial += ["ip link add here type veth peer name there && hostname controller"]
    if os.getuid() != 0 or subprocess.run(trial, capture_output=True, check=False).returncode:
        return "no right to make namespaces with a network of their own (needs root)"
    return ""


class PrivateSlurm:
    """The cluster; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("etc", "state", "munge"):
            (folder / part).mkdir(parents=True)
        names = {"folder": folder, "address": ADDRESS, "gpus": " Gres=gpu:2"}
        (folder / "etc/slurm.conf").write_text(CONF.format(**names))
        devices = [folder / f"gpu{number}" for number in range(2)]
        for device in devices:
            device.touch()
        gres = "".join(f"NodeName=gpu1 Name=gpu File={device}\n" for device in devices)
        (folder / "etc/gres.conf").write_text(gres)
        hosts = Path("/etc/hosts").read_text()
        (folder / "hosts").write_text(f"{hosts}\n{ADDRESS} controller cpu1 gpu1\n")
        (folder / "munge/key").write_bytes(os.urandom(128))
        for path, mode in (
            (folder, 0o755),
            (folder / "munge", 0o755),
            (folder / "munge/key", 0o600),
        ):
            path.chmod(mode)
        (folder / "init.sh").write_text(INIT.format(**names))

    def __enter__(self) -> Self:
        Path("/etc/slurm").mkdir(exist_ok=True)  # Debian's packages make it
        self.init = subprocess.Popen(
            [
                *("unshare", "--mount", "--pid", "--net", "--uts", "--mount-proc"),
                *("--fork", "--kill-child", "bash", str(self.folder / "init.sh")),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self.init.stdout.readline().strip() != "ready":
            raise RuntimeError(f"no namespaces; see {self.folder}")
        children = Path(f"/proc/{self.init.pid}/task/{self.init.pid}/children")
        self.inside = int(children.read_text().split()[0])
        self.start_controller()
        for node in ("cpu1", "gpu1"):
            self.run("slurmd", "-N", node)
        self.wait(lambda: self.run("sinfo", "-h", "-N", "-o", "%T").split() == ["idle", "idle"], 60)
        return self

    def __exit__(self, *_: object) -> None:
        self.init.stdin.close()
        self.init.wait(30)

    def command(self, words: Sequence[str], folder: Path = Path("/")) -> list[str]:
        """A command that runs where the cluster is, in a folder."""
        enter = ["nsenter", "-t", str(self.inside), "--mount", "--pid", "--net", "--uts"]
        return [*enter, f"--wd={folder}", *words]

    def run(self, *words: str, fails: bool = False) -> str:
        """Run one of SLURM's commands; what it printed."""
        done = subprocess.run(
            self.command(words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        assert fails or done.returncode == 0, done.stdout
        return done.stdout

    def start_controller(self) -> None:
        self.run("slurmctld")

    def kill_controller(self) -> None:
        """kill -9 of slurmctld: what a crash of its machine looks like from outside."""
        self.run("kill", "-9", (self.folder / "slurmctld.pid").read_text().strip())

    def kill_node(self, node: str) -> None:
        """kill -9 of all that runs on a node: what its power failing looks like from outside."""
        running = ("squeue", "-h", "--states=running", f"--nodelist={node}", "-o", "%i")
        jobs = self.run(*running).split()
        titles = (f"slurmd -N {node}", *(f"slurmstepd: [{job}." for job in jobs))
        doomed: list[psutil.Process] = []
        for process in psutil.Process(self.init.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith(titles):
                    doomed += [process, *process.children(recursive=True)]
        assert len(doomed) > len(titles)
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def jobs(self, *states: str, partition: str = "cpu,gpu") -> dict[int, str]:
        """What jobs are there for (rule and wildcards), by job id; only of these states."""
        words = ["squeue", "-h", f"--states={','.join(states)}", f"--partition={partition}"]
        lines = self.run(*words, "-o", "%i %k", fails=True)
        found = (line.split(maxsplit=1) for line in lines.splitlines())
        return {int(words[0]): words[1] for words in found if words[0].isdigit()}

    def running(self, rule: str, partition: str) -> set[int]:
        """Running jobs of a rule."""
        found = self.jobs("running", partition=partition).items()
        return {job for job, what in found if what.startswith(f"rule_{rule}_")}

    def state(self, job: int) -> str:
        words = ("squeue", "-h", "--states=all", "-j", str(job), "-o", "%T")
        return self.run(*words, fails=True).strip()

    def asked_mb(self, job: int) -> int:
        """Memory that a job was submitted with, MB."""
        words = ("squeue", "-h", "--states=all", "-j", str(job), "-O", "MinMemory")
        return int(self.run(*words).strip().removesuffix("M"))

    def asked_cores(self, job: int) -> int:
        """Cores that a job was submitted with."""
        return int(self.run("squeue", "-h", "--states=all", "-j", str(job), "-o", "%C"))

    @staticmethod
    def wait(happened: Callable[[], object], seconds: float = 240, every: float = 0.2) -> object:
        """What `happened` gives, as soon as that is true."""
        deadline = time.monotonic() + seconds
        while not (found := happened()):
            assert time.monotonic() < deadline, f"not within {seconds:g} s"
            time.sleep(every)
        return found


def kill_group(process: subprocess.Popen) -> None:
    """kill -9 of all processes of a group: no time to say good-bye."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
