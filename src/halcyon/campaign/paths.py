"""Where a campaign's files lie: the jobs of each generation, with their outputs, log and scratch.

    from halcyon.campaign.paths import generation_jobs

    for job in generation_jobs(campaign, "ethanol", 2):
        print(job.name, job.done, job.log)

The workflow's rules say the same to Snakemake; a test compares the two. `halcyon status` reads a
campaign by these paths, `halcyon plan` counts its jobs by them.

Not for: running jobs, or what is in the files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.labels import journal
from halcyon.verdict.forms import Verdict
from halcyon.verdict.saturation import certificate_wanted, goes_on

SEED = -1
"""Number, in ledgers and tables, of the batch before generation 0 and of what is done once."""
GENERATION = ("train", "domain", "explore", "second_opinion", "select", "label", "verdict")
RESERVOIR = "reservoir.parquet"
"""Random frames of a generation's exploration."""
OPINIONS = "second_opinion.parquet"
"""What a second Hamiltonian says of them, where `audit.second_opinion` names one."""
MODEL_STAGES = ("pretrain", "train", "domain", "explore", "select", "certify")
"""Stages that run the model, on a GPU where `resources.device` says so."""


CERTIFICATE = ("certificate.json", "nvt.parquet", "nve.parquet")
"""Outputs of the rule `certify`, in the folder `certificate`."""
MANIFEST = Path("final/manifest.json")
"""Output of the rule `final`: it lists all files of the folder."""

IMPORTED = ("labels.parquet", "imported.json")
"""Outputs of the rule `import_labels`, in the folder `imported`: frames, and what became of all."""

COMMITTEE_STAGES = ("domain", "explore", "select")
"""Stages of a generation that read the models of the signal `committee`."""


@dataclass(frozen=True)
class PlannedJob:
    """One job of a campaign, whether it has run or not.

    Attributes:
        stage: name of its rule.
        system: name of the system.
        generation: counted from 0; None before the first and after the last.
        shard: number of a label job in its batch; None of other stages.
        outputs: files that it writes.
        log: its log file.
        lock: file that it locks while it works; None where it locks none.
    """

    stage: str
    system: str
    generation: int | None
    shard: int | None
    outputs: tuple[Path, ...]
    log: Path
    lock: Path | None = None

    @property
    def batch(self) -> str:
        """`seed`, or the generation's folder."""
        return batch_name(self.generation)

    @property
    def name(self) -> str:
        """For people, e.g. `ethanol gen002 label 1`."""
        batch = "" if self.generation is None else f" {self.batch}"
        shard = "" if self.shard is None else f" {self.shard}"
        return f"{self.system}{batch} {self.stage}{shard}"

    @property
    def done(self) -> bool:
        """Whether all its outputs exist."""
        return all(path.exists() for path in self.outputs)


def start_jobs(campaign: Campaign, system: str) -> list[PlannedJob]:
    """Jobs before the first generation, in order."""
    folder, settings = campaign.folder / system, campaign.systems[system].settings
    teacher, logs = folder / "teacher", folder / "logs"

    def job(stage: str, *outputs: Path) -> PlannedJob:
        return PlannedJob(stage, system, None, None, outputs, logs / f"{stage}.log")

    jobs = [job("forcefield", teacher / "frames.parquet", teacher / "counts.json")]
    if settings.pretraining.enabled:
        jobs.append(job("pretrain", teacher / "pretrained.model", teacher / "pretrained.json"))
    if settings.seed_labels.files:
        jobs.append(job("import_labels", *(folder / "imported" / name for name in IMPORTED)))
    jobs.append(job("seed", folder / "seed/selected.parquet"))
    return jobs + _label_jobs(campaign, system, None)


