"""What jobs ask a cluster for: follows the work, learns, and never more than the limits."""

from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from halcyon import config, jsonl
from halcyon.campaign.attempts import Attempts, Ended
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.campaign.paths import SEED, ledger
from halcyon.campaign.sizes import (
    LEAST_MIN,
    MARGIN,
    OVERHEAD_MB,
    UNLEARNED_MB,
    JobSizes,
    too_few_cores,
)
from halcyon.campaign.work import atom_units, job_units

SYSTEM = config.System(
    name="thing",
    structures=[
        {"name": "water", "smiles": "O", "box_A": 8.0, "explore": False},
        {"name": "box", "pack": {"water": 8}, "density_g_per_cm3": 0.9},
    ],
)


def campaign(tmp_path, **changes):
    content = {
        "campaign": "trial",
        "systems": ["thing"],
        "reference": {"backend": "xtb"},
        "results": tmp_path,
    }
    settings = config.parse_campaign(content | changes, "trial.yaml")
    plan = SystemPlan(SYSTEM, config.settings_for(settings, SYSTEM))
    trial = Campaign(settings, {"thing": plan})
    trial.folder.mkdir(parents=True, exist_ok=True)
    return trial


def learn(campaign, stage, generation, *, seconds, peak_mb, **counted):
    """Add a job that is done to the ledger, its work `counted` as units or, of old, as work."""
    number = SEED if generation is None else generation
    entry = {"system": "thing", "stage": stage, "generation": generation, "number": number}
    path = ledger(campaign.folder)
    jsonl.append(path, entry | {"seconds": seconds, "peak_mb": peak_mb} | counted)


def test_work_in_atoms_is_counted_by_hand(tmp_path):
    exploration = {"replicas": 6, "time_ps": 2.0, "timestep_fs": 0.5, "temperatures_K": [300.0]}
    plan = campaign(
        tmp_path,
        exploration=exploration,
        resources={"label_shards": 4},
        seed_labels={"train": 3, "validation": 5, "test": 6},
        selection={"frames": 10, "validation_every": 5},
        training={"epochs": 7, "updates": None},
        limits={"label_budget": 200, "max_generations": 4},
        teacher={"temperatures_K": [300.0, 600.0], "md_frames": 40, "md_interval_fs": 25.0},
    ).systems["thing"]
    assert plan.atoms == {"water": 3, "box": 24}
    assert atom_units(plan, "explore", 0) == 6 * 4000 * 24  # of the box alone
    assert atom_units(plan, "label", None) == pytest.approx(7 * 24**1.5)  # 14 × 2 / 4 frames
    assert atom_units(plan, "label", 3) == pytest.approx(5 * 24**1.5)  # (10 + 10 of the audit) / 4
    assert atom_units(plan, "train", 0) == 6 * 7 * 24  # learned × epochs × atoms of the largest
    assert atom_units(plan, "train", 3) == (6 + 3 * (8 + 5)) * 7 * 24
    assert atom_units(plan, "final", None) == (28 + 4 * 20) * 24
    assert atom_units(plan, "forcefield", None) == 27 * (2 * 2000 + 40 * 50)


def test_what_is_done_once_learns_from_the_last_generation(tmp_path):
    trial = campaign(tmp_path, certificate={"time_ps": 100.0})
    units = job_units(trial.systems["thing"], "certify", None)
    size = JobSizes(trial).of("certify", "thing")
    assert size.memory_mb == UNLEARNED_MB["certify"] + OVERHEAD_MB
    learn(trial, "explore", 0, seconds=1.0, peak_mb=9000, units=units)
    learn(trial, "explore", 1, seconds=3600.0, peak_mb=1500, units=units)
    size = JobSizes(trial).of("certify", "thing")
    assert (size.runtime_min, size.memory_mb) == (MARGIN * 60, MARGIN * 1500 + OVERHEAD_MB)


def test_before_anything_is_learned_much_is_asked(tmp_path):
    small = campaign(tmp_path, exploration={"time_ps": 1.0})
    large = campaign(tmp_path, exploration={"time_ps": 100.0})
    assert JobSizes(small).of("explore", "thing", generation=0).runtime_min >= LEAST_MIN
    ratio = 100 * atom_units(small.systems["thing"], "explore", 0)
    assert atom_units(large.systems["thing"], "explore", 0) == pytest.approx(ratio)
    size = JobSizes(small).of("explore", "thing", generation=0)
    assert size.memory_mb == UNLEARNED_MB["explore"] + OVERHEAD_MB


