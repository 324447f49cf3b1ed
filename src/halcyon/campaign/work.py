"""How much work a stage has, in units that its time is proportional to.

    from halcyon.campaign.work import units

    units(campaign.systems["ethanol"], "train", 2)  # structures × epochs of generation 2

What is counted follows from what the stage's program does, and from the configuration alone: no
chemistry is loaded, since Snakemake asks while it parses the workflow. Atomic properties of the
teacher's frames (`pretraining.atomic`) are part of what an MD step takes. `sizes` turns work into
the time that a cluster is asked for, `rates` into what a campaign will cost.

| stage | unit | what is counted |
|---|---|---|
| `forcefield` | MD step | equilibration at each temperature, then the frames' intervals |
| `pretrain`, `train` | structure and epoch | structures learned; with replay twice as many |
| `domain`, `select`, `final` | frame | frames that the model looks at, or that are copied |
| `second_opinion` | frame | random frames that are judged, and labelled ones that teach |
| `explore`, `certify` | replica-step | replicas × steps |
| `label` | label | frames to label, with the audit, each in all multiplicities that it may have |
| `import_labels` | label | labels that are computed again |
| all others | job | 1 |

How many labels earlier generations have made is not asked for: as many are taken as the settings
allow, up to the label budget.

Not for: how long a unit takes (`rates`), or how many generations a campaign needs; nobody knows
that before.
"""

import math
from collections.abc import Mapping
from typing import Any

from halcyon.campaign.campaign import SystemPlan
from halcyon.campaign.paths import SEED
from halcyon.config import TeacherSettings
from halcyon.config.learning import EQUILIBRATION_PS, TEACHER_TIMESTEP_FS

UNITS = {
    "forcefield": "MD step",
    "pretrain": "structure and epoch",
    "train": "structure and epoch",
    "explore": "replica-step",
    "certify": "replica-step",
    "label": "label",
    "import_labels": "label",
    "second_opinion": "frame",
    "domain": "frame",
    "select": "frame",
    "final": "frame",
}
"""What the work of a stage is counted in; of every other stage, it is counted in jobs."""
LABEL_POWER = 1.5
"""How the cost of a label grows with the number of atoms: between 1 (xTB on few atoms) and 3."""
LABEL_S = 10.0
"""Core-seconds of a label, an atom ** `LABEL_POWER`, where nothing was learned: GGA-DFT."""
CHEAP_BACKENDS = ("xtb", "dataset")
"""Backends whose labels cost next to nothing, whatever the number of atoms."""
AUDIT_FRAMES = (5, 10)
"""Least and greatest number of audit frames of a structure and temperature, by default."""
AUDIT_CORE_HOURS = 10.0
"""What the default spends on those of one structure and temperature, if it can."""


def units(  # noqa: C901, PLR0911 - one per stage
    plan: SystemPlan, stage: str, generation: int | None
) -> float:
    """Work of all jobs of a stage, in the stage's unit.

    Args:
        plan: the system with its settings.
        stage: name of its rule.
        generation: counted from 0; None before the first or after the last.
    """
    match stage:
        case "forcefield":
            return sum(_teacher_steps(plan).values())
        case "pretrain":
            return _pretraining(plan)
        case "train":
            learned = learned_frames(plan, generation or 0)
            training = plan.settings.training
            # Each batch of labels is followed by as many replayed frames.
            replayed = learned if training.weight_of_replay(plan.settings.pretraining) else 0
            return (learned + replayed) * training.epochs_of(learned)
        case "explore":
            exploration = plan.settings.exploration
            time_ps = exploration.time_ps + exploration.thermostatted_ps
            steps = math.ceil(time_ps * 1000 / exploration.timestep_fs)
            return exploration.replicas * steps
        case "certify":
            return _certified_steps(plan)
        case "label":
            return calculations(plan, generation)
        case "import_labels":
            return plan.settings.seed_labels.verified_frames
        case "domain":
            taught = pretrained_frames(plan) if plan.settings.pretraining.enabled else 0
            return taught + labels_before(plan, generation or 0)
        case "select":
            looked_at = candidates(plan) + reservoir(plan) + audit_frames(plan)
            return looked_at + labels_before(plan, generation or 0)
        case "second_opinion":
            each = plan.settings.audit.second_opinion_frames
            judged = min(_explored_groups(plan) * each, reservoir(plan))
            return judged + labels_before(plan, generation or 0)
        case "final":
            return labels_before(plan, plan.settings.limits.max_generations)
    return 1


