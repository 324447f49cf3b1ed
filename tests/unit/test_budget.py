"""A budget of core-hours shared by shards that run at the same time; and the ledgers of it.

The reference claims a core-hour for each calculation, so that every sum is a count.
"""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from halcyon import files
from halcyon.campaign import accounts, budget, paths
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.label_jobs import label_job
from halcyon.commands.main import main
from halcyon.errors import InputError
from halcyon.frames import read_frames, structure_key, write_frames
from halcyon.labels.finite_difference import CheckedForces
from halcyon.labels.journal import NAME, Journal
from halcyon.labels.labelling import NOT_COMPUTED, SystemicFailure
from halcyon.labels.reference.base import Record, Reference, Status
from halcyon.labels.store import LabelStore

HOUR = 3600.0


class Hourly(Reference):
    """One energy for each spin, no forces; each calculation takes a core-hour, it says."""

    level = {"program": "hourly"}  # noqa: RUF012

    def __init__(self, fail=lambda _n: None, takes_s=0.0):
        self.asked = []
        self.fail = fail
        self.takes_s = takes_s

    def check(self, structures):
        pass

    def label(self, frames, work, cores):  # noqa: ARG002
        for frame in frames:
            self.asked.append(structure_key(frame))
            time.sleep(self.takes_s)
            status = self.fail(len(self.asked)) or Status.OK
            good = status is Status.OK
            yield Record(
                status=status,
                message="" if good else f"died of {len(self.asked)}",
                energy=frame.info["multiplicity"] - 6.0 if good else None,
                forces=0 * frame.positions if good else None,
                core_seconds=HOUR,
            )


@pytest.fixture
def shop(tmp_path, rattled):
    """A campaign of one system, to label shards of."""
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems/water.yaml").write_text(
        "name: water\nstructures: [{name: water, smiles: O}]\n"
    )

    class Shop:
        def __init__(self):
            self.content = {
                "campaign": "shop",
                "systems": ["water"],
                "reference": {"backend": "xtb"},
                "results": str(tmp_path / "results"),
                "label_store": str(tmp_path / "store"),
                "systems_folder": str(tmp_path / "systems"),
                "sanity": {"finite_difference": False},
            }
            self.limit(None)

        def limit(self, core_hours, **more):
            self.content["limits"] = {"core_hours": core_hours} | more
            self.campaign = Campaign.resolve(self.content, "test")
            self.campaign.write()
            self.folder = self.campaign.folder / "water"

        @property
        def spent(self):
            settings = self.campaign.systems["water"].settings
            return budget.Spent(self.campaign, settings.limits).core_hours()

        def label(self, reference, number=0, of=1, *, batch="seed", frames=12):
            asked = rattled(frames)[number::of]
            for frame in asked:
                frame.info |= {"split": "train"}
            job = label_job(self.campaign, "water", batch, number, seed=1)
            store = LabelStore(tmp_path / "store", reference.level)
            labelled = job.label(asked, reference, store, cores=1)
            out = self.folder / batch
            write_frames(out / f"labels/{number:03d}.parquet", labelled.frames)
            checked = CheckedForces(slopes=tuple(labelled.slopes))
            checked.write(out / f"checks/{number:03d}.json")
            return labelled.frames

        def count(self, batch="seed"):
            paths = (self.folder / batch / "labels").glob("*.parquet")
            return Counter(f.info["status"] for path in paths for f in read_frames(path))

    return Shop()


def test_shards_stop_together_with_at_most_one_calculation_each_too_many(shop):
    shop.limit(5)
    reference = Hourly(takes_s=0.05)
    shop.label(reference, batch="gen999", frames=0)  # the store is there before threads race
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: shop.label(reference, n, 3), range(3)))
    counts = shop.count()
    assert 5 <= len(reference.asked) <= 5 + 3
    assert counts["ok"] == len(reference.asked) == shop.spent
    assert counts[NOT_COMPUTED] == 12 - counts["ok"] > 0
    again = Hourly()
    shop.label(again, 0, 3)
    assert not again.asked