def generation_jobs(campaign: Campaign, system: str, generation: int) -> list[PlannedJob]:
    """Jobs of a generation, in order; its verdict is the last."""
    batch = batch_name(generation)
    folder, logs = campaign.folder / system / batch, campaign.folder / system / "logs"
    # Generations that an early release has finished have none.
    early = (folder / "selected.parquet").exists() and not (folder / RESERVOIR).exists()
    reservoir = () if early else (RESERVOIR,)
    outputs = {
        "train": ("model.model", "metrics.json", "parity.parquet", "drift.json"),
        "domain": ("domain.json",),
        "explore": ("traces.parquet", "candidates.parquet", "exploration.json", *reservoir),
        "second_opinion": (OPINIONS,),
        "select": ("selected.parquet", "selection.json"),
        "verdict": ("verdict.json",),
    }
    # Generations that were judged before it was asked for have none.
    judged_without = (folder / "verdict.json").exists() and not (folder / OPINIONS).exists()
    if judged_without or campaign.systems[system].settings.audit.hamiltonian is None:
        del outputs["second_opinion"]
    jobs: list[PlannedJob] = []
    for stage in GENERATION:
        if stage == "label":
            jobs += _label_jobs(campaign, system, generation)
            continue
        if stage not in outputs:
            continue
        locks = stage in ("explore", "second_opinion")
        lock = campaign.work(system, batch, stage) / ".lock" if locks else None
        paths = tuple(folder / name for name in outputs[stage])
        log = logs / f"{batch}-{stage}.log"
        jobs.append(PlannedJob(stage, system, generation, None, paths, log, lock))
    return jobs


def end_jobs(campaign: Campaign, system: str, decision: str) -> list[PlannedJob]:
    """Jobs after the verdict that ended a system's campaign with this decision."""
    folder, proof = campaign.folder / system, campaign.folder / system / "certificate"
    outputs = {
        "certify": [proof / name for name in CERTIFICATE],
        "final": [folder / MANIFEST],
        "report": [folder / "report.html"],
    }
    if not certificate_wanted(decision, campaign.systems[system].settings.certificate.when):
        del outputs["certify"]
    return [
        PlannedJob(stage, system, None, None, tuple(paths), folder / f"logs/{stage}.log")
        for stage, paths in outputs.items()
    ]


def _label_jobs(campaign: Campaign, system: str, generation: int | None) -> list[PlannedJob]:
    batch, folder = batch_name(generation), campaign.folder / system
    return [
        PlannedJob(
            "label",
            system,
            generation,
            shard,
            (folder / batch / f"labels/{shard:03d}.parquet",),
            folder / f"logs/{batch}-label-{shard:03d}.log",
            label_scratch(campaign, system, batch, shard) / ".lock",
        )
        for shard in range(campaign.systems[system].settings.resources.label_shards)
    ]


def batch_name(generation: int | None) -> str:
    """Folder of a generation, `gen003`, or `seed` (None)."""
    return "seed" if generation is None else f"gen{generation:03d}"


def generation_of(batch: str) -> int | None:
    """Generation of a batch: `gen003` → 3, all others → None."""
    return int(batch.removeprefix("gen")) if batch.startswith("gen") else None


def batch_number(batch: str) -> int:
    """Number of a batch in ledgers and tables: `gen003` → 3, all others → `SEED`."""
    generation = generation_of(batch)
    return SEED if generation is None else generation


def ledger(folder: Path) -> Path:
    """The ledger of a campaign, a line per job that is done; see `stage.Job.done`.

    Args:
        folder: `results/<campaign>`.
    """
    return folder / "stages.jsonl"


def label_files(campaign: Campaign, system: str) -> list[Path]:
    """Label files of a system that exist, those of the seed first."""
    every = (campaign.folder / system).glob("*/labels/*.parquet")
    shards = [path for path in every if path.stem.isdigit()]
    return sorted(shards, key=lambda path: (path.parents[1].name != "seed", path))


def check_file(label_file: Path) -> Path:
    """Where `finite_difference` leaves what it measured on the frames of a label file, JSON."""
    return label_file.parents[1] / "checks" / f"{label_file.stem}.json"


def check_files(campaign: Campaign, system: str) -> list[Path]:
    """Files of that sort that exist, of all batches of a system."""
    return sorted((campaign.folder / system).glob("*/checks/*.json"))


def label_scratch(campaign: Campaign, system: str, batch: str, shard: int) -> Path:
    """Scratch folder of a label job; its journal is in it."""
    return campaign.work(system, "start", "label", f"{batch}-{shard:03d}")