def job_units(plan: SystemPlan, stage: str, generation: int | None) -> float:
    """Work of one job of a stage, in the stage's unit; of a label job, that of the largest."""
    work = units(plan, stage, generation)
    return math.ceil(work / plan.settings.resources.label_shards) if stage == "label" else work


def atom_units(plan: SystemPlan, stage: str, generation: int | None) -> float:
    """Work of one job, each unit times its atoms, so that systems of any size compare.

    Replicas are dealt evenly over the structures that are explored; of frames, each is taken to
    be one of the largest structure. The atoms of a label count to the power `LABEL_POWER`.
    """
    if stage == "forcefield":
        return sum(steps * plan.atoms[name] for name, steps in _teacher_steps(plan).items())
    work, largest = job_units(plan, stage, generation), max(plan.atoms.values())
    match stage:
        case "explore" | "certify":
            return work * sum(plan.atoms[name] for name in plan.explored) / len(plan.explored)
        case "label" | "import_labels":
            return float(work * largest**LABEL_POWER)
    return work * largest


def recorded_units(plan: SystemPlan, entry: Mapping[str, Any]) -> float:
    """Work of a job that is done, by its entry in the ledger.

    Older entries do not have `units`; what they call `work` was counted otherwise and is not used.
    Their work is counted anew, from the settings of today.

    Args:
        plan: the system with its settings.
        entry: see `stage.Job.done`.
    """
    if "units" in entry:
        return float(entry["units"])
    number = entry["number"] if "number" in entry else entry["generation"]
    return job_units(plan, entry["stage"], None if number == SEED else number)


def md_steps(teacher: TeacherSettings) -> int:
    """Steps of the teacher's dynamics of one structure: of each temperature a run of its own."""
    runs = min(len(teacher.temperatures_K), teacher.md_frames)
    equilibration = round(EQUILIBRATION_PS * 1000 / TEACHER_TIMESTEP_FS)
    interval = max(1, round(teacher.md_interval_fs / TEACHER_TIMESTEP_FS))
    return runs * equilibration + teacher.md_frames * interval


def labels(plan: SystemPlan, generation: int | None) -> int:
    """Labels of a generation, or of the seed (None), at most."""
    if generation is None:
        return plan.seed_labels
    left = plan.settings.limits.label_budget - labels_before(plan, generation)
    return max(0, min(_labels_each(plan), left))


def _labels_each(plan: SystemPlan) -> int:
    """Labels of a generation that the label budget does not limit, at most."""
    return plan.settings.selection.frames + audit_frames(plan)


def audit_frames(plan: SystemPlan) -> int:
    """Audit frames of a generation, of all structures and temperatures."""
    return _explored_groups(plan) * audit_frames_each(plan)


def audit_frames_each(plan: SystemPlan) -> int:
    """Audit frames of each structure and temperature in a generation.

    Unless `audit.frames` says it, 10; fewer, but at least 5, where those would cost more than
    `AUDIT_CORE_HOURS` or, over all generations, more than half of the labels that the seed leaves.
    Only what is known before the campaign begins counts, so that all generations have as many.
    """
    if plan.settings.audit.frames:
        return plan.settings.audit.frames
    least, most = AUDIT_FRAMES
    limits = plan.settings.limits
    left = max(0, limits.label_budget - plan.seed_labels)
    by_budget = left // (2 * limits.max_generations * _explored_groups(plan))
    by_cost = most
    if plan.backend not in CHEAP_BACKENDS:
        atoms = max(plan.atoms[name] for name in plan.explored)
        by_cost = int(AUDIT_CORE_HOURS * 3600 / (LABEL_S * atoms**LABEL_POWER))
    return max(least, min(most, by_budget, by_cost))


def audit_text(plan: SystemPlan) -> str:
    """What the audit takes of each generation's labels, in a sentence."""
    each, number = audit_frames_each(plan), audit_frames(plan)
    source = "as audit.frames says"
    if not plan.settings.audit.frames:
        source = "audit.frames = null: at most 10 each, fewer where labels are dear or few"
    return (
        f"audit: {number} labels a generation, {each} random frames of each structure and "
        f"temperature ({source})"
    )