def test_a_raised_budget_is_spent_on_what_was_left(shop):
    shop.limit(5)
    first = Hourly()
    frames = shop.label(first)
    assert [f.info["status"] for f in frames] == ["ok"] * 5 + [NOT_COMPUTED] * 7
    assert "energy" not in frames[5].info
    assert len({frame.info["level"] for frame in frames}) == 1  # the page wants it of all frames
    for number in range(2):
        verdict = {"decision": "budget_spent"}
        files.write_json(shop.folder / f"gen00{number}/verdict.json", verdict)
    shop.label(Hourly(), batch="gen001", frames=1)  # of it, all is known
    assert budget.reopen(shop.campaign) == []
    shop.limit(5.0)
    assert budget.reopen(shop.campaign) == []

    shop.limit(100)
    assert budget.reopen(shop.campaign) == [
        "water: the budget now allows 7 frames that were not computed"
    ]
    there = {str(path.relative_to(shop.folder)) for path in shop.folder.rglob("*.*")}
    assert "seed/labels/000.parquet" not in there
    assert "gen001/labels/000.parquet" in there
    # Both verdicts rest on the seed.
    assert not {"gen000/verdict.json", "gen001/verdict.json"} & there
    assert shop.spent == 5  # what was paid is not forgotten with the label file
    second = Hourly()
    shop.label(second)
    assert len(second.asked) == 7
    assert not set(first.asked) & set(second.asked)
    assert shop.count() == {"ok": 12}
    assert shop.spent == 12
    assert budget.reopen(shop.campaign) == []


def test_later_verdicts_only_and_none_of_a_saturated_system(shop):
    shop.limit(2)
    shop.label(Hourly(), batch="gen001", frames=4)
    files.write_json(shop.folder / "gen000/verdict.json", {"decision": "continue"})
    files.write_json(shop.folder / "gen001/verdict.json", {"decision": "saturated"})
    shop.limit(None)
    assert budget.reopen(shop.campaign) == []
    files.write_json(shop.folder / "gen001/verdict.json", {"decision": "budget_spent"})
    assert len(budget.reopen(shop.campaign)) == 1
    assert (shop.folder / "gen000/verdict.json").exists()
    assert not (shop.folder / "gen001/verdict.json").exists()


def test_what_counts_as_spent(shop):
    shop.label(Hourly(lambda n: Status.TIMEOUT if n == 2 else None), frames=3)
    assert shop.spent == 3  # failures too
    shop.label(Hourly(), batch="gen000", frames=4)  # three of them are in the store
    assert shop.spent == 4
    stages = [
        {"system": "water", "generation": 0, "stage": "train", "seconds": HOUR, "cores": 2},
        {"system": "water", "generation": None, "stage": "label", "seconds": HOUR, "cores": 2},
    ]
    lines = "".join(json.dumps(stage) + "\n" for stage in stages)
    (shop.campaign.folder / "stages.jsonl").write_text(lines + '{"torn')
    assert shop.spent == 4
    shop.limit(None, core_hours_of="everything")
    assert shop.spent == 4 + 2
    # The work folder may be tidied: then label files tell.
    for path in shop.campaign.work("water").rglob("journal.jsonl"):
        path.unlink()
    assert shop.spent == 4 + 2


