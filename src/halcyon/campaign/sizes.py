"""How long a job may take and how much memory it may hold: what a cluster is asked for.

    from halcyon.campaign.sizes import JobSizes

    size = JobSizes(campaign).of("explore", "ethanol", generation=3)
    size.runtime_min, size.memory_mb

1. The job's work is counted (`work`).
2. What a unit of it takes is learned from the jobs of earlier generations, in the ledger; before
   there are any, it is taken to be much. Only earlier generations count, so that the question has
   the same answer on the login node and, hours later, in the job.
3. A job that ran out of time goes on, with more of it; one that ended without a word was probably
   killed for its memory, and gets more. Both end at the limits of the configuration.

Not for: what stages did cost (`accounts`), or telling the cluster (workflow/rules/sizes.smk).
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, TypeAlias

from halcyon import jsonl
from halcyon.campaign import paths
from halcyon.campaign.attempts import Attempts, Ended, count
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.campaign.lengths import plan_of_generation
from halcyon.campaign.paths import SEED
from halcyon.campaign.work import LABEL_S, atom_units, job_units, recorded_units

LEAST_MIN = 10
"""Starting a job takes part of its time: no job is asked for less, min."""
MARGIN = 2.0
"""Asked time and memory over what was learned."""
GROWTH = 1.5
"""More time after each attempt that ran out of it, more memory after each that was killed."""
OVERHEAD_MB = 1000
"""Snakemake itself, twice, in each job, MB."""

UNLEARNED_SECONDS = {
    "forcefield": 2e-4,  # an atom's step of a force field
    "pretrain": 0.02,  # an atom in a structure that is learned in an epoch
    "train": 0.02,
    "domain": 0.02,  # an atom in a frame
    "explore": 2e-3,  # an atom's step of MACE, one core; a GPU is faster, and learned
    "second_opinion": 0.05,
    "select": 0.02,
    "label": LABEL_S,  # an atom ** 1.5 in a frame: GGA-DFT on one core
    "import_labels": LABEL_S,
    "certify": 2e-3,
    "final": 0.02,
}
"""Seconds of a unit of `work.atom_units` where nothing was learned: several times what small
systems took (measurements in the README)."""
UNLEARNED_TEACHER_SECONDS = {"gfnff": 1e-3, "xtb": 5e-3, "ase": 2e-2}
"""Seconds of an atom's step where a program is the teacher: tens of times OpenMM's and more."""
UNLEARNED_MB = {
    "forcefield": 2000,
    "pretrain": 8000,
    "train": 8000,
    "domain": 8000,
    "explore": 8000,
    "second_opinion": 8000,
    "select": 8000,
    "label": 4000,
    "import_labels": 4000,
    "certify": 8000,
    "final": 8000,
}
"""Memory where nothing was learned, MB: several times what small systems held."""
LEARNS_FROM = {"certify": "explore", "final": "domain"}
"""Stages that are done once, after all generations, by the stage that teaches what they take: it
counts in the same unit, and its last generation has the same model."""

Ledger: TypeAlias = dict[tuple[str, str], dict[int, list[dict[str, Any]]]]
"""Entries by stage and system, and by number of the batch."""


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
    """What the latest batch of a stage has taken, its most demanding job.

    Attributes:
        seconds_per_unit: of the job that took longest per unit.
        memory_mb: of the job that held most.
    """

    seconds_per_unit: float
    memory_mb: float


def _unlearned_seconds(plan: SystemPlan, stage: str) -> float:
    """Seconds of a unit of `work.atom_units` where nothing was learned."""
    kind = plan.system.forcefield.kind if stage == "forcefield" else ""
    return UNLEARNED_TEACHER_SECONDS.get(kind, UNLEARNED_SECONDS[stage])


def too_few_cores(campaign: Campaign, cores: int | None) -> str:
    """What to say where Snakemake's `--cores` would cap the jobs of a cluster; empty: it does not.

    Args:
        campaign: the one that is run.
        cores: Snakemake's `--cores`; None: not given.
    """
    for name, plan in campaign.systems.items():
        for key in ("label_cores", "train_cores", "explore_cores"):
            needed = getattr(plan.settings.resources, key)
            if cores is not None and cores < needed:
                return (
                    f"--cores {cores} (`all`: those that Snakemake itself has) caps the threads of "
                    f"every job of the cluster, but resources.{key} of {name} is {needed}: nothing "
                    "was run. Leave --cores out, the profiles set it, or give at least as many as "
                    "all running jobs have together"
                )
    return ""


class JobSizes:
    """Sizes of all jobs of a campaign."""

    def __init__(self, campaign: Campaign) -> None:
        """The ledger is read when it is first needed."""
        self.campaign = campaign
        self._version = (0, 0)
        self._entries: Ledger = {}

    def of(self, stage: str, system: str, *, generation: int | None = None, job: str = "") -> Size:
        """What to ask for.

        Args:
            stage: a key of `UNLEARNED_MB`.
            system: its name.
            generation: counted from 0; None before the first or after the last.
            job: stem of its log file's name; its earlier attempts count.
        """
        plan = self.campaign.systems[system]
        if stage == "explore":
            plan = plan_of_generation(self.campaign, system, generation)
        limits = plan.settings.resources
        learned = self._learned(stage, system, SEED if generation is None else generation)
        if learned:
            seconds = job_units(plan, stage, generation) * learned.seconds_per_unit
            memory = MARGIN * learned.memory_mb + OVERHEAD_MB
        else:
            seconds = atom_units(plan, stage, generation) * _unlearned_seconds(plan, stage)
            memory = UNLEARNED_MB[stage] + OVERHEAD_MB
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
        plan = self.campaign.systems[system]
        batches = self._ledger.get((LEARNS_FROM.get(stage, stage), system), {})
        earlier = [batch for batch in batches if batch < number or stage in LEARNS_FROM]
        if not earlier:
            return None
        entries = batches[max(earlier)]
        return _Learned(
            seconds_per_unit=max(
                entry["seconds"] / max(recorded_units(plan, entry), 1) for entry in entries
            ),
            memory_mb=max(entry["peak_mb"] for entry in entries),
        )

    @property
    def _ledger(self) -> Ledger:
        """Entries that sizes can be learned from, read again where the file has changed."""
        path = paths.ledger(self.campaign.folder)
        try:
            state = path.stat()
        except FileNotFoundError:
            return {}
        if self._version != (state.st_mtime_ns, state.st_size):
            self._version = state.st_mtime_ns, state.st_size
            self._entries = defaultdict(lambda: defaultdict(list))
            for entry in jsonl.read(path):
                if entry.get("peak_mb"):  # the ledgers of older versions do not have it
                    batches = self._entries[entry["stage"], entry["system"]]
                    batches[entry["number"]].append(entry)
        return self._entries
