"""A failed label remembers the limits that it failed under; higher ones try it again."""

import numpy as np
import pytest
from ase.build import molecule
from test_labels import Counted

from conftest import ROOT
from halcyon.config import Cp2kReference, XtbReference
from halcyon.errors import Interrupted
from halcyon.labels import store as store_module
from halcyon.labels.labelling import NOT_COMPUTED, Labeller
from halcyon.labels.limits import encoded, rank, tries_again
from halcyon.labels.reference import make_reference
from halcyon.labels.reference.base import Status
from halcyon.labels.store import LabelStore
from halcyon.labels.store_tools import export, verify

SHORT = {"frame_timeout_s": 600.0, "rescue": ["more_steps"]}
LONG = SHORT | {"frame_timeout_s": 3600.0}
LADDER = SHORT | {"rescue": ["more_steps", "smearing"]}


class Limited(Counted):
    """Fails where its limits say so."""

    def __init__(self, limits, fail=lambda _n: None):
        super().__init__(fail)
        self.given = limits

    @property
    def limits(self):
        return self.given


@pytest.fixture
def label(tmp_path):
    def run(frames, reference, work, **options):
        labeller = Labeller(
            reference=reference,
            store=LabelStore(tmp_path / "store", reference.level),
            work=tmp_path / work,
            cores=1,
            provenance={"campaign": work, "system": "s"},
            **options,
        )
        return labeller.label(frames)

    return run


def failing(limits, status):
    """A reference whose first three of six frames end with a status."""
    return Limited(limits, lambda n: status if n <= 3 else None)


def statuses(frames):
    return [frame.info["status"] for frame in frames]


@pytest.mark.parametrize(
    ("status", "message", "before", "now", "again"),
    [
        ("timeout", "", SHORT, SHORT, False),
        ("timeout", "", SHORT, LONG, True),
        ("timeout", "", LONG, SHORT, False),
        ("timeout", "", SHORT, LADDER, False),
        ("unconverged", "", SHORT, LONG, False),
        ("unconverged", "", SHORT, LADDER, True),
        ("unconverged", "", LADDER, SHORT, False),
        ("crashed", "", SHORT, LADDER, True),
        ("unconverged", "", {"max_iterations": 2}, {"max_iterations": 250}, True),
        ("unconverged", "", {"max_iterations": 250}, {"max_iterations": 250}, False),
        ("rejected", "", SHORT, LONG | LADDER, False),
        ("ok", "", SHORT, LONG | LADDER, False),
        ("crashed", "", {}, {}, False),
        # Records of before have no limits: those of the defaults, or of CP2K's own message.
        ("timeout", "", None, {"frame_timeout_s": 3600}, False),
        ("timeout", "", None, {"frame_timeout_s": 7200}, True),
        ("timeout", "not done after 600 s (frame_timeout_s)", None, LONG, True),
        ("timeout", "not done after 7200 s (frame_timeout_s)", None, LONG, False),
        ("unconverged", "", None, LADDER, True),
        ("unconverged", "", None, SHORT, False),
    ],
)
def test_what_is_tried_again(status, message, before, now, again):
    record = {"status": status, "message": message}
    if before is not None:
        record["limits"] = encoded(before)
    assert tries_again(record, now) is again


def test_higher_limits_rank_higher():
    ranks = [rank({"limits": encoded(limits)}) for limits in (SHORT, LADDER, LONG)]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 3


@pytest.mark.parametrize("indexed", [True, False])
def test_a_raised_limit_tries_again_in_all_campaigns(
    label, rattled, tmp_path, monkeypatch, indexed
):
    if indexed:
        monkeypatch.setattr(store_module, "NOT_INDEXED", 0)
    frames = rattled(6)
    first = label(frames, failing(SHORT, Status.TIMEOUT), "first")
    assert statuses(first) == ["timeout"] * 3 + ["ok"] * 3
    same = Limited(SHORT)
    assert statuses(label(frames, same, "same")) == statuses(first)
    assert same.calculations == 0

    longer = Limited(LONG)
    again = label(frames, longer, "longer")
    assert statuses(again) == ["ok"] * 6
    assert longer.calculations == 3
    assert not any("limits" in frame.info for frame in again)

    late = Limited(SHORT)  # a campaign with lower limits profits
    assert statuses(label(frames, late, "late")) == ["ok"] * 6
    assert late.calculations == 0
    # Nothing was overwritten: the failures stay beside the labels.
    store = LabelStore(tmp_path / "store", longer.level)
    rows = [row for table in store.stream(["status", "limits"]) for row in table.to_pylist()]
    assert sorted(row["status"] for row in rows) == ["ok"] * 6 + ["timeout"] * 3
    assert {row.get("limits") for row in rows} == {None, encoded(SHORT)}
    assert verify(store).faults == []


