"""How long a job may take and how much memory it may hold: what a cluster is asked for.

    size = JobSizes(campaign).of("explore", "ethanol", number=3)

A job's work is counted in units that its stage's time is proportional to (atoms × steps, atoms ×
frames × epochs, …). What a unit takes is learned from the stages of earlier generations, in the
ledger; before there are any, it is taken to be much. Only earlier generations count, so that the
question has the same answer on the login node and, hours later, in the job.

A job that ran out of time goes on, with more of it; one that was killed without a word probably
held too much memory, and gets more. Both end at the campaign's limits.

Not for: what stages did cost (`report`), or telling the cluster (workflow/rules/inputs.smk).
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from halcyon.campaign.attempts import Attempts, Ended, count
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.config.learning import TEACHER_TIMESTEP_FS

SEED = -1
"""Number of the batch before generation 0: the seed, and what is done once."""
LEAST_MIN = 10
"""Starting a job takes part of its time: no job is asked for less, min."""
MARGIN = 2.0
"""Asked time and memory over what was learned."""
GROWTH = 1.5
"""More time after each attempt that ran out of it, more memory after each that was killed."""
OVERHEAD_MB = 1000
"""Snakemake itself, twice, in each job, MB."""

SECONDS_PER_UNIT = {
    "forcefield": 2e-4,  # an atom's step of a force field
    "pretrain": 0.02,  # an atom in a frame in an epoch
    "train": 0.02,
    "domain": 0.02,  # an atom in a frame
    "explore": 2e-3,  # an atom's step of MACE, one core; a GPU is faster, and learned
    "select": 0.02,
    "label": 10.0,  # an atom ** 1.5 in a frame: GGA-DFT on one core
    "certify": 2e-3,
    "final": 0.02,
}
"""Where nothing was learned: several times what small systems took (README's measurements)."""
MEMORY_MB = {
    "forcefield": 2000,
    "pretrain": 8000,
    "train": 8000,
    "domain": 8000,
    "explore": 8000,
    "select": 8000,
    "label": 4000,
    "certify": 8000,
    "final": 8000,
}
"""Likewise."""
LIKE = {"certify": "explore", "final": "domain"}
"""Stages that are done once, after all generations: the last generation's stage of the same unit
teaches what they take."""


Ledger: TypeAlias = dict[tuple[str, str], dict[int, list[dict[str, Any]]]]
"""Entries by stage and system, and by batch."""


@dataclass(frozen=True)
class Size:
    """What a job is asked for.

    Attributes:
        runtime_min: wall time, minutes.
        memory_mb: memory of the whole job, MB.
    """

    runtime_min: int
    memory_mb: int


@dataclass(frozen=True)
class _Learned:
    """What the latest batch that a stage did for a system has taken, its largest job."""

    seconds_per_unit: float
    memory_mb: float


class JobSizes:
    """Sizes of all jobs of a campaign."""

    def __init__(self, campaign: Campaign) -> None:
        """The ledger is read when it is first asked."""
        self.campaign = campaign
        self._seen = (0, 0)
        self._entries: Ledger = {}

    def of(self, stage: str, system: str, *, number: int = SEED, job: str = "") -> Size:
        """What to ask for.

        Args:
            stage: a key of `MEMORY_MB`.
            system: its name.
            number: generation, from 0; `SEED`: before.
            job: stem of its log file's name; its earlier attempts count.
        """
        plan = self.campaign.systems[system]
        limits = plan.settings.resources
        units = work(plan, stage, number)
        learned = self._learned(stage, system, number)
        seconds = units * (learned.seconds_per_unit if learned else SECONDS_PER_UNIT[stage])
        memory = (MARGIN * learned.memory_mb if learned else MEMORY_MB[stage]) + OVERHEAD_MB
        before = Attempts(self.campaign.attempts(system, job)).read() if job else []
        minutes = MARGIN * seconds / 60 * GROWTH ** count(before, Ended.SAVED)
        memory *= GROWTH ** count(before, Ended.KILLED)
        return Size(
            runtime_min=math.floor(
                min(max(LEAST_MIN, math.ceil(round(minutes, 6))), 60 * limits.longest_job_h)
            ),
            memory_mb=math.ceil(min(memory, 1000 * limits.most_memory_GB)),
        )

    def _learned(self, stage: str, system: str, number: int) -> _Learned | None:
        batches = self._ledger.get((LIKE.get(stage, stage), system), {})
        earlier = [batch for batch in batches if batch < number or stage in LIKE]
        if not earlier:
            return None
        entries = batches[max(earlier)]
        return _Learned(
            seconds_per_unit=max(entry["seconds"] / entry["work"] for entry in entries),
            memory_mb=max(entry["peak_mb"] for entry in entries),
        )

    @property
    def _ledger(self) -> Ledger:
        """Entries with a size, read again where the file has changed: new generations were done."""
        path = self.campaign.folder / "stages.jsonl"
        try:
            found = path.stat()
        except FileNotFoundError:
            return {}
        if self._seen != (found.st_mtime_ns, found.st_size):
            self._seen = found.st_mtime_ns, found.st_size
            self._entries = _read(path)
        return self._entries


def _read(path: Path) -> Ledger:
    entries: Ledger = defaultdict(lambda: defaultdict(list))
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # torn by a kill
        if entry.get("work") and entry.get("peak_mb"):  # ledgers of older versions have neither
            entries[entry["stage"], entry["system"]][entry["number"]].append(entry)
    return entries


def batch_number(batch: str) -> int:
    """`seed` → `SEED`, `gen003` → 3."""
    return SEED if batch == "seed" else int(batch.removeprefix("gen"))


def work(plan: SystemPlan, stage: str, number: int = SEED) -> float:
    """How much there is to do, in the stage's unit (see `SECONDS_PER_UNIT`); about, and over 0.

    Args:
        plan: the system and its settings.
        stage: a key of `MEMORY_MB`.
        number: generation, from 0; `SEED`: before.
    """
    settings = plan.settings
    atoms = plan.atoms
    total, largest = sum(atoms.values()), max(atoms.values())
    seed, selection = settings.seed_labels, settings.selection
    taught = sum(
        (
            settings.teacher.md_frames,
            settings.teacher.displaced_frames,
            settings.teacher.stretched_frames,
            settings.teacher.contact_frames,
            settings.teacher.dissociated_frames,
        )
    )
    generations = max(number, 0)
    per_structure = seed.train + seed.validation + seed.test
    labels = per_structure * len(atoms) + generations * selection.frames
    match stage:
        case "forcefield":
            steps = max(1, round(settings.teacher.md_interval_fs / TEACHER_TIMESTEP_FS))
            units = total * steps * taught
        case "pretrain":
            frames = taught * len(atoms)
            units = frames * settings.pretraining.epochs_of(frames) * largest
        case "train":
            learned = seed.train * len(atoms) + generations * selection.frames
            units = labels * settings.training.epochs_of(learned) * largest
        case "domain":
            units = labels * largest + taught * total
        case "explore":
            exploration = settings.exploration
            steps = max(1, round(1000 * exploration.time_ps / exploration.timestep_fs))
            units = exploration.replicas * steps * max(atoms[name] for name in plan.explored)
        case "select":
            exploration = settings.exploration
            candidates = exploration.replicas * exploration.candidates_per_replica
            units = (candidates + labels) * largest
        case "certify":
            tested = settings.certificate
            timestep = tested.timestep_fs or settings.exploration.timestep_fs
            steps = max(1, round(1000 * (tested.time_ps + tested.nve_time_ps) / timestep))
            kelvin = tested.temperatures_K or settings.exploration.temperatures_K
            runs = tested.replicas * len(kelvin)
            units = runs * steps * sum(atoms[name] for name in plan.explored)
        case "final":
            units = labels * largest
        case "label":
            frames = per_structure * len(atoms) if number == SEED else selection.frames
            units = math.ceil(frames / settings.resources.label_shards) * largest**1.5
        case _:
            raise ValueError(f"{stage}: no such stage")
    return float(units)
