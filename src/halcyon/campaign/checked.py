"""How a run, a look and a job get their campaign, without chemistry in Snakemake's own process.

    import os
    from pathlib import Path
    from halcyon import config
    from halcyon.campaign.checked import begin_run

    content = config.read_yaml(Path("config/quickstart.yaml"))
    campaign, lock = begin_run(content, "config/quickstart.yaml")
    os.close(lock)  # the Snakefile keeps it until its process ends

Snakemake lives as long as the campaign and starts anew after every interruption. The checks load
half a gigabyte of chemistry and take seconds for each system. They therefore run in a process of
their own, and their outcome is kept in `results/prepared/checked` under the hash of all that it
depends on. What may change from one moment to the next (disk space, whether files of models exist,
the campaign's identity) is checked each time.

Not for: what is checked (`checks`), or whether a command runs or looks (`looking`).
"""

import hashlib
import importlib.metadata
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, TypedDict, cast

from halcyon import config, files
from halcyon.campaign.campaign import (
    CAMPAIGN_VARIABLE,
    RUN_VARIABLE,
    Campaign,
)
from halcyon.campaign.checks import begin, check_committee, check_disk, check_start
from halcyon.campaign.damage import refuse_damaged
from halcyon.campaign.identity import check_identity, content_hash, level_of_theory
from halcyon.config.campaign import PREPARED
from halcyon.errors import EXIT_BAD_INPUT, InputError

ENVIRONMENT = ("CP2K_DATA_DIR", "AMBERHOME")
"""Variables that decide which data programs find."""
PROGRAMS = ("antechamber", "parmchk2", "sqm")
LOCK_WAIT_S = 5.0
"""How long a run waits for the lock of one that is just ending, s."""
LIBRARIES = (
    "acpype",
    "ase",
    "cp2k-input-tools",
    "mace-torch",
    "openmm",
    "packmol",
    "pyscf",
    "pyscf-dispersion",
    "rdkit",
    "tblite",
    "torch",
)


class Outcome(TypedDict):
    """What the checks leave for later runs.

    Attributes:
        level_of_theory: its hash.
        atoms: number of atoms of each structure, by system.
        elements: atomic numbers of each system, ascending.
    """

    level_of_theory: str
    atoms: dict[str, dict[str, int]]
    elements: dict[str, list[int]]


def begin_run(content: dict[str, Any], source: str, *, dry: bool = False) -> tuple[Campaign, int]:
    """Take the campaign's lock, then `begin_once`: nothing is written before the lock is held.

    Args:
        content: parsed configuration.
        source: name of its file, for messages.
        dry: hold the lock and check, but write nothing.

    Returns:
        The campaign, and the lock's file descriptor. The lock is held until that is closed or this
        process dies, however it dies: a kill leaves no stale lock.

    Raises:
        Held: another process has the campaign; none of its files was changed.
        InputError: as `checks.begin`.
    """
    campaign = Campaign.resolve(content, source)
    files.check_writable(campaign.folder)
    lock = files.take_lock(campaign.lock, wait_s=LOCK_WAIT_S)
    try:
        return begin_once(content, source, dry=dry), lock
    except BaseException:
        os.close(lock)
        raise


def begin_once(content: dict[str, Any], source: str, *, dry: bool = False) -> Campaign:
    """Do what `checks.begin` does, quickly where the same content has passed the checks before.

    Args:
        content: parsed configuration.
        source: name of its file, for messages.
        dry: check only, and write nothing. Without it, the caller holds the campaign's lock.

    Raises:
        InputError: as `checks.begin`; or outputs of the campaign are damaged.
    """
    campaign = Campaign.resolve(content, source)
    if not dry:
        prepared = campaign.settings.results / PREPARED
        for folder in (campaign.folder, prepared, campaign.settings.label_store):
            files.check_writable(folder)
    refuse_damaged(campaign)
    stamp = _stamp(campaign)
    earlier = _read_stamp(stamp)
    if earlier is None:
        outcome = _begin_elsewhere(content, source, dry=dry)
        if not dry:
            files.write_json(stamp, outcome)
        return _with_sizes(campaign, outcome)
    check_disk(campaign, source, dry=dry)
    for plan in campaign.systems.values():
        check_committee(plan, source)
        check_start(plan, source)
    check_identity(campaign, earlier["level_of_theory"], dry=dry)
    if not dry:
        campaign.write()
    return _with_sizes(campaign, earlier)


def campaign_of_job(content: dict[str, Any], source: str) -> Campaign:
    """The campaign in a job of it, as it was when its run began. Nothing is checked again.

    Whoever edits the configuration while a campaign runs changes the next run. The jobs of this one
    read the file that it wrote, which they know from `CAMPAIGN_VARIABLE`; the configuration counts
    only where a job does not have its workflow's environment.

    Raises:
        InputError: no such campaign, or a later run has taken it over. No file was touched.
    """
    path = os.environ.get(CAMPAIGN_VARIABLE)
    campaign = Campaign.read(path) if path else Campaign.resolve(content, source)
    run = os.environ.get(RUN_VARIABLE, campaign.run())
    if run != campaign.run():
        raise InputError(
            f"this job belongs to a run of the workflow that is over ({run}). A later run "
            f"({campaign.run()}) has the campaign now and does the same work: nothing is lost"
        )
    outcome = _read_stamp(_stamp(campaign))
    return campaign if outcome is None else _with_sizes(campaign, outcome)


