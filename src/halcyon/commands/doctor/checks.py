"""Checks whether a campaign will run here: each gives ok, a warning or a fault, and what to do.

    from pathlib import Path
    from halcyon.commands.doctor.checks import examine

    for check in examine(Path("config/quickstart.yaml"), profile=None, trials=False):
        print(check.verdict, check.name, check.finding, check.remedy)

The checks try things out: they lock files, compare clocks, and run a tiny job of each kind. Every
check has a time limit.

Not for: the campaign's configuration beyond what `campaign.checks.begin` checks of it.
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
from halcyon.commands.plan.trial import GRID
from halcyon.errors import InputError

OK, WARNING, FAULT = "ok", "warning", "fault"
PYTHON = SpecifierSet(">=3.11,<3.14")
CLOCK_S = 2.0
"""A larger difference between clocks is a fault, s: new files would seem to be from the future."""
LIMIT_S = 300.0
"""Time limit of a tiny job, s."""
COMMAND_S = 20.0
"""Time limit of a command, s."""
COMFORT_GB = 10.0
"""Less free disk than this is a warning, GB."""
GRID_EV_PER_A = 0.01
"""A larger change of a force on a finer grid is a warning, eV/Å: a quarter of 1 kcal/mol/Å, which
the error of a good model is."""
PROFILE_FILES = ("profile.yaml", "config.v9+.yaml", "config.v8+.yaml", "config.yaml")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: what was checked.
        verdict: ok, warning or fault.
        finding: what was seen.
        remedy: what to do; empty if there is nothing to do.
    """

    name: str
    verdict: str
    finding: str
    remedy: str = ""