def test_a_second_failure_holds_under_its_limits(label, rattled):
    frames = rattled(6)
    label(frames, failing(SHORT, Status.UNCONVERGED), "first")
    second = label(frames, failing(LADDER, Status.UNCONVERGED), "second")
    assert statuses(second) == ["unconverged"] * 3 + ["ok"] * 3
    assert [f.info["limits"] for f in second[:3]] == [encoded(LADDER)] * 3
    for limits in (SHORT, LADDER, LADDER | {"frame_timeout_s": 9999.0}):
        reference = Limited(limits)
        found = label(frames, reference, "third")
        assert reference.calculations == 0
        assert [f.info["limits"] for f in found[:3]] == [encoded(LADDER)] * 3


def test_a_job_that_was_stopped_goes_on_with_higher_limits(label, rattled):
    frames = rattled(6)
    reference = failing(SHORT, Status.TIMEOUT)
    with pytest.raises(Interrupted):
        label(frames, reference, "job", stop=lambda: reference.calculations > 4)
    resumed = Limited(LONG)
    labelled = label(frames, resumed, "job")
    assert statuses(labelled) == ["ok"] * 6
    assert resumed.calculations == 4  # three failures, and the one that was not reached


def test_all_tries_of_a_frame_are_paid(label, rattled):
    class Priced(Limited):
        def label(self, frames, work, cores):
            for record in super().label(frames, work, cores):
                object.__setattr__(record, "core_seconds", 10.0)
                yield record

    frames = rattled(6)
    for limits, fail in ((SHORT, lambda n: Status.TIMEOUT if n <= 3 else None), (LONG, None)):
        reference = Priced(limits, fail or (lambda _n: None))
        labelled = label(frames, reference, "job")
    assert [frame.info["paid"] for frame in labelled] == [20.0] * 3 + [10.0] * 3


def test_where_the_budget_is_spent_the_failure_stays(label, rattled):
    frames = rattled(6)
    label(frames, failing(SHORT, Status.TIMEOUT), "first")
    kept = label(rattled(7), Limited(LONG), "second", may_start=lambda: False)
    assert statuses(kept) == ["timeout"] * 3 + ["ok"] * 3 + [NOT_COMPUTED]


def test_more_iterations_are_another_try_with_the_real_program(label):
    water = molecule("H2O")
    water.info = {"charge": 0, "multiplicity": 1, "structure": "water"}
    few, many = (
        make_reference(XtbReference(backend="xtb", max_iterations=number)) for number in (2, 250)
    )
    assert few.level == many.level
    (failed,) = label([water], few, "few")
    assert (failed.info["status"], failed.info["limits"]) == (
        "unconverged",
        '{"max_iterations": 2}',
    )
    (good,) = label([water], many, "many")
    assert good.info["status"] == "ok"
    assert np.abs(good.arrays["forces"]).max() < 5


def test_limits_of_cp2k_are_those_of_the_settings():
    settings = Cp2kReference(
        backend="cp2k",
        level=ROOT / "tests/data/cp2k/small.yaml",
        frame_timeout_s=60,
        rescue=["smearing"],
    )
    assert make_reference(settings).limits == {"frame_timeout_s": 60, "rescue": ["smearing"]}


def test_an_export_leaves_out_failures_that_gave_way(label, rattled, tmp_path):
    """Of each structure the export has what `find` returns, and no more."""
    frames = rattled(3)
    label(frames, failing(SHORT, Status.TIMEOUT), "first")
    label(frames[:2], Limited(LONG), "second")
    store = LabelStore(tmp_path / "store", Limited(LONG).level)
    numbers = {
        status: export(store, tmp_path / f"{status}.xyz", {}, {"status": status})
        for status in ("timeout", "ok")
    }
    assert numbers == {"timeout": 1, "ok": 2}