def _explored_groups(plan: SystemPlan) -> int:
    """Structures × temperatures that have a replica."""
    exploration = plan.settings.exploration
    number = len(plan.explored) * len(exploration.temperatures_K)
    return max(1, min(number, exploration.replicas))


def reservoir(plan: SystemPlan) -> int:
    """Random frames of an exploration, at most: all are looked at where diverse ones are chosen."""
    exploration = plan.settings.exploration
    each = math.ceil(exploration.time_ps * 1000 / exploration.candidate_interval_fs)
    most = _explored_groups(plan) * plan.settings.audit.reservoir
    return min(most, exploration.replicas * each)


def calculations(plan: SystemPlan, generation: int | None) -> int:
    """Label calculations of a generation, or of the seed (None), at most.

    A frame is computed in each of the multiplicities that its structure may have (`labels.spin`).
    """
    spins = {name: max(1, len(s.multiplicities)) for name, s in plan.structures.items()}
    if generation is not None:
        return labels(plan, generation) * max(spins[name] for name in plan.explored)
    seed = plan.settings.seed_labels
    drawn = seed.frames * sum(spins[name] for name in plan.labelled) if seed.draws_frames else 0
    return drawn + len(plan.free_atoms)


def labels_before(plan: SystemPlan, generation: int) -> int:
    """Labels of the seed and all earlier generations, at most."""
    unlimited = plan.seed_labels + generation * _labels_each(plan)
    return min(unlimited, max(plan.settings.limits.label_budget, plan.seed_labels))


def learned_frames(plan: SystemPlan, generation: int) -> int:
    """Frames that the model of a generation is trained on, at most."""
    new = labels_before(plan, generation) - plan.seed_labels
    audited = min(new, generation * audit_frames(plan))  # they have the first claim
    # Every second of them is held out, the first of each structure and temperature among these.
    held_out = audited - audited // 2 + (new - audited) // plan.settings.selection.validation_every
    return plan.settings.seed_labels.train * len(plan.labelled) + new - held_out


def pretrained_frames(plan: SystemPlan) -> int:
    """Frames of the teacher of all structures that are pre-trained on, those held out too.

    The seed's validation and test frames among them are not learned; they are few.
    """
    structures = sum(plan.structures[name].pretrain for name in plan.sampled)
    return structures * plan.settings.teacher.frames


def candidates(plan: SystemPlan) -> int:
    """Candidate frames of an exploration, at most."""
    exploration = plan.settings.exploration
    each = math.ceil(exploration.time_ps * 1000 / exploration.candidate_interval_fs)
    return exploration.replicas * min(each, exploration.candidates_per_replica)


def _teacher_steps(plan: SystemPlan) -> dict[str, int]:
    """Steps of the teacher's dynamics by structure; the frames at the walls take next to none."""
    teacher = plan.settings.teacher
    to_label = teacher.without_walls(plan.settings.seed_labels.max_temperature_K)
    return {
        name: md_steps(teacher if plan.structures[name].pretrain else to_label)
        for name in plan.sampled
    }


def _pretraining(plan: SystemPlan) -> float:
    """Structures × epochs; 1 where a model of the user's is taken instead."""
    pretraining, frames = plan.settings.pretraining, pretrained_frames(plan)
    if pretraining.start:
        return 1
    learned = frames - max(1, round(frames * pretraining.validation_fraction))
    return learned * pretraining.epochs_of(learned)


def _certified_steps(plan: SystemPlan) -> int:
    """Replica-steps of the certificate's runs, with a thermostat and without."""
    tested, explored = plan.settings.certificate, plan.settings.exploration
    temperatures = tested.temperatures_K or explored.temperatures_K
    before = explored.model_copy(update={"ensemble": "nve"}).thermostatted_ps
    time_fs = (tested.time_ps + before + tested.nve_time_ps) * 1000
    steps = math.ceil(time_fs / (tested.timestep_fs or explored.timestep_fs))
    return len(plan.explored) * len(temperatures) * tested.replicas * steps