def _stamp(campaign: Campaign) -> Path:
    """File with the outcome of the checks: level of theory and numbers of atoms."""
    return campaign.settings.results / PREPARED / "checked" / f"{fingerprint(campaign)}.json"


def _read_stamp(stamp: Path) -> Outcome | None:
    """The outcome of earlier checks; None: there is none, or a damaged one: checks are made."""
    try:
        return cast("Outcome", files.read_object(stamp, Outcome.__annotations__))
    except InputError:
        return None


def _with_sizes(campaign: Campaign, outcome: Outcome) -> Campaign:
    """Tell a campaign the numbers of atoms and the elements that the checks have counted."""
    for name, plan in campaign.systems.items():
        plan.know_atoms(outcome["atoms"][name], outcome["elements"][name])
    return campaign


def fingerprint(campaign: Campaign) -> str:
    """Hash of all that the checks depend on: settings, files, programs, libraries, this code."""
    settings = campaign.settings
    depends_on = {
        "settings": settings.model_dump(mode="json"),
        "systems": {n: p.system.model_dump(mode="json") for n, p in campaign.systems.items()},
        "content": [_content(path) for path in _small_files(campaign)],
        "models": [_state(path) for path in _model_files(campaign) if path.is_file()],
        "programs": _programs(settings.reference),
        "libraries": [importlib.metadata.version(name) for name in LIBRARIES],
        "environment": [os.environ.get(name) for name in ENVIRONMENT],
        "code": [_state(path) for path in sorted(Path(__file__).parents[1].rglob("*.py"))],
        "python": sys.version,
    }
    return content_hash(depends_on)


def _small_files(campaign: Campaign) -> list[Path]:
    """Files that the configuration names and the checks read."""
    paths: set[Path] = set()
    for plan in campaign.systems.values():
        paths |= {*plan.system.forcefield.paths}
        paths |= {s.file for s in plan.system.structures if s.file is not None}
    match campaign.settings.reference:
        case config.Cp2kReference(level=level) | config.PyscfReference(level=level):
            paths.add(level)
        case config.EvcReference(states=states):
            paths.add(states)
        case config.DatasetReference(files=data):
            paths |= {*data}
        case config.AseReference(arguments=arguments):
            paths |= {Path(v) for v in arguments.values() if isinstance(v, str)}
    return sorted(paths)


def _model_files(campaign: Campaign) -> list[Path]:
    """Models that the configuration names and the checks read: too large to be hashed each time."""
    paths: set[Path] = set()
    for plan in campaign.systems.values():
        start = plan.settings.pretraining.start
        paths |= {*plan.settings.domain.watched_committee} | ({start} if start else set())
        paths |= {*plan.settings.training.replay_from}
    return sorted(paths)


def _content(path: Path) -> list[Any]:
    if not path.is_file():
        return [str(path), None]
    with path.open("rb") as opened:
        return [str(path), hashlib.file_digest(opened, "sha256").hexdigest()]


def _programs(reference: config.ReferenceSettings) -> list[Any]:
    """State of AmberTools and CP2K, and of CP2K's data, which decide the level of theory."""
    amber = [Path(program) for name in PROGRAMS if (program := shutil.which(name))]
    if not isinstance(reference, config.Cp2kReference):
        return [_state(path) for path in amber]
    try:
        words = shlex.split(reference.command)
    except ValueError:
        words = []
    folders = [reference.data_dir, os.environ.get("CP2K_DATA_DIR"), "/usr/share/cp2k"]
    data = [p for f in folders if f and Path(f).is_dir() for p in sorted(Path(f).iterdir())]
    cp2k = [Path(program) for word in words if (program := shutil.which(word))]
    return [_state(path) for path in [*amber, *cp2k, *data]]


def _state(path: Path) -> list[Any]:
    state = path.stat()
    return [str(path), state.st_size, state.st_mtime_ns]


def _begin_elsewhere(content: dict[str, Any], source: str, *, dry: bool) -> Outcome:
    """Run `checks.begin` in a process of its own; gives the outcome of the checks."""
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps({"content": content, "source": source, "dry": dry}, default=str),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if done.returncode == EXIT_BAD_INPUT:
        raise InputError(json.loads(done.stdout)["error"])
    if done.returncode:
        raise RuntimeError(
            f"the checks of {source} ended with an error: {done.stderr.strip()[-3000:]}"
        )
    return cast("Outcome", json.loads(done.stdout))


def _main() -> int:
    """The process of its own: request on standard input, outcome on standard output."""
    request = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not the outcome
    try:
        campaign = begin(request["content"], request["source"], dry=request["dry"])
        outcome = Outcome(
            level_of_theory=level_of_theory(campaign),
            atoms={name: plan.atoms for name, plan in campaign.systems.items()},
            elements={name: plan.elements for name, plan in campaign.systems.items()},
        )
        json.dump(outcome, answer)
    except InputError as error:
        json.dump({"error": str(error)}, answer)
        return EXIT_BAD_INPUT
    finally:
        answer.close()
    return 0


if __name__ == "__main__":
    sys.exit(_main())
