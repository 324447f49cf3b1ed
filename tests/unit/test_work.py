"""Work and its cost, against numbers worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fabricated import campaign

from conftest import ROOT
from halcyon import config, jsonl
from halcyon.campaign import rates, work
from halcyon.campaign.campaign import Campaign
from halcyon.commands.plan.forecast import forecast
from halcyon.commands.plan.rates import StoredCosts, from_labels


@pytest.fixture(scope="module")
def quickstart():
    source = ROOT / "config/quickstart.yaml"
    content = config.read_yaml(source)
    content["systems_folder"] = str(ROOT / "config/systems")
    content["audit"] = {"frames": 10}
    return Campaign.resolve(content, str(source)).systems["ethanol"]


WORK = [
    # 16 replicas × 4 ps at 0.5 fs; 360 of 400 frames × 25 epochs; 20 frames × 225 epochs, since
    # 900 updates of 4 batches are the least; then 16 of every 20 selected frames and 5 of every 10
    # audit frames are learned from, with 62 frames 90 epochs.
    ("explore", 0, 128_000),
    ("pretrain", None, 9_000),
    ("train", 0, 4_500),
    ("train", 2, 62 * 90),
    ("label", None, 55),
    ("label", 0, 20 + 10),
    ("domain", 0, 400 + 55),
    ("select", 1, 16 * 80 + 200 + 10 + 55 + 30),
    ("second_opinion", 1, 200 + 55 + 30),
    ("verdict", 3, 1),
]


@pytest.mark.parametrize(("stage", "generation", "expected"), WORK)
def test_units_of_work(quickstart, stage, generation, expected):
    assert work.units(quickstart, stage, generation) == expected


def with_settings(plan, section, **changes):
    settings = getattr(plan.settings, section).model_copy(update=changes)
    return replace(plan, settings=plan.settings.model_copy(update={section: settings}))


def test_replay_doubles_training_where_there_are_frames_to_replay(quickstart):
    """`models.training` puts as many of the teacher's frames beside each batch of labels."""
    plain = work.units(quickstart, "train", 2)
    replaying = with_settings(quickstart, "training", replay_weight=0.5)
    assert work.units(replaying, "train", 2) == 2 * plain
    assert work.atom_units(replaying, "train", 2) == 2 * plain * 9, "a cluster is asked for it, too"
    nothing = with_settings(replaying, "pretraining", enabled=False)
    assert work.units(nothing, "train", 2) == plain


def test_a_single_atom_is_not_sampled(quickstart):
    """It gives the seed no frame, so none is learned, and no dynamics."""
    atom = quickstart.system.structures[0].model_copy(update={"name": "atom", "explore": False})
    structures = [*quickstart.system.structures, atom]
    plan = replace(
        quickstart, system=quickstart.system.model_copy(update={"structures": structures})
    )
    plan.know_atoms({**quickstart.atoms, "atom": 1}, quickstart.elements)
    for stage in ("forcefield", "pretrain", "train", "label", "domain"):
        assert work.units(plan, stage, 0) == work.units(quickstart, stage, 0), stage


def test_what_is_not_pretrained_on_is_sampled_for_labels_alone(quickstart):
    teacher = quickstart.settings.teacher
    hot = sum(
        kelvin > quickstart.settings.seed_labels.max_temperature_K
        for kelvin in teacher.temperatures_K
    )
    (structure,) = quickstart.system.structures
    system = quickstart.system.model_copy(
        update={"structures": [structure.model_copy(update={"pretrain": False})]}
    )
    plan = replace(quickstart, system=system)
    assert hot > 0
    saved = work.units(quickstart, "forcefield", None) - work.units(plan, "forcefield", None)
    assert saved == hot * 2000, "1 ps of equilibration at each temperature that is left out"


def test_a_frame_is_computed_in_each_of_its_multiplicities(quickstart):
    (structure,) = quickstart.system.structures
    scanned = structure.model_copy(update={"multiplicities": [1, 3, 5]})
    system = quickstart.system.model_copy(update={"structures": [scanned]})
    plan = replace(quickstart, system=system)
    assert [work.units(plan, "label", g) for g in (None, 0)] == [3 * 55, 3 * 30]
    assert [work.labels(plan, g) for g in (None, 0)] == [55, 30], "frames, of which one label stays"
    assert work.job_units(plan, "label", 0) == 45, "in two shards"


def test_a_model_of_the_users_own_is_not_pretrained(quickstart):
    plan = with_settings(quickstart, "pretraining", start=Path("mace-off.model"))
    assert work.units(plan, "pretrain", None) == 1


