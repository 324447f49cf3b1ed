"""Work and its cost, against numbers worked out by hand."""

import json

import pytest
from fabricated import campaign

from conftest import ROOT
from halcyon import config
from halcyon.campaign import work
from halcyon.campaign.campaign import Campaign
from halcyon.commands.plan.forecast import plan


@pytest.fixture(scope="module")
def quickstart():
    source = ROOT / "config/quickstart.yaml"
    content = config.read_yaml(source)
    content["systems_folder"] = str(ROOT / "config/systems")
    return Campaign.resolve(content, str(source)).systems["ethanol"]


WORK = [
    # 8 replicas × 4 ps at 0.5 fs; 360 of 400 frames × 25 epochs; 20 frames × 225 epochs, since
    # 900 updates of 4 batches are the least; then 16 of every 20 new labels are learned from, with
    # 52 frames 90 epochs: as the quickstart's own output says.
    ("explore", 0, 64_000),
    ("pretrain", None, 9_000),
    ("train", 0, 4_500),
    ("train", 2, 52 * 90),
    ("label", None, 55),
    ("label", 0, 20),
    ("domain", 0, 400 + 55),
    ("select", 1, 8 * 80 + 55 + 20),
    ("verdict", 3, 1),
]


@pytest.mark.parametrize(("stage", "generation", "wanted"), WORK)
def test_units_of_work(quickstart, stage, generation, wanted):
    assert work.units(quickstart, stage, generation) == wanted


def test_labels_end_with_the_budget(tmp_path):
    one = campaign(tmp_path, limits={"max_generations": 9, "label_budget": 100}).systems["methanol"]
    assert [work.labels(one, g) for g in (None, 0, 1, 2, 3)] == [55, 20, 20, 5, 0]


def test_a_rate_from_earlier_jobs(quickstart):
    entries = [
        {"stage": "explore", "generation": g, "seconds": s, "cores": 1}
        for g, s in ((0, 64.0), (1, 128.0), (2, 192.0))
    ]
    rate = work.from_ledger(quickstart, entries, "campaign x")["explore"]
    low, high = work.LEDGER
    assert (rate.low, rate.likely, rate.high) == pytest.approx((low * 1e-3, 2e-3, high * 3e-3))
    assert rate.source == "campaign x, 3 jobs"


def test_labels_of_another_size_are_scaled():
    same = work.from_labels({9: (4, 1.0, 2.0, 3.0)}, 9, "store")
    assert (same.low, same.likely, same.high) == (1.0, 2.0, 3.0)
    double = work.from_labels({9: (4, 1.0, 2.0, 3.0)}, 18, "store")
    assert (double.low, double.likely, double.high) == pytest.approx((2.0, 8.0, 24.0))
    assert work.from_labels({}, 9, "store") is None


def test_the_certificates_runs_are_counted(tmp_path):
    """8 replicas of one molecule at two temperatures, 1 ns NVT and 20 ps NVE, steps of 0.5 fs."""
    asked = {"time_ps": 1000.0, "nve_time_ps": 20.0, "replicas": 8}
    explored = {"temperatures_K": [300.0, 500.0], "timestep_fs": 0.5}
    found = campaign(tmp_path, certificate=asked, exploration=explored)
    steps = 8 * 2 * 2 * 1_020_000
    assert work.units(found.systems["methanol"], "certify", None) == steps
    about = {"seconds_per_replica_step": 0.01, "seconds_per_evaluation": 0.0, "about": "made up"}
    trial = {"model": about | {"seconds_per_structure_and_epoch": [0.0]}}
    (system,) = plan(found, {"methanol": trial}, start_s=0.0)["systems"]
    end = system["batches"][-1]
    assert end["stages"]["certify"][1] * 3600 == pytest.approx(steps * 0.01)
    never = campaign(tmp_path, certificate={"when": "never"})
    (system,) = plan(never, {"methanol": trial}, start_s=0.0)["systems"]
    assert list(system["batches"][-1]["stages"]) == ["final", "report"]


def test_sums_of_a_plan(tmp_path):
    """One core-second a label and nothing else: 55 + 4 × 20 labels, 8 + 4 × 7 starts of 1 s."""
    found = campaign(tmp_path)
    result = plan(
        found, {"methanol": {"label": {"core_seconds": 1.0, "about": "made up"}}}, start_s=1.0
    )
    (system,) = result["systems"]
    # Force field, pre-training, seed, two shards; seven of a generation; certificate, final, page.
    starts = 5 + 4 * 7 + 3
    assert system["most"]["jobs"] == starts
    assert system["most"]["labels"] == 55 + 4 * 20
    assert system["most"]["core_hours"][1] * 3600 == pytest.approx(starts + 55 + 4 * 20)
    assert system["least"]["core_hours"][1] * 3600 == pytest.approx(8 + 7 + 55 + 20)
    assert result["total"]["gpu_hours"] == [0, 0]
    assert "actual" not in system
    ledger = found.folder / "stages.jsonl"
    entry = {"system": "methanol", "stage": "label", "seconds": 90.0, "cores": 2}
    ledger.write_text(json.dumps(entry | {"generation": None, "what": ""}) + "\n")
    actual = plan(found, {}, start_s=1.0)["systems"][0]["actual"]
    assert actual["stages"]["label"]["core_hours"] == pytest.approx(180 / 3600)