def journals(campaign: Campaign, system: str) -> list[Path]:
    """Journals of a system's label jobs that exist."""
    return sorted(campaign.work(system, "start", "label").glob(f"*/{journal.NAME}"))


def void_records(campaign: Campaign, system: str) -> list[Path]:
    """Files beside the journals with records that a systemic failure made void."""
    return sorted(campaign.work(system, "start", "label").glob(f"*/{journal.REPEATED}"))


def generations(campaign: Campaign, system: str) -> Iterator[int]:
    """Generations that have begun: an output or a log of them exists."""
    number, settings = 0, campaign.systems[system].settings
    while number < settings.limits.max_generations:
        jobs = generation_jobs(campaign, system, number)
        if not any(job.log.exists() or job.outputs[0].exists() for job in jobs):
            return
        yield number
        number += 1


def cores_of(plan: SystemPlan, stage: str) -> int:
    """Cores of a stage's jobs."""
    resources = plan.settings.resources
    cores = {
        "label": resources.label_cores,
        "import_labels": resources.label_cores,
        "train": resources.train_cores,
        "pretrain": resources.train_cores,
        "explore": resources.explore_cores,
        "certify": resources.explore_cores,
    }
    return cores.get(stage, 1)


def finished_generations(campaign: Campaign, system: str) -> int:
    """Number of generations, from the first on, that Snakemake has nothing to do for.

    All their outputs exist, nothing that a job reads is newer than what it wrote (back to the files
    that the user named: force field, start model, committee). The one whose verdict ends the
    campaign is the last of them. The job graph can leave them out: so a campaign that an early
    release has finished stays as it is, whatever its rules have gained since.
    """
    plan = campaign.systems[system]
    start: dict[str, list[PlannedJob]] = {}
    for job in start_jobs(campaign, system):
        start.setdefault(job.stage, []).append(job)
    forcefields = [path for path in plan.system.forcefield.paths if path.exists()]
    sampled = _after(_newest(forcefields), start["forcefield"])
    had = _after(_newest(plan.settings.seed_labels.files), start.get("import_labels", []))
    labelled = _after(_after(max(sampled, had), start["seed"]), start["label"])
    model = plan.settings.pretraining.start
    taught = max(sampled, had, _newest([model] if model else []))
    newest = max(labelled, _after(taught, start.get("pretrain", [])))
    committee = _newest(plan.settings.domain.watched_committee)
    for number in range(plan.settings.limits.max_generations):
        jobs = generation_jobs(campaign, system, number)
        second = 0.0
        for stage in GENERATION:
            read = max(newest, committee) if stage in COMMITTEE_STAGES else newest
            read = max(read, second) if stage == "verdict" else read
            end = _after(read, [job for job in jobs if job.stage == stage])
            if stage == "second_opinion":  # only the verdict reads it
                second = end
            elif stage != "verdict":  # a leaf: the next generation does not read it
                newest = end
        if end == inf:
            return number
        if not goes_on(Verdict.read(jobs[-1].outputs[0]), plan.settings):
            return number + 1
    return plan.settings.limits.max_generations


def excluding_generations(number: int) -> str:
    """Regular expression for after a system's name that no path of its first generations matches.

    Args:
        number: of generations to exclude; the force field's frames and the seed go with them.
    """
    if not number:
        return ""
    batches = "|".join(map(batch_name, range(number)))
    return f"(?!/(?:teacher|seed|{batches})/)"


def _newest(paths: Sequence[Path]) -> float:
    """Time of the newest file; infinite where one is missing."""
    try:
        return max((path.stat().st_mtime for path in paths), default=0.0)
    except FileNotFoundError:
        return inf


def _after(read: float, jobs: Sequence[PlannedJob]) -> float:
    """Time of the newest output of jobs; infinite where one is older than what they read.

    Args:
        read: time of the newest file that the jobs read.
        jobs: whose outputs are looked at.
    """
    paths = [path for job in jobs for path in job.outputs]
    newest = _newest(paths)
    if newest == inf or any(path.stat().st_mtime < read for path in paths):
        return inf
    return max(newest, read)