def test_candidates_are_as_many_as_the_time_allows(quickstart):
    """4 ps hold 8 candidates, and as many random frames, of one replica at 500 fs apart."""
    plan = with_settings(quickstart, "exploration", candidate_interval_fs=500.0)
    assert work.units(plan, "select", 0) == 2 * 16 * 8 + 10 + 55


def test_labels_end_with_the_budget(tmp_path):
    plan = campaign(tmp_path, limits={"max_generations": 9, "label_budget": 100}).systems[
        "methanol"
    ]
    assert [work.labels(plan, g) for g in (None, 0, 1, 2, 3)] == [55, 25, 20, 0, 0]
    assert work.units(plan, "final", None) == 100


def audited(tmp_path, atoms=9, backend="cp2k", audit=(), **sections):
    """Audit frames of each structure and temperature, where the structure has so many atoms."""
    plan = campaign(tmp_path, audit=dict(audit), **sections).systems["methanol"]
    plan = replace(plan, backend=backend)
    plan.know_atoms({"methanol": atoms}, plan.elements)
    return work.audit_frames_each(plan)


def test_the_audit_is_smaller_where_labels_are_dear_or_few(tmp_path):
    many = {"max_generations": 8, "label_budget": 10_000}
    assert audited(tmp_path, limits=many) == 10
    # 10 core-hours: of 60 atoms, 4,648 s each, 7 frames; of 192 atoms, 7.4 h each, the least.
    assert audited(tmp_path, 60, limits=many) == 7
    assert audited(tmp_path, 192, limits=many) == 5
    assert audited(tmp_path, 192, "xtb", limits=many) == 10
    # Half of 145 labels in 8 generations at one temperature, then at three.
    some = {"max_generations": 8, "label_budget": 200}
    assert audited(tmp_path, limits=some) == 9
    hot = {"temperatures_K": [300.0, 500.0, 700.0], "replicas": 8}
    assert audited(tmp_path, limits=some, exploration=hot) == 5
    assert audited(tmp_path, 192, limits=some, audit={"frames": 3}) == 3


def test_how_large_the_audit_is_is_said_before_the_campaign_begins(tmp_path):
    made = campaign(tmp_path, exploration={"temperatures_K": [300.0, 500.0]})
    (system,) = forecast(made, {}, start_s=1.0)["systems"]
    assert system["audit"].startswith("audit: 18 labels a generation, 9 random frames of each")
    assert system["model"].startswith("model: 16 × 0e, correlation 2, cutoff 4 Å; proposed is ")
    made = campaign(tmp_path, audit={"frames": 4})
    (system,) = forecast(made, {}, start_s=1.0)["systems"]
    assert "4 labels a generation, 4 random frames" in system["audit"]
    assert "as audit.frames says" in system["audit"]


OLD_LEDGER = ROOT / "tests/data/ledger/quickstart.jsonl"
"""Of a real run, when work was counted in another way under the name `work`."""


def test_time_is_proportional_to_the_work(quickstart):
    """The three trainings of the old ledger; by what it calls `work` they differ by half."""
    entries = [e for e in jsonl.read(OLD_LEDGER) if e["stage"] == "train"]
    by_units = [e["seconds"] / work.recorded_units(quickstart, e) for e in entries]
    # The campaign had no audit frames, which are counted here: exact work stands in newer ledgers.
    assert max(by_units) < 1.3 * min(by_units)
    once = [e["seconds"] / e["work"] for e in entries]
    assert max(once) > 1.5 * min(once)


def test_recorded_work_counts_before_the_settings_of_today(quickstart):
    entry = {"stage": "train", "number": 2, "generation": 2, "work": 5.0}
    assert work.recorded_units(quickstart, entry) == 62 * 90
    assert work.recorded_units(quickstart, entry | {"units": 7.0}) == 7.0
    seed = {"stage": "label", "number": -1, "generation": None}
    assert work.recorded_units(quickstart, seed) == 28, "of 55 in two shards, the larger"
    assert work.recorded_units(quickstart, {"stage": "explore", "generation": 0}) == 128_000


def test_a_rate_from_earlier_jobs(quickstart):
    entries = [
        {"stage": "explore", "generation": g, "seconds": s, "cores": 1}
        for g, s in ((0, 64.0), (1, 128.0), (2, 192.0))
    ]
    rate = rates.from_ledger(quickstart, entries, "campaign x")["explore"]
    low, high = rates.LEDGER_FACTORS
    assert (rate.low, rate.value, rate.high) == pytest.approx((low * 0.5e-3, 1e-3, high * 1.5e-3))
    assert rate.source == "campaign x, 3 jobs"


