"""What jobs cost: units of work, times a rate that was measured.

A job takes `seconds per unit × units`; the units follow from the configuration (steps, structures
and epochs, frames). Rates come, best first, from this campaign's own jobs, from labels of the same
level in the store, or from `trial`. Each rate has an interval and says where it is from.

Not for: how many generations a campaign needs; nobody knows that before.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from halcyon.campaign.campaign import SystemPlan
from halcyon.commands.plan.trial import md_steps

SHORT = (0.5, 2.0)
"""What a trial of seconds says about jobs of hours, as factors: assumed, not measured."""
LEDGER = (0.8, 1.5)
"""What jobs say that ran before: the least and the greatest of them, times these."""
ATOMS_POWER = (1.0, 3.0)
"""How the cost of a label grows with the number of atoms, at least and at most."""


@dataclass(frozen=True)
class Rate:
    """Seconds of one core (or GPU) per unit of work; least, likely, most; and its source."""

    low: float
    likely: float
    high: float
    source: str

    @classmethod
    def around(cls, values: Iterable[float], factors: tuple[float, float], source: str) -> "Rate":
        """From some measurements: their range, widened by two factors."""
        found = sorted(values)
        return cls(factors[0] * found[0], statistics.median(found), factors[1] * found[-1], source)

    def times(self, units: float) -> "Rate":
        """Seconds of so many units."""
        return Rate(self.low * units, self.likely * units, self.high * units, self.source)


def units(  # noqa: PLR0911 - one per stage
    plan: SystemPlan, stage: str, generation: int | None
) -> float:
    """Work of all jobs of a stage, in its own unit; see `UNITS`.

    Args:
        plan: the system with its settings.
        stage: e.g. `train`.
        generation: counted from 0; None before the first. All earlier ones are taken to have
            labelled as many frames as they may.
    """
    settings = plan.settings
    match stage:
        case "forcefield":
            return sum(_teacher_steps(plan, name) for name in plan.structures)
        case "pretrain":
            if settings.pretraining.start:
                return 1
            learned = round(_taught(plan) * (1 - settings.pretraining.validation_fraction))
            return learned * settings.pretraining.epochs_of(learned)
        case "train":
            learned = learned_frames(plan, generation or 0)
            twice = 2 if settings.training.replay_weight and settings.pretraining.enabled else 1
            return twice * learned * settings.training.epochs_of(learned)
        case "explore":
            asked = settings.exploration
            return asked.replicas * math.ceil(asked.time_ps * 1000 / asked.timestep_fs)
        case "certify":
            return _certified_steps(plan)
        case "label":
            return labels(plan, generation)
        case "domain":
            taught = _taught(plan) if settings.pretraining.enabled else 0
            return taught + labels_before(plan, generation or 0)
        case "select":
            return candidates(plan) + labels_before(plan, generation or 0)
        case _:
            return 1


UNITS = {
    "forcefield": "MD step",
    "pretrain": "structure and epoch",
    "train": "structure and epoch",
    "explore": "replica-step",
    "certify": "replica-step",
    "label": "label",
    "domain": "frame",
    "select": "frame",
}
"""What work is counted in; everything else in jobs."""


def _teacher_steps(plan: SystemPlan, name: str) -> int:
    from halcyon.teacher.sampling import without_walls

    settings = plan.settings.teacher
    if not plan.structures[name].pretrain:
        settings = without_walls(settings, plan.settings.seed_labels.max_temperature_K)
    return md_steps(
        settings.md_interval_fs, settings.md_frames, temperatures=len(settings.temperatures_K)
    )


def _certified_steps(plan: SystemPlan) -> int:
    """Replica-steps of the certificate's runs, with a thermostat and without."""
    asked, explored = plan.settings.certificate, plan.settings.exploration
    kinds = len(plan.explored) * len(asked.temperatures_K or explored.temperatures_K)
    steps = (asked.time_ps + asked.nve_time_ps) * 1000 / (asked.timestep_fs or explored.timestep_fs)
    return kinds * asked.replicas * math.ceil(steps)


