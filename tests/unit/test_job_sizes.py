"""What jobs ask a cluster for: follows the work, learns, and never more than the limits."""

import json

import pytest

from halcyon import config
from halcyon.campaign.attempts import Attempts, Ended
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.campaign.sizes import LEAST_MIN, MARGIN, MEMORY_MB, OVERHEAD_MB, SEED, JobSizes, work

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
    found = Campaign(settings, {"thing": plan})
    found.folder.mkdir(parents=True, exist_ok=True)
    return found


def learn(found, stage, number, *, seconds, peak_mb, units):
    entry = {"system": "thing", "stage": stage, "number": number}
    entry |= {"seconds": seconds, "peak_mb": peak_mb, "work": units}
    with (found.folder / "stages.jsonl").open("a") as ledger:
        ledger.write(json.dumps(entry) + "\n")


def test_work_is_counted_by_hand(tmp_path):
    exploration = {"replicas": 6, "time_ps": 2.0, "timestep_fs": 0.5, "temperatures_K": [300.0]}
    resources = {"label_shards": 4}
    seed = {"train": 3, "validation": 5, "test": 6}
    plan = campaign(
        tmp_path,
        exploration=exploration,
        resources=resources,
        seed_labels=seed,
        selection={"frames": 10},
        training={"epochs": 7, "updates": None},
    ).systems["thing"]
    assert plan.atoms == {"water": 3, "box": 24}
    assert work(plan, "explore", 0) == 6 * 4000 * 24  # of the box alone: water is not explored
    assert work(plan, "label", SEED) == pytest.approx(7 * 24**1.5)  # 14 × 2 / 4 frames
    assert work(plan, "label", 3) == pytest.approx(3 * 24**1.5)  # ceil(10 / 4)
    assert work(plan, "train", 0) == 28 * 7 * 24  # labels × epochs × atoms of the largest
    assert work(plan, "train", 5) == (28 + 5 * 10) * 7 * 24
    assert work(plan, "final") == 28 * 24


def test_the_certificates_work_is_counted_by_hand(tmp_path):
    plan = campaign(
        tmp_path,
        exploration={"temperatures_K": [300.0, 400.0], "timestep_fs": 0.5},
        certificate={"replicas": 3, "time_ps": 10.0, "nve_time_ps": 2.0},
    ).systems["thing"]
    # 3 replicas at 2 temperatures of the one structure that is explored; 20,000 + 4,000 steps
    assert work(plan, "certify") == 3 * 2 * 24_000 * 24


def test_what_is_done_once_learns_from_the_last_generation(tmp_path):
    found = campaign(tmp_path, certificate={"time_ps": 100.0})
    units = work(found.systems["thing"], "certify")
    asked = JobSizes(found).of("certify", "thing")
    assert asked.memory_mb == MEMORY_MB["certify"] + OVERHEAD_MB
    learn(found, "explore", 0, seconds=1.0, peak_mb=9000, units=units)
    learn(found, "explore", 1, seconds=3600.0, peak_mb=1500, units=units)
    asked = JobSizes(found).of("certify", "thing")
    assert (asked.runtime_min, asked.memory_mb) == (MARGIN * 60, MARGIN * 1500 + OVERHEAD_MB)


def test_before_anything_is_learned_much_is_asked(tmp_path):
    small = campaign(tmp_path, exploration={"time_ps": 1.0})
    large = campaign(tmp_path, exploration={"time_ps": 100.0})
    assert JobSizes(small).of("explore", "thing", number=0).runtime_min >= LEAST_MIN
    ratio = 100 * work(small.systems["thing"], "explore", 0)
    assert work(large.systems["thing"], "explore", 0) == pytest.approx(ratio)
    asked = JobSizes(small).of("explore", "thing", number=0)
    assert asked.memory_mb == MEMORY_MB["explore"] + OVERHEAD_MB


def test_only_earlier_generations_teach(tmp_path):
    found = campaign(tmp_path)
    sizes = JobSizes(found)
    units = work(found.systems["thing"], "explore", 1)
    unlearned = sizes.of("explore", "thing", number=0)
    learn(found, "explore", 0, seconds=7200.0, peak_mb=3000, units=units)
    learn(found, "explore", 1, seconds=60.0, peak_mb=1, units=units)
    assert sizes.of("explore", "thing", number=0) == unlearned
    learned = sizes.of("explore", "thing", number=1)
    assert learned.runtime_min == MARGIN * 120
    assert learned.memory_mb == MARGIN * 3000 + OVERHEAD_MB
    assert sizes.of("explore", "thing", number=2).runtime_min == LEAST_MIN


def test_the_largest_shard_counts(tmp_path):
    found = campaign(tmp_path)
    units = work(found.systems["thing"], "label", 1)
    for seconds, peak_mb in ((600.0, 4000), (3600.0, 900)):
        learn(found, "label", SEED, seconds=seconds, peak_mb=peak_mb, units=units)
    asked = JobSizes(found).of("label", "thing", number=1)
    assert asked.runtime_min == MARGIN * 60
    assert asked.memory_mb == MARGIN * 4000 + OVERHEAD_MB


def test_attempts_get_what_the_last_ones_died_of(tmp_path):
    found = campaign(tmp_path)
    units = work(found.systems["thing"], "explore", 1)
    learn(found, "explore", 0, seconds=3600.0, peak_mb=4000, units=units)
    sizes = JobSizes(found)
    tried = Attempts(found.attempts("thing", "gen001-explore"))

    def asked():
        size = sizes.of("explore", "thing", number=1, job="gen001-explore")
        return size.runtime_min, size.memory_mb

    assert asked() == (120, 9000)
    tried.end(tried.begin("run"), Ended.SAVED, 100.0)  # out of time
    assert asked() == (180, 9000)
    tried.begin("run")  # killed
    assert asked() == (180, 13500)
    tried.end(tried.begin("run"), Ended.FAILED, 100.0)  # of itself: neither helps
    assert asked() == (180, 13500)


def test_limits_hold_whatever_is_asked(tmp_path):
    limits = {"longest_job_h": 2.0, "most_memory_GB": 6.0}
    found = campaign(tmp_path, exploration={"time_ps": 1e5}, resources=limits)
    tried = Attempts(found.attempts("thing", "gen000-explore"))
    for _ in range(30):
        tried.begin("run")
    size = JobSizes(found).of("explore", "thing", number=0, job="gen000-explore")
    assert (size.runtime_min, size.memory_mb) == (120, 6000)


def test_an_older_ledger_teaches_nothing_and_hurts_nothing(tmp_path):
    found = campaign(tmp_path)
    ledger = found.folder / "stages.jsonl"
    ledger.write_text('{"system": "thing", "stage": "explore", "seconds": 5.0}\n{"torn')
    assert JobSizes(found).of("explore", "thing", number=1).runtime_min >= LEAST_MIN