def test_labels_of_another_size_are_scaled():
    same = from_labels({9: StoredCosts(4, 1.0, 2.0, 3.0)}, 9, "store")
    assert (same.low, same.value, same.high) == (1.0, 2.0, 3.0)
    double = from_labels({9: StoredCosts(4, 1.0, 2.0, 3.0)}, 18, "store")
    assert (double.low, double.value, double.high) == pytest.approx((2.0, 8.0, 24.0))
    assert from_labels({}, 9, "store") is None


def test_the_certificates_runs_are_counted(tmp_path):
    """8 replicas of one molecule at two temperatures, 1 ns NVT and 1 + 20 ps NVE, steps of
    0.5 fs."""
    tested = {"time_ps": 1000.0, "nve_time_ps": 20.0, "replicas": 8}
    explored = {"temperatures_K": [300.0, 500.0], "timestep_fs": 0.5}
    made = campaign(tmp_path, certificate=tested, exploration=explored)
    steps = 8 * 2 * 2 * 1_021_000
    assert work.units(made.systems["methanol"], "certify", None) == steps
    about = {"seconds_per_replica_step": 0.01, "seconds_per_evaluation": 0.0, "about": "made up"}
    trial = {"model": about | {"seconds_per_structure_and_epoch": [0.0]}}
    (system,) = forecast(made, {"methanol": trial}, start_s=0.0)["systems"]
    end = system["batches"][-1]
    assert end["stages"]["certify"][1] * 3600 == pytest.approx(steps * 0.01)
    never = campaign(tmp_path, certificate={"when": "never"})
    (system,) = forecast(never, {"methanol": trial}, start_s=0.0)["systems"]
    assert list(system["batches"][-1]["stages"]) == ["final", "report"]


def test_upper_ends_count_that_explorations_may_grow(tmp_path):
    about = {"seconds_per_replica_step": 0.01, "seconds_per_evaluation": 0.0, "about": "made up"}
    trial = {"model": about | {"seconds_per_structure_and_epoch": [0.0]}}

    def explored(**exploration):
        made = campaign(tmp_path, exploration=exploration)
        (system,) = forecast(made, {"methanol": trial}, start_s=0.0)["systems"]
        return system, [part["stages"]["explore"] for part in system["batches"][1:-1]]

    system, (first, *later) = explored(extended_at_most=4.0)
    assert "up to 120 ps" in system["longer"]
    for low, likely, most in later:
        assert [low, likely] == pytest.approx(first[:2])
        assert most == pytest.approx(4 * first[2])
    assert system["batches"][2]["disk_GB"][2] > system["batches"][1]["disk_GB"][2]
    system, (first, *later) = explored(extended_at_most=1.0)
    assert system["longer"] is None
    assert all(part == pytest.approx(first) for part in later)


def test_sums_of_a_forecast(tmp_path):
    """One core-second a label and nothing else: 55 + 4 × 30 labels, 8 + 4 × 7 starts of 1 s."""
    made = campaign(tmp_path)
    result = forecast(
        made, {"methanol": {"label": {"core_seconds": 1.0, "about": "made up"}}}, start_s=1.0
    )
    (system,) = result["systems"]
    # Force field, pre-training, seed, two shards; seven of a generation; certificate, final, page.
    starts = 5 + 4 * 7 + 3
    assert system["most"]["jobs"] == starts
    assert system["most"]["labels"] == 55 + 4 * 30
    assert system["most"]["core_hours"][1] * 3600 == pytest.approx(starts + 55 + 4 * 30)
    assert system["least"]["core_hours"][1] * 3600 == pytest.approx(8 + 7 + 55 + 30)
    assert result["total"]["gpu_hours"] == [0, 0]
    assert "actual" not in system
    without = ("label", "final", "second_opinion", "import_labels")  # measured, none, not asked for
    assert system["unmeasured"] == [s for s in work.UNITS if s not in without]
    ledger = made.folder / "stages.jsonl"
    entry = {"system": "methanol", "stage": "label", "seconds": 90.0, "cores": 2}
    ledger.write_text(json.dumps(entry | {"generation": None, "what": ""}) + "\n")
    actual = forecast(made, {}, start_s=1.0)["systems"][0]["actual"]
    assert actual["stages"]["label"]["core_hours"] == pytest.approx(180 / 3600)
