"""A label job, composed from a campaign: settings, folders, budget; and its messages."""

import pytest

from halcyon.campaign.campaign import Campaign
from halcyon.campaign.label_jobs import LabelMessages, judgements, label_job, summary
from halcyon.frames import write_frames
from halcyon.labels.finite_difference import Slope
from halcyon.labels.job import Labelled
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.labels.reference.base import Record, Status

SYSTEM = """
name: water
kind: reactive
structures: [{name: water, smiles: O, multiplicities: [1, 3]}]
"""


@pytest.fixture
def compose(tmp_path):
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems/water.yaml").write_text(SYSTEM)

    def make(batch="gen001", shard=0, **content):
        content = {
            "campaign": "shop",
            "systems": ["water"],
            "reference": {"backend": "ase", "calculator": "ase.calculators.emt.EMT"},
            "results": str(tmp_path / "results"),
            "label_store": str(tmp_path / "store"),
            "systems_folder": str(tmp_path / "systems"),
            "resources": {"label_shards": 3},
        } | content
        campaign = Campaign.resolve(content, "test")
        return campaign, label_job(campaign, "water", batch, shard, seed=7)

    return make


def test_it_has_the_systems_settings(compose):
    campaign, job = compose()
    settings = campaign.systems["water"].settings
    assert job.reactive
    assert job.structures["water"].multiplicities == [1, 3]
    assert job.sanity == settings.sanity
    assert job.provenance == {"campaign": "shop", "system": "water"}
    assert job.seed == 7


def test_it_works_in_its_own_folder_and_knows_the_journals_of_the_others(compose):
    campaign, job = compose(batch="gen001", shard=1)
    folder = campaign.work("water", "start", "label")
    assert job.work == folder / "gen001-001"
    assert job.other_journals == [folder / f"gen001-00{n}/journal.jsonl" for n in (0, 2)]


def test_the_highest_temperature_that_anything_is_sampled_at_counts(compose):
    for exploration, seed, hottest in [
        ({"temperatures_K": [300, 600]}, 400, 600),
        ({"temperatures_K": [300]}, 400, 400),
        ({"temperatures_K": [300], "bias": {"kind": "ramp", "to_K": 900}}, 400, 900),
    ]:
        _, job = compose(exploration=exploration, seed_labels={"max_temperature_K": seed})
        assert job.temperature_K == hottest


def test_only_batches_before_are_earlier(compose, rattled):
    campaign, _ = compose()
    folder = campaign.folder / "water"
    for batch in ("seed", "gen000", "gen001", "gen002"):
        write_frames(folder / batch / "labels/000.parquet", rattled(1))
    for batch, before in [("seed", []), ("gen000", ["seed"]), ("gen001", ["seed", "gen000"])]:
        _, job = compose(batch=batch)
        assert job.earlier_labels == [folder / b / "labels/000.parquet" for b in before]


def test_the_first_shard_checks_the_forces_where_that_is_asked_for(compose):
    assert compose(shard=0)[1].check_forces
    assert not compose(shard=1)[1].check_forces
    assert not compose(shard=0, sanity={"finite_difference": False})[1].check_forces


def test_tight_binding_is_no_witness_of_itself(compose):
    assert compose()[1].compare_with_xtb
    assert not compose(sanity={"xtb": False})[1].compare_with_xtb
    assert not compose(reference={"backend": "xtb"})[1].compare_with_xtb


def test_a_spent_budget_starts_nothing(compose):
    campaign, job = compose(limits={"core_hours": 2})
    assert job.may_start()
    campaign.folder.mkdir(parents=True)
    journal = campaign.work("water", "start", "label") / "gen000-002/journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text('{"info": {"core_seconds": 7200.0}}\n')
    assert not job.may_start()


def slope(*, passed):
    return Slope(
        key="k",
        structure="water",
        passed=passed,
        force=1.0,
        slope=1.0,
        allowed=0.1,
        core_seconds=0.0,
        message="force 1",
    )


@pytest.fixture
def labelled(rattled):
    good, bad, flagged, left = rattled(4)
    good.info |= {"status": "ok"}
    bad.info |= {"status": "rejected", "message": "forces sum to 3 eV/Å"}
    flagged.info |= {"status": "ok", "key": "0a", "flag": "energy +1.00 eV off GFN2-xTB"}
    left.info |= {"status": NOT_COMPUTED, "message": ""}
    return Labelled([good, bad, flagged, left], [slope(passed=True), slope(passed=None)])


def test_what_was_judged_is_told(labelled):
    messages = judgements(labelled, 2.5)
    assert [message for message, _ in messages] == [
        "label rejected: forces sum to 3 eV/Å",
        "label worth a look: water 0a: energy +1.00 eV off GFN2-xTB",
        "forces and energies agree: force 1",
        "forces and energies could not be compared: force 1",
        "1 frame not computed: the budget of 2.5 core-hours is spent. To compute them, raise "
        "limits.core_hours and run the same command again",
    ]
    assert [style for _, style in messages] == ["yellow"] * 2 + ["default"] + ["bold yellow"] * 2
    assert judgements(Labelled(labelled.frames[:1]), None) == []


def test_the_summary_counts_statuses_and_damage(labelled):
    assert summary(labelled, 0) == "2 ok, 1 rejected, 1 not computed"
    assert summary(Labelled([]), 2) == "nothing to label; 2 damaged label shards set aside"


def test_failures_are_told_at_once_and_good_labels_from_time_to_time(water):
    good = Record(status=Status.OK, energy=0.0, forces=0 * water.positions, seconds=1.25)
    failure = Record(status=Status.CRASHED, message="no luck")
    messages = []

    def say(message, style):
        messages.append((message, style))

    rarely = LabelMessages(say, 4, every_s=1e9)
    rarely(1, good)
    rarely(2, failure)
    assert messages == [("label 2: crashed: no luck", "yellow")]
    always = LabelMessages(say, 4, every_s=-1)
    always(3, good)
    assert messages[1:] == [("label 3 for 4 frames; it took 1.2 s", "default")]
