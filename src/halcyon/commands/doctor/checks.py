"""Will a campaign run here? Each check is a line: ok, a warning or a fault, and what to do.

    from pathlib import Path
    from halcyon.commands.doctor.checks import examine

    for check in examine(Path("config/quickstart.yaml"), profile=None, trials=False):
        print(check.verdict, check.name, check.found, check.remedy)

Nothing is assumed: files are locked, clocks compared, and a tiny job of each kind is run. Checks
end after a time limit, each.

Not for: the campaign's own configuration beyond what `campaign.checks.begin` says of it.
"""

import fcntl
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from halcyon import config
from halcyon.campaign.campaign import Campaign
from halcyon.commands.plan.measure import run_trial
from halcyon.errors import InputError

OK, WARNING, FAULT = "ok", "warning", "fault"
PYTHON = SpecifierSet(">=3.11,<3.13")
CLOCK_S = 2.0
"""Difference of clocks from which on files seem to be of the future."""
LIMIT_S = 300.0
COMMAND_S = 20.0
COMFORT_GB = 10.0
PROFILE_FILES = ("profile.yaml", "config.v9+.yaml", "config.v8+.yaml", "config.yaml")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        verdict: ok, warning or fault.
        found: what was seen.
        remedy: what to do; empty where nothing is.
    """

    name: str
    verdict: str
    found: str
    remedy: str = ""


def examine(
    configfile: Path,
    profile: str | None,
    *,
    limit_s: float = LIMIT_S,
    trials: bool = True,
    constraints: Path = Path("constraints.txt"),
) -> Iterator[Check]:
    """All checks, each as soon as it is done.

    Args:
        configfile: the campaign's.
        profile: folder of Snakemake's profile, or the name of one below `workflow/profiles`.
        limit_s: of each trial.
        trials: whether tiny jobs are run.
        constraints: versions that were tested.
    """
    yield _python()
    yield from versions()
    yield from tested(constraints)
    yield _threads()
    content: dict[str, Any] | None = None
    if profile is not None:
        try:
            content = read_profile(profile)
            yield Check("profile", OK, f"{profile}: executor {content.get('executor', 'local')}")
        except InputError as error:
            yield Check("profile", FAULT, str(error), "name a folder with a profile.yaml")
    slurm = content is not None and content.get("executor") == "slurm"
    if content is not None:
        yield from _profile(content)
    if slurm and content is not None:
        yield from _slurm(content)
    try:
        campaign = Campaign.resolve(config.read_yaml(configfile), str(configfile))
    except InputError as error:
        yield Check("configuration", FAULT, str(error), "mend the file")
        return
    yield Check("configuration", OK, f"{configfile}: {', '.join(campaign.systems)}")
    for key, folder in (
        ("results", campaign.folder),
        ("label_store", campaign.settings.label_store),
    ):
        yield from disk(key, folder, campaign.settings.limits.min_free_disk_GB)
    yield _reference(campaign)
    if trials:
        system = next(iter(campaign.systems))
        for kind in ("forcefield", "model", "label"):
            yield _trial(kind, configfile, campaign, system, limit_s)


def _python() -> Check:
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    if PYTHON.contains(version):
        return Check("Python", OK, f"{version}, {sys.executable}")
    return Check("Python", FAULT, f"{version}: expected {PYTHON}", "make install PYTHON=python3.11")


def versions() -> Iterator[Check]:
    """What is installed, against what Halcyon needs."""
    from packaging.requirements import Requirement

    wrong, missing = [], []
    try:
        needed = importlib.metadata.requires("halcyon-ml") or []
    except importlib.metadata.PackageNotFoundError:
        needed = []
        yield Check("packages", WARNING, "halcyon-ml is not installed here", "make install")
    for line in needed:
        requirement = Requirement(line)
        if requirement.marker is not None:
            continue  # for developers
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} (expected {requirement.specifier})")
    if missing or wrong:
        said = "; ".join([*(f"{name} is missing" for name in missing), *wrong])
        yield Check("packages", FAULT, said, "make install, in a fresh .venv if that does not help")
    elif needed:
        yield Check("packages", OK, f"{len(needed)} as pyproject.toml asks")


def tested(constraints: Path) -> Iterator[Check]:
    """What is installed, against the versions that were tested."""
    if not constraints.is_file():
        return
    other = []
    for line in constraints.read_text(encoding="utf-8").splitlines():
        name, _, pinned = line.partition("==")
        try:
            version = importlib.metadata.version(name)
            if Version(version).release != Version(pinned).release:
                other.append(f"{name} {version} (tested: {pinned})")
        except (importlib.metadata.PackageNotFoundError, InvalidVersion):
            continue
    if other:
        some = ", ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        yield Check("tested versions", WARNING, some, "pip install -c constraints.txt -e .")
    else:
        yield Check("tested versions", OK, f"as in {constraints}")


def _threads() -> Check:
    told = {name: os.environ[name] for name in THREADS if name in os.environ}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if any(not value.isdigit() or int(value) > (cores or 1) for value in told.values()):
        return Check(
            "threads",
            WARNING,
            f"{told}, {cores} cores",
            "unset them: every job is given the threads that Snakemake granted",
        )
    return Check("threads", OK, f"{cores} cores; each job sets its own threads")


def read_profile(profile: str) -> dict[str, Any]:
    """Content of a profile's file.

    Raises:
        InputError: there is no such profile.
    """
    places = [Path(profile), Path("workflow/profiles") / profile, Path("profiles") / profile]
    for place in places:
        if place.is_file():
            return config.read_yaml(place)
        for name in PROFILE_FILES:
            if (place / name).is_file():
                return config.read_yaml(place / name)
    raise InputError(f"--profile {profile}: no profile in {', '.join(map(str, places))}")


def _profile(content: dict[str, Any]) -> Iterator[Check]:
    """Settings without which labels would be paid for twice, and the executor's plugin."""
    triggers = content.get("rerun-triggers")
    if triggers is not None and not {*triggers} <= {"mtime", "input"}:
        yield Check(
            "rerun-triggers",
            FAULT,
            f"{triggers}: expected [mtime, input]",
            "with others, a new checkout or an edited comment relabels everything",
        )
    elif triggers is None:
        yield Check(
            "rerun-triggers",
            WARNING,
            "not set in the profile",
            "set rerun-triggers: [mtime, input]",
        )
    if content.get("keep-incomplete"):
        yield Check("keep-incomplete", FAULT, "true: half a file would count as whole", "remove it")
    executor = content.get("executor", "local")
    if executor not in ("local", "dryrun", "touch"):
        name = f"snakemake-executor-plugin-{executor}"
        try:
            yield Check("executor", OK, f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Check("executor", FAULT, f"{executor}: {name} is missing", f"pip install {name}")


def partitions(content: dict[str, Any]) -> set[str]:
    """SLURM partitions that a profile names."""
    found: set[str] = set()
    for section in ("default-resources", "set-resources"):
        found |= _values(content.get(section), "slurm_partition")
    return {name for value in found for name in value.split(",")}


def _values(content: Any, key: str) -> set[str]:
    """Values of a key at any depth; lists of `key=value` are read, too."""
    if isinstance(content, dict):
        mine = {str(v).strip("'\"") for k, v in content.items() if k == key}
        return mine.union(*(_values(value, key) for value in content.values()))
    if isinstance(content, list):
        pairs = [re.fullmatch(rf"(?:\w+:)?{key}=(.+)", str(item)) for item in content]
        return {pair[1].strip("'\"") for pair in pairs if pair}
    return set()


def _slurm(content: dict[str, Any]) -> Iterator[Check]:
    for program in ("sbatch", "squeue", "scancel", "sinfo"):
        if shutil.which(program) is None:
            yield Check(
                "SLURM",
                FAULT,
                f"{program} is not on PATH",
                "start on a login node of the cluster, or load its SLURM module",
            )
            return
    code, said = _ask(["sinfo", "--noheader", "--format=%R"])
    if code:
        yield Check("SLURM", FAULT, f"sinfo: {said}", "ask the cluster's people: SLURM is down?")
        return
    there = {*said.split()}
    yield Check("SLURM", OK, f"partitions: {', '.join(sorted(there))}")
    if wrong := sorted(partitions(content) - there):
        yield Check(
            "partitions",
            FAULT,
            f"{', '.join(wrong)}: not in this cluster, which has {', '.join(sorted(there))}",
            "change slurm_partition in the profile",
        )
    elif not partitions(content):
        yield Check(
            "partitions",
            WARNING,
            "the profile names none: the cluster's default is used",
            "set slurm_partition in default-resources, and a GPU one for train and explore",
        )
    if content.get("slurm-status-command") != "squeue":
        code, said = _ask(["sacct", "--noheader", "--starttime=now", "--format=JobID"])
        if code:
            yield Check(
                "accounting",
                FAULT,
                f"sacct does not answer: {said}",
                "set slurm-status-command: squeue, or Snakemake waits for ever",
            )


def _ask(command: list[str]) -> tuple[int, str]:
    """Exit code and words of a command that ends at once."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    if done.returncode:
        return done.returncode, (done.stderr.strip().splitlines() or ["no word"])[-1]
    return 0, done.stdout.strip()


def disk(key: str, folder: Path, wanted_GB: float) -> Iterator[Check]:
    """Space, writing, locking and clock of the file system that a folder is, or will be, on."""
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
    said = f"{key}: {folder}: {free:.1f} GB free"
    if free < wanted_GB:
        yield Check(
            "disk",
            FAULT,
            f"{said}, limits.min_free_disk_GB is {wanted_GB:g}",
            "free some (halcyon clean), or put results elsewhere",
        )
    elif free < COMFORT_GB:
        yield Check("disk", WARNING, said, "see what halcyon plan says it takes")
    else:
        yield Check("disk", OK, said)
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".halcyon-doctor-") as file:
            file.write(b"here")
            file.flush()
            os.fsync(file.fileno())
            skew = Path(file.name).stat().st_mtime - time.time()
            yield _locking(key, Path(file.name))
    except OSError as error:
        yield Check(
            "writing",
            FAULT,
            f"{key}: {there}: {error.strerror}",
            "choose a folder that you may write to (results, label_store)",
        )
        return
    if abs(skew) > CLOCK_S:
        yield Check(
            "clock",
            FAULT,
            f"{key}: a new file is {skew:+.1f} s from this machine's clock",
            "have the clocks set (NTP): Snakemake compares the times of files",
        )
    else:
        yield Check("clock", OK, f"{key}: a new file is {skew:+.2f} s from this machine's clock")


LOCKER = """
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(9)
"""


def _locking(key: str, path: Path) -> Check:
    """Whether a lock that this process holds keeps another process out."""
    remedy = "put results on a file system with locks (Lustre: mount with flock; NFS: version 4)"
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        code = subprocess.run(
            [sys.executable, "-I", "-S", "-c", LOCKER, str(path)], check=False, timeout=COMMAND_S
        ).returncode
    except OSError as error:
        return Check("locking", FAULT, f"{key}: flock: {error.strerror}", remedy)
    finally:
        os.close(handle)
    if code != 9:
        return Check("locking", FAULT, f"{key}: flock does not keep a second process out", remedy)
    return Check("locking", OK, f"{key}: flock keeps a second process out")


def _reference(campaign: Campaign) -> Check:
    """The reference's own checks, on the start structures."""
    name = f"reference {campaign.settings.reference.backend}"
    try:
        reference = campaign.reference()
        starts = [plan.start(s) for plan in campaign.systems.values() for s in plan.structures]
        reference.check(starts)
    except InputError as error:
        return Check(name, FAULT, str(error), _remedy(campaign, str(error)))
    level = reference.level
    words = [level.get(key) for key in ("program", "version", "method", "name")]
    return Check(name, OK, " ".join(str(word) for word in words if word))


def _remedy(campaign: Campaign, error: str) -> str:
    reference = campaign.settings.reference
    if not isinstance(reference, config.Cp2kReference) or "PATH" not in error:
        return "mend what it names"
    return (
        "get CP2K: apt-get install cp2k, conda env create -f envs/cp2k.yaml, or module load cp2k; "
        "or name its command in reference.command"
    )


def _trial(kind: str, configfile: Path, campaign: Campaign, system: str, limit_s: float) -> Check:
    name = {"forcefield": "OpenMM job", "model": "MACE job"}.get(
        kind, f"{campaign.settings.reference.backend} job"
    )
    found = run_trial(kind, configfile, system, threads=1, limit_s=limit_s, tiny=True)
    return judged(name, found, campaign.systems[system].settings.resources.device)


def judged(name: str, found: dict[str, Any], device: str) -> Check:
    """What a trial's outcome means."""
    if "error" in found:
        remedy = "mend what it names"
        if found.get("timeout"):
            remedy = "is the machine busy, or starting many threads? Try again, or raise --limit"
        elif device == "cuda" and "cuda" in found["error"].lower():
            remedy = "no usable GPU here: ask for one, or set resources.device: cpu"
        return Check(name, FAULT, found["error"], remedy)
    if name == "MACE job" and device == "auto" and found["gpu"] is None:
        return Check(name, OK, f"{found['about']} (no GPU here), {found['trial_s']:.0f} s")
    gpu = f", {found['gpu']}" if found.get("gpu") else ""
    return Check(name, OK, f"{found['about']}{gpu}, {found['trial_s']:.0f} s")