def examine(
    configfile: Path,
    profile: str | None,
    *,
    limit_s: float = LIMIT_S,
    trials: bool = True,
    constraints: Path = Path("constraints.txt"),
) -> Iterator[Check]:
    """Run all checks; each outcome is returned as soon as it is known.

    Args:
        configfile: the campaign's file.
        profile: folder of a Snakemake profile, or the name of one in `workflow/profiles`.
        limit_s: time limit of each tiny job, s.
        trials: whether tiny jobs are run.
        constraints: file with the versions that were tested.
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
        yield Check("configuration", FAULT, str(error), "correct the file")
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
        for trial in ("forcefield", "model", "label"):
            yield _trial(trial, configfile, campaign, system, limit_s)
        if isinstance(campaign.settings.reference, config.Cp2kReference):
            result = run_trial(GRID, configfile, system, threads=1, limit_s=limit_s)
            yield judged_grid(result)


def _python() -> Check:
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    if PYTHON.contains(version):
        return Check("Python", OK, f"{version}, {sys.executable}")
    return Check("Python", FAULT, f"{version}: expected {PYTHON}", "make install PYTHON=python3.11")


def versions() -> Iterator[Check]:
    """Compare installed packages with what Halcyon needs."""
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
            continue  # needed by developers only
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} (expected {requirement.specifier})")
    if missing or wrong:
        faults = "; ".join([*(f"{name} is missing" for name in missing), *wrong])
        remedy = "make install; if that does not help, delete .venv first"
        yield Check("packages", FAULT, faults, remedy)
    elif needed:
        yield Check("packages", OK, f"{len(needed)} as pyproject.toml asks")


def tested(constraints: Path) -> Iterator[Check]:
    """Compare installed packages with the versions that were tested."""
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
    limits = {name: os.environ[name] for name in THREADS if name in os.environ}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if any(not value.isdigit() or int(value) > (cores or 1) for value in limits.values()):
        return Check(
            "threads",
            WARNING,
            f"{', '.join(f'{k}={v}' for k, v in limits.items())}, {cores} cores",
            "unset them; every job then uses the threads that Snakemake gives it",
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
    """Check settings without which labels would be computed twice, and the executor's plugin."""
    triggers = content.get("rerun-triggers")
    if triggers is not None and not {*triggers} <= {"mtime", "input"}:
        yield Check(
            "rerun-triggers",
            FAULT,
            f"{triggers}: expected [mtime, input]",
            "set [mtime, input]; with others, an edited comment relabels everything",
        )
    elif triggers is None:
        yield Check(
            "rerun-triggers",
            WARNING,
            "not set in the profile",
            "set rerun-triggers: [mtime, input]",
        )
    if content.get("keep-incomplete"):
        yield Check(
            "keep-incomplete",
            FAULT,
            "true: an incomplete file would count as complete",
            "remove it from the profile",
        )
    executor = content.get("executor", "local")
    if executor not in ("local", "dryrun", "touch"):
        name = f"snakemake-executor-plugin-{executor}"
        try:
            yield Check("executor", OK, f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Check("executor", FAULT, f"{executor}: {name} is missing", f"pip install {name}")


def partitions(content: dict[str, Any]) -> set[str]:
    """SLURM partitions that a profile names."""
    names: set[str] = set()
    for section in ("default-resources", "set-resources"):
        names |= _values(content.get(section), "slurm_partition")
    return {name for value in names for name in value.split(",")}


def _values(content: Any, key: str) -> set[str]:
    """Values of a key at any depth, and in lists of `key=value`."""
    if isinstance(content, dict):
        values = {str(v).strip("'\"") for k, v in content.items() if k == key}
        return values.union(*(_values(value, key) for value in content.values()))
    if isinstance(content, list):
        pairs = [re.fullmatch(rf"(?:\w+:)?{key}=(.+)", str(item)) for item in content]
        return {pair[1].strip("'\"") for pair in pairs if pair}
    return set()


def _slurm(content: dict[str, Any]) -> Iterator[Check]:
    """Check SLURM's commands, the partitions that the profile names, and the accounting."""
    for program in ("sbatch", "squeue", "scancel", "sinfo"):
        if shutil.which(program) is None:
            yield Check(
                "SLURM",
                FAULT,
                f"{program} is not on PATH",
                "start on a login node of the cluster, or load its SLURM module",
            )
            return
    code, output = _output_of(["sinfo", "--noheader", "--format=%R"])
    if code:
        remedy = "ask the administrators of the cluster whether SLURM is down"
        yield Check("SLURM", FAULT, f"sinfo failed: {output}", remedy)
        return
    existing = {*output.split()}
    yield Check("SLURM", OK, f"partitions: {', '.join(sorted(existing))}")
    if wrong := sorted(partitions(content) - existing):
        yield Check(
            "partitions",
            FAULT,
            f"{', '.join(wrong)}: not in this cluster, which has {', '.join(sorted(existing))}",
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
        code, output = _output_of(["sacct", "--noheader", "--starttime=now", "--format=JobID"])
        if code:
            yield Check(
                "accounting",
                FAULT,
                f"sacct failed: {output}",
                "set slurm-status-command: squeue, or Snakemake would wait forever",
            )


def _output_of(command: list[str]) -> tuple[int, str]:
    """Exit code of a short command, and its output or the last line of its errors."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    if done.returncode:
        return done.returncode, (done.stderr.strip().splitlines() or ["no message"])[-1]
    return 0, done.stdout.strip()


def disk(key: str, folder: Path, least_GB: float) -> Iterator[Check]:
    """Check space, writing, locking and clock of a folder's file system.

    Args:
        key: the setting that names the folder, for messages.
        folder: it need not exist yet.
        least_GB: less free space than this is a fault, GB.
    """
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    space = f"{key}: {folder}: {free:.1f} GB free"
    if free < least_GB:
        yield Check(
            "disk",
            FAULT,
            f"{space}, and limits.min_free_disk_GB is {least_GB:g}",
            "free space with halcyon clean, or set results to another disk",
        )
    elif free < COMFORT_GB:
        yield Check("disk", WARNING, space, "halcyon plan tells how much the campaign needs")
    else:
        yield Check("disk", OK, space)
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".halcyon-doctor-") as file:
            file.write(b"here")
            file.flush()
            os.fsync(file.fileno())
            skew = Path(file.name).stat().st_mtime - time.time()
            yield _locking(key, Path(file.name))
    except OSError as error:
        yield Check(
            "writing",
            FAULT,
            f"{key}: {existing}: {error.strerror}",
            f"set {key} to a folder that you may write to",
        )
        return
    if abs(skew) > CLOCK_S:
        yield Check(
            "clock",
            FAULT,
            f"{key}: the time of a new file differs by {skew:+.1f} s from this machine's clock",
            "synchronise the clocks (NTP), because Snakemake compares the times of files",
        )
    else:
        yield Check("clock", OK, f"{key}: file times differ by {skew:+.2f} s from this machine's")


LOCKER = """
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(9)
"""


def _locking(key: str, path: Path) -> Check:
    """Check that a file that this process has locked cannot be locked by another process."""
    remedy = f"set {key} to a file system with locks (Lustre: mounted with flock; NFS: version 4)"
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
        return Check("locking", FAULT, f"{key}: two processes can lock the same file", remedy)
    return Check("locking", OK, f"{key}: works")


def _reference(campaign: Campaign) -> Check:
    """Run the reference's own checks on the start structures."""
    name = f"reference {campaign.settings.reference.backend}"
    try:
        reference = campaign.reference()
        starts = [plan.start(s) for plan in campaign.systems.values() for s in plan.labelled]
        reference.check(starts)
    except InputError as error:
        return Check(name, FAULT, str(error), _remedy(campaign, str(error)))
    level = reference.level
    words = [level.get(key) for key in ("program", "version", "method", "name")]
    return Check(name, OK, " ".join(str(word) for word in words if word))


def _remedy(campaign: Campaign, error: str) -> str:
    reference = campaign.settings.reference
    if not isinstance(reference, config.Cp2kReference) or "PATH" not in error:
        return "correct what the message names"
    return (
        "install CP2K (apt-get install cp2k, conda env create -f envs/cp2k.yaml, or module load "
        "cp2k), or set reference.command to its command"
    )


def _trial(trial: str, configfile: Path, campaign: Campaign, system: str, limit_s: float) -> Check:
    """Run a tiny job."""
    name = {"forcefield": "OpenMM job", "model": "MACE job"}.get(
        trial, f"{campaign.settings.reference.backend} job"
    )
    result = run_trial(trial, configfile, system, threads=1, limit_s=limit_s, tiny=True)
    return judged(name, result, campaign.systems[system].settings.resources.device)


def judged_grid(result: dict[str, Any]) -> Check:
    """Whether CP2K's forces hardly change on a finer grid.

    Args:
        result: what the trial printed, see `commands.plan.trial.grid`.
    """
    if "error" in result:
        remedy = "see the check of the CP2K job"
        if result.get("timeout"):
            remedy = "raise --limit to know it"
        return Check("CP2K grid", WARNING, result["error"], remedy)
    if result["largest_force_difference_eV_per_A"] > GRID_EV_PER_A:
        return Check(
            "CP2K grid",
            WARNING,
            result["about"],
            "raise CUTOFF (and REL_CUTOFF) in FORCE_EVAL/DFT/MGRID of the level's file until they "
            f"change by less than {1e3 * GRID_EV_PER_A:g} meV/Å; labels of another cutoff are of "
            "another level of theory",
        )
    return Check("CP2K grid", OK, f"{result['about']}, {result['trial_s']:.0f} s")


def judged(name: str, result: dict[str, Any], device: str) -> Check:
    """The outcome of a tiny job as a check.

    Args:
        name: of the job.
        result: what the trial printed, see `commands.plan.trial`.
        device: the setting `resources.device`.
    """
    if "error" in result:
        remedy = "correct what the message names"
        if result.get("timeout"):
            remedy = "check whether the machine is busy, and try again, or raise --limit"
        elif device == "cuda" and "cuda" in result["error"].lower():
            remedy = "no usable GPU here: run on a machine with one, or set resources.device: cpu"
        return Check(name, FAULT, result["error"], remedy)
    if name == "MACE job" and device == "auto" and result["gpu"] is None:
        return Check(name, OK, f"{result['about']} (no GPU here), {result['trial_s']:.0f} s")
    gpu = f", {result['gpu']}" if result.get("gpu") else ""
    return Check(name, OK, f"{result['about']}{gpu}, {result['trial_s']:.0f} s")