def _taught(plan: SystemPlan) -> int:
    """Frames of the teacher that are pre-trained on."""
    teacher = plan.settings.teacher
    each = teacher.md_frames + teacher.displaced_frames + teacher.stretched_frames
    each += teacher.contact_frames + teacher.dissociated_frames
    return each * sum(structure.pretrain for structure in plan.structures.values())


def labels(plan: SystemPlan, generation: int | None) -> int:
    """Labels of the seed or of a generation, at most."""
    if generation is None:
        return plan.seed_labels
    left = plan.settings.limits.label_budget - labels_before(plan, generation)
    return max(0, min(plan.settings.selection.frames, left))


def labels_before(plan: SystemPlan, generation: int) -> int:
    """Labels of the seed and all earlier generations, at most."""
    wanted = plan.seed_labels + generation * plan.settings.selection.frames
    return min(wanted, max(plan.settings.limits.label_budget, plan.seed_labels))


def learned_frames(plan: SystemPlan, generation: int) -> int:
    """Frames that a generation is trained on, at most."""
    selected = labels_before(plan, generation) - plan.seed_labels
    held_out = selected // plan.settings.selection.validation_every
    return plan.settings.seed_labels.train * len(plan.structures) + selected - held_out


def candidates(plan: SystemPlan) -> int:
    """Candidate frames of an exploration, at most."""
    asked = plan.settings.exploration
    each = math.ceil(asked.time_ps * 1000 / asked.candidate_interval_fs)
    return asked.replicas * min(each, asked.candidates_per_replica)


def from_ledger(
    plan: SystemPlan, entries: Iterable[Mapping[str, Any]], source: str
) -> dict[str, Rate]:
    """Rates by stage from a campaign's `stages.jsonl`.

    Args:
        plan: of the system that the entries are of.
        entries: of one system; see `stage.Job.done`.
        source: what to say about them.
    """
    found: dict[str, list[float]] = {}
    for entry in entries:
        stage = entry["stage"]
        if stage == "label":
            continue  # labels that were known cost nothing: the store knows better
        work = units(plan, stage, entry["generation"])
        found.setdefault(stage, []).append(entry["seconds"] / max(work, 1))
    return {
        stage: Rate.around(values, LEDGER, f"{source}, {len(values)} jobs")
        for stage, values in found.items()
    }


def from_trials(trials: Mapping[str, Mapping[str, Any]]) -> dict[str, Rate]:
    """Rates by stage from what `trial` found, by its kinds; a trial that failed gives none."""
    rates: dict[str, Rate] = {}
    if "seconds_per_step" in (found := trials.get("forcefield", {})):
        source = "measured: " + found["about"]
        rates["forcefield"] = Rate.around([found["seconds_per_step"]], SHORT, source)
    if "seconds_per_replica_step" in (found := trials.get("model", {})):
        source = "measured: " + found["about"]
        epochs = Rate.around(found["seconds_per_structure_and_epoch"], SHORT, source)
        evaluation = Rate.around([found["seconds_per_evaluation"]], SHORT, source)
        rates |= {"pretrain": epochs, "train": epochs, "domain": evaluation, "select": evaluation}
        rates["explore"] = Rate.around([found["seconds_per_replica_step"]], SHORT, source)
    if "core_seconds" in (found := trials.get("label", {})):
        rates["label"] = Rate.around([found["core_seconds"]], SHORT, "measured: " + found["about"])
    return rates


def from_labels(
    known: Mapping[int, tuple[int, float, float, float]], atoms: int, source: str
) -> Rate | None:
    """Core-seconds of a label from those that are stored.

    Args:
        known: by number of atoms: how many labels; 5 %, 50 % and 95 % of their core-seconds.
        atoms: of the frames to label.
        source: what to say about them.
    """
    if not known:
        return None
    nearest = min(known, key=lambda number: abs(math.log(number / atoms)))
    count, low, likely, high = known[nearest]
    ratio = atoms / nearest
    powers = [ratio**power for power in ATOMS_POWER]
    said = f"{source}: {count} labels of {nearest} atoms"
    return Rate(
        low * min(powers), likely * math.sqrt(powers[0] * powers[1]), high * max(powers), said
    )