def test_a_teacher_that_is_a_program_is_asked_more_time_for(tmp_path):
    minutes = []
    for kind in ("gaff2", "gfnff", "xtb"):
        longer = {"teacher": {"md_frames": 2000}, "resources": {"longest_job_h": 1000.0}}
        slow = campaign(tmp_path, **longer)
        plan = slow.systems["thing"]
        forcefield = TypeAdapter(config.ForceFieldSettings).validate_python({"kind": kind})
        system = plan.system.model_copy(update={"forcefield": forcefield})
        slow.systems["thing"] = replace(plan, system=system)
        minutes.append(JobSizes(slow).of("forcefield", "thing").runtime_min)
    assert minutes[0] * 4 < minutes[1]
    assert minutes[1] * 4 < minutes[2]


def test_only_earlier_generations_teach(tmp_path):
    trial = campaign(tmp_path)
    sizes = JobSizes(trial)
    units = job_units(trial.systems["thing"], "explore", 1)
    unlearned = sizes.of("explore", "thing", generation=0)
    learn(trial, "explore", 0, seconds=7200.0, peak_mb=3000, units=units)
    learn(trial, "explore", 1, seconds=60.0, peak_mb=1, units=units)
    assert sizes.of("explore", "thing", generation=0) == unlearned
    learned = sizes.of("explore", "thing", generation=1)
    assert learned.runtime_min == MARGIN * 120
    assert learned.memory_mb == MARGIN * 3000 + OVERHEAD_MB
    assert sizes.of("explore", "thing", generation=2).runtime_min == LEAST_MIN


def test_the_largest_shard_counts(tmp_path):
    trial = campaign(tmp_path)
    units = job_units(trial.systems["thing"], "label", 1)
    for seconds, peak_mb in ((600.0, 4000), (3600.0, 900)):
        learn(trial, "label", None, seconds=seconds, peak_mb=peak_mb, units=units)
    size = JobSizes(trial).of("label", "thing", generation=1)
    assert size.runtime_min == MARGIN * 60
    assert size.memory_mb == MARGIN * 4000 + OVERHEAD_MB


def test_attempts_get_what_the_last_ones_died_of(tmp_path):
    trial = campaign(tmp_path)
    units = job_units(trial.systems["thing"], "explore", 1)
    learn(trial, "explore", 0, seconds=3600.0, peak_mb=4000, units=units)
    sizes = JobSizes(trial)
    tried = Attempts(trial.attempts("thing", "gen001-explore"))

    def size_now():
        size = sizes.of("explore", "thing", generation=1, job="gen001-explore")
        return size.runtime_min, size.memory_mb

    assert size_now() == (120, 9000)
    tried.end(tried.begin("run"), Ended.SAVED, 100.0)  # out of time
    assert size_now() == (180, 9000)
    tried.begin("run")  # killed
    assert size_now() == (180, 13500)
    tried.end(tried.begin("run"), Ended.FAILED, 100.0)  # of itself: neither helps
    assert size_now() == (180, 13500)


def test_limits_hold_whatever_is_asked(tmp_path):
    limits = {"longest_job_h": 2.0, "most_memory_GB": 6.0}
    trial = campaign(tmp_path, exploration={"time_ps": 1e5}, resources=limits)
    tried = Attempts(trial.attempts("thing", "gen000-explore"))
    for _ in range(30):
        tried.begin("run")
    size = JobSizes(trial).of("explore", "thing", generation=0, job="gen000-explore")
    assert (size.runtime_min, size.memory_mb) == (120, 6000)


def test_work_of_an_older_ledger_is_counted_anew(tmp_path):
    """What it calls `work` had other units: it would ask for a thousandth of the time."""
    trial = campaign(tmp_path)
    units = job_units(trial.systems["thing"], "train", 0)
    learn(trial, "train", 0, seconds=7200.0, peak_mb=3000, work=1000 * units)
    size = JobSizes(trial).of("train", "thing", generation=1)
    ratio = job_units(trial.systems["thing"], "train", 1) / units
    assert size.runtime_min == pytest.approx(MARGIN * 120 * ratio, abs=1)


def test_a_ledger_without_memory_or_with_a_torn_line_teaches_nothing(tmp_path):
    trial = campaign(tmp_path)
    path = ledger(trial.folder)
    path.write_text('{"system": "thing", "stage": "explore", "seconds": 5.0}\n{"torn')
    assert JobSizes(trial).of("explore", "thing", generation=1).runtime_min >= LEAST_MIN


@pytest.mark.parametrize(("cores", "capped"), [(None, False), (1, True), (3, True), (4, False)])
def test_too_few_cores_for_the_jobs_of_a_cluster_are_refused(tmp_path, cores, capped):
    fault = too_few_cores(campaign(tmp_path, resources={"label_cores": 4}), cores)
    assert (
        f"--cores {cores} " in fault and "resources.label_cores of thing is 4" in fault
    ) == capped
    assert bool(fault) == capped
