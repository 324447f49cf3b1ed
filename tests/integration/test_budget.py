"""A hard budget of core-hours through Snakemake: spent, told, raised, made up for."""

import json

from halcyon.campaign import accounts
from halcyon.campaign.campaign import Campaign
from halcyon.frames import read_frames
from halcyon.labels.labelling import NOT_COMPUTED

SYSTEM = "methanol"


def statuses(checkout, name, batch):
    shards = sorted((checkout / f"results/{name}/{SYSTEM}/{batch}/labels").glob("*.parquet"))
    return [frame.info["status"] for path in shards for frame in read_frames(path)]


def verdict(checkout, name, generation):
    path = checkout / f"results/{name}/{SYSTEM}/gen{generation:03d}/verdict.json"
    return json.loads(path.read_text())


def test_a_spent_budget_ends_the_campaign_and_a_raised_one_makes_up_for_it(checkout, monkeypatch):
    own = {"label_store": "results/purse-labels"}
    config = checkout.configure("purse", limits={"max_generations": 1}, **own)
    checkout.run(config)
    first = verdict(checkout, "purse", 0)
    assert first["decision"] == "max_generations"
    spent = first["core_hours"]["spent"]
    assert spent > 0

    # Hardly more than is spent: each of the two shards may start one calculation, and no other.
    limits = {"max_generations": 2, "core_hours": spent * (1 + 1e-9)}
    config = checkout.configure("purse", limits=limits, **own)
    output = checkout.run(config)
    last = verdict(checkout, "purse", 1)
    frames = statuses(checkout, "purse", "gen001")
    assert last["decision"] == "budget_spent"
    assert "core-hours spent" in last["reason"]
    assert 1 <= len(frames) - frames.count(NOT_COMPUTED) <= 2
    assert last["labels"]["not_computed"] == frames.count(NOT_COMPUTED) > 0
    counted = [last["labels"][kind] for kind in ("train", "validation", "test", "bad")]
    assert last["labels"]["spent"] == sum(counted)
    assert "raise limits.core_hours" in output
    assert "Nothing to be done" in checkout.run(config)

    config = checkout.configure("purse", limits={"max_generations": 2, "core_hours": 1.0}, **own)
    assert f"the budget now allows {frames.count(NOT_COMPUTED)} frames" in checkout.run(config)
    assert NOT_COMPUTED not in statuses(checkout, "purse", "gen001")
    done = verdict(checkout, "purse", 1)
    assert done["decision"] == "max_generations"
    assert done["labels"]["not_computed"] == 0
    assert done["core_hours"]["spent"] > last["core_hours"]["spent"]

    # The ledger that is made from the label files, and the journals, tell the same.
    monkeypatch.chdir(checkout / ".")  # paths of a campaign are seen from its working folder
    campaign = Campaign.read("results/purse/campaign.json")
    hours = accounts.total(accounts.costs(campaign, SYSTEM), "label", accounts.CHECK_STAGE)
    assert abs(hours - done["core_hours"]["spent"]) < 1e-12