def test_a_kill_in_mid_line_of_a_journal_costs_no_other_record(shop, rattled):
    path = paths.label_scratch(shop.campaign, "water", "seed", 0) / NAME
    journal, frames = Journal(path), rattled(3)
    for number, frame in enumerate(frames):
        frame.info |= {"key": f"key{number}", "core_seconds": HOUR}
    journal.keep(frames[:1])  # as older versions wrote it: no empty lines
    reader = budget.Spent(shop.campaign, shop.campaign.settings.limits)
    assert reader.core_hours() == 1
    journal.append(frames[1])
    whole = path.read_bytes()
    path.write_bytes(whole[: -len(whole) // 5])
    assert reader.core_hours() == 1
    Journal(path).append(frames[2])
    assert list(journal.read()) == ["key0", "key2"]
    assert reader.core_hours() == shop.spent == 2


def test_a_systemic_failure_is_paid_for(shop):
    with pytest.raises(SystemicFailure, match="4 of 4"):
        shop.label(Hourly(lambda _n: Status.CRASHED), frames=6)
    assert shop.spent == 4
    shop.label(Hourly(), frames=6)
    assert shop.spent == 10
    entries = {(e.stage, e.outcome): e for e in accounts.costs(shop.campaign, "water")}
    assert entries["label", "repeated"].number == 4
    assert entries["label", "ok"].core_seconds == 6 * HOUR
    assert accounts.total(list(entries.values()), "label") == 10


def test_shards_of_few_frames_see_what_they_share(shop):
    fails = Hourly(lambda _n: Status.CRASHED)
    shop.label(fails, 0, 4)
    with pytest.raises(SystemicFailure, match="4 of 4 calculations failed alike"):
        shop.label(fails, 1, 4)


def test_checked_forces_are_paid_for_and_not_twice(shop):
    shop.content["sanity"] = {"finite_difference": True}
    shop.limit(None)
    reference = Hourly()
    shop.label(reference)
    assert len(reference.asked) == len(set(reference.asked)) == 14
    again = Hourly()
    shop.label(again)
    assert not again.asked
    cost = {e.stage: e for e in accounts.costs(shop.campaign, "water")}
    assert (cost["check"].number, cost["check"].core_seconds) == (1, 2 * HOUR)
    assert cost["check"].outcome == "sound"  # a constant energy has no forces
    assert shop.spent == 14


def test_every_spin_is_paid_for(shop, tmp_path):
    (tmp_path / "systems/water.yaml").write_text(
        "name: water\nstructures: [{name: water, smiles: O, multiplicities: [1, 3]}]\n"
    )
    shop.limit(5)
    reference = Hourly()
    frames = shop.label(reference, frames=3)
    assert len(reference.asked) == 5
    # Of the third frame one spin is missing: it might be the lower one.
    assert [f.info["status"] for f in frames] == ["ok", "ok", NOT_COMPUTED]
    assert [f.info["paid"] / HOUR for f in frames] == [2, 2, 1]
    assert shop.spent == 5
    assert accounts.total(accounts.costs(shop.campaign, "water")) == 5


@pytest.fixture
def books(shop):
    """A campaign with one of everything."""
    shop.label(Hourly(lambda n: Status.UNCONVERGED if n == 3 else None), frames=4)
    shop.limit(6)
    shop.label(Hourly(), batch="gen000", frames=8)
    work = shop.campaign.work("water", "start", "label") / "seed-000"
    (bad,) = (f for f in accounts.quarantine(shop.campaign, "water") if f.batch == "seed")
    (work / bad.key).mkdir()
    return shop


def test_quarantine_has_every_frame_without_a_label(books):
    first, *left = accounts.quarantine(books.campaign, "water")
    assert (first.batch, first.generation, first.status) == ("seed", -1, "unconverged")
    assert first.reason == "died of 3"
    assert first.core_seconds == first.paid == HOUR
    assert first.files.endswith(f"seed-000/{first.key}")
    # The seed's bad frame is asked for again: known, bad, and for nothing.
    assert [(f.batch, f.status, f.paid) for f in left] == [
        ("gen000", "unconverged", 0.0),
        *[("gen000", NOT_COMPUTED, 0.0)] * 2,
    ]


def test_costs_by_batch_and_outcome(books):
    found = [
        (e.batch, e.outcome, e.number, e.core_seconds / HOUR)
        for e in accounts.costs(books.campaign, "water")
    ]
    assert sorted(found) == [
        ("gen000", "found", 4, 0),
        ("gen000", NOT_COMPUTED, 2, 0),
        ("gen000", "ok", 2, 2),
        ("seed", "ok", 3, 3),
        ("seed", "unconverged", 1, 1),
    ]


def test_tables_are_written_with_units(books):
    for path in accounts.write(books.campaign, "water"):
        table = pq.read_table(path)
        assert table.schema.field("core_seconds").metadata[b"unit"] == b"s"
    assert len(pq.read_table(books.folder / "quarantine.parquet")) == 4


def test_a_campaign_that_was_moved_has_its_costs(books, capsys, tmp_path):
    moved = books.campaign.folder.rename(tmp_path / "elsewhere")
    assert main(["costs", str(moved)]) == 0
    assert "labels 6 core-hours" in capsys.readouterr().out
    assert main(["costs", str(tmp_path / "nothing")]) == 2
    assert "no campaign.json here" in capsys.readouterr().err


def test_commands(books, capsys):
    assert main(["costs", str(books.campaign.folder)]) == 0
    told = capsys.readouterr().out
    assert "labels 6 core-hours (limits.core_hours = 6), everything 6;" in told
    assert main(["quarantine", str(books.campaign.file), "--system", "water"]) == 0
    told = capsys.readouterr().out
    assert "died of 3" in told
    assert "2 unconverged, 2 not computed" in told
    assert main(["quarantine", str(books.campaign.folder), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4
    assert main(["quarantine", str(books.campaign.folder), "--flagged"]) == 0
    assert "no label is flagged" in capsys.readouterr().out
    assert main(["costs", str(books.campaign.folder), "--system", "ethanol"]) == 2
    assert "which has water" in capsys.readouterr().err


def test_a_scan_of_spins_is_refused_where_the_reference_cannot_tell(shop):
    from halcyon.campaign.checks import check_spins

    plan = shop.campaign.systems["water"]
    structure = plan.system.structures[0].model_copy(update={"multiplicities": [1, 3]})
    system = plan.system.model_copy(update={"structures": [structure]})
    scanned = replace(shop.campaign, systems={"water": replace(plan, system=system)})
    check_spins(shop.campaign, "c.yaml")
    with pytest.raises(InputError, match=r"c.yaml: system water.*multiplicities = \[1, 3\].*O2"):
        check_spins(scanned, "c.yaml")
    polarized = scanned.settings.reference.model_copy(update={"spin_polarized": True})
    settings = scanned.settings.model_copy(update={"reference": polarized})
    check_spins(replace(scanned, settings=settings), "c.yaml")
