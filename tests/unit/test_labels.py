import json

import numpy as np
import pytest

from halcyon.errors import Interrupted
from halcyon.frames import read_frames, structure_key, write_frames
from halcyon.labels.labelling import Labeller, SystemicFailure, gather
from halcyon.labels.reference.base import NotStartedError, Record, Reference, Status
from halcyon.labels.store import LabelStore, level_hash


class Counted(Reference):
    """Energy and forces that a test can recompute; counts what it is asked."""

    def __init__(self, fail=lambda _n: None):
        self.calculations = 0
        self.fail = fail

    level = {"program": "counted"}  # noqa: RUF012

    def check(self, structures):
        pass

    def label(self, frames, work, cores):  # noqa: ARG002
        for frame in frames:
            self.calculations += 1
            status = self.fail(self.calculations)
            if status:
                yield Record(status=status, message="no luck")
            else:
                yield Record(
                    status=Status.OK,
                    energy=float(frame.positions.sum()),
                    forces=frame.positions * 2 + frame.numbers[:, None],
                )


@pytest.fixture
def label(tmp_path):
    def run(frames, reference, work="a", **options):
        store = LabelStore(tmp_path / "store", reference.level)
        labeller = Labeller(
            reference=reference,
            store=store,
            work=tmp_path / work,
            cores=1,
            provenance={"campaign": "c", "system": "s"},
            **options,
        )
        return labeller.label(frames)

    return run


def test_nothing_is_computed_twice(label, rattled):
    frames = rattled(6)
    reference = Counted()
    first = label(frames, reference)
    assert reference.calculations == 6
    again = label([*frames, *rattled(8)[6:]], reference, work="b")
    assert reference.calculations == 8
    assert [f.info["energy"] for f in again[:6]] == [f.info["energy"] for f in first]


def test_frames_are_labelled_in_the_references_order_and_keep_their_own(label, rattled):
    class Backwards(Counted):
        def order(self, frames):
            return list(reversed(range(len(frames))))

    frames = rattled(4)
    reference = Backwards(fail=lambda n: Status.CRASHED if n == 1 else None)
    labelled = label(frames, reference)
    assert [f.info["key"] for f in labelled] == [structure_key(f) for f in frames]
    # The last frame was the first to be tried; energies are each frame's own.
    assert [f.info["status"] for f in labelled] == ["ok", "ok", "ok", "crashed"]
    for frame, labelled_frame in zip(frames[:3], labelled[:3], strict=True):
        assert labelled_frame.info["energy"] == pytest.approx(frame.positions.sum())


def test_forces_follow_the_order_of_atoms(label, rattled):
    (frame,) = rattled(1)
    label([frame], Counted())
    turned = frame[[2, 1, 0]]
    turned.info = dict(frame.info)
    reference = Counted()
    (labelled_frame,) = label([turned], reference, work="b")
    assert reference.calculations == 0
    np.testing.assert_array_equal(
        labelled_frame.arrays["forces"], turned.positions * 2 + turned.numbers[:, None]
    )


def test_a_kill_costs_one_frame(label, rattled, tmp_path):
    class Killed(BaseException):
        pass

    def die(n):
        if n == 4:
            raise Killed

    with pytest.raises(Killed):
        label(rattled(6), Counted(die))
    # The kill may tear the line that is being written.
    journal = tmp_path / "a" / "journal.jsonl"
    with journal.open("ab") as torn:
        torn.write(b'{"numbers": [8, 1')
    reference = Counted()
    labelled = label(rattled(6), reference)
    assert reference.calculations == 3
    assert len(labelled) == 6
    assert all(json.loads(line) for line in journal.read_bytes().splitlines() if b"info" in line)


def test_after_a_kill_the_rest_comes_in_the_order_of_all(label, rattled):
    class LastFirst(Counted):
        """The first, then the others from the last on: another order for fewer frames."""

        def __init__(self, *, stops_at=None):
            super().__init__()
            self.stops_at, self.seen = stops_at, []

        def order(self, frames):
            return [0, *range(len(frames) - 1, 0, -1)] if len(frames) else []

        def label(self, frames, work, cores):
            for frame, record in zip(frames, super().label(frames, work, cores), strict=True):
                if len(self.seen) == self.stops_at:
                    raise KeyboardInterrupt
                self.seen.append(structure_key(frame))
                yield record

    frames = rattled(5)
    keys = [structure_key(frame) for frame in frames]
    killed, again = LastFirst(stops_at=2), LastFirst()
    with pytest.raises(KeyboardInterrupt):
        label(frames, killed)
    label(frames, again)
    assert [keys.index(key) for key in killed.seen + again.seen] == [0, 4, 3, 2, 1]


def test_asked_to_stop_it_keeps_what_it_has(label, rattled):
    reference = Counted()
    with pytest.raises(Interrupted):
        label(rattled(5), reference, stop=lambda: reference.calculations == 2)
    label(rattled(5), reference)
    assert reference.calculations == 5


def test_a_bad_frame_is_a_record_and_is_not_tried_again(label, rattled):
    reference = Counted(lambda n: Status.UNCONVERGED if n == 2 else None)
    labelled = label(rattled(4), reference)
    assert [f.info["status"] for f in labelled] == ["ok", "unconverged", "ok", "ok"]
    assert "energy" not in labelled[1].info
    assert labelled[1].info["message"] == "no luck"
    label(rattled(4), reference, work="b")
    assert reference.calculations == 4


def test_a_program_that_does_not_start_is_no_record(label, rattled):
    def fails(calculations):
        if calculations == 3:
            raise NotStartedError("srun: error: task 0 launch failed")

    frames = rattled(4)
    with pytest.raises(NotStartedError, match="launch failed"):
        label(frames, Counted(fails))
    reference = Counted()
    assert [frame.info["status"] for frame in label(frames, reference)] == ["ok"] * 4
    assert reference.calculations == 2  # the two before are kept, nothing stands against the third


def test_a_program_that_was_stopped_while_it_started_is_no_failure(label, rattled):
    calculations = []

    def stopped(number):
        calculations.append(number)
        if number == 3:  # SIGTERM came, to the launcher, too
            raise NotStartedError("srun: forcing job termination")

    with pytest.raises(Interrupted):
        label(rattled(4), Counted(stopped), stop=lambda: len(calculations) == 3)


def test_the_same_crash_everywhere_stops_before_the_budget_burns(label, rattled):
    # After four of six nothing can change any more: the sixth is not computed.
    with pytest.raises(SystemicFailure, match="4 of 5 calculations failed alike: no luck"):
        label(rattled(6), Counted(lambda n: Status.CRASHED if n > 1 else None))
    # Mended, it goes on: the good label is kept, the crashes are computed again.
    reference = Counted()
    assert all(f.info["status"] == "ok" for f in label(rattled(6), reference))
    assert reference.calculations == 5


def test_levels_of_theory_do_not_mix(label, rattled, tmp_path):
    (labelled,) = label(rattled(1), Counted())
    other = LabelStore(tmp_path / "store", {"program": "other"})
    assert other.find([structure_key(labelled)]) == {}
    with pytest.raises(ValueError, match="cannot enter"):
        other.add([labelled])
    assert level_hash({"a": 1, "b": 2}) == level_hash({"b": 2, "a": 1})


def test_gather_sorts_by_split_and_counts_bad_frames(label, rattled, tmp_path):
    from halcyon.frames import write_frames

    frames = rattled(4)
    for frame, split in zip(frames, ("train", "validation", "test", "train"), strict=True):
        frame.info["split"] = split
    reference = Counted(lambda n: Status.CRASHED if n == 4 else None)
    write_frames(tmp_path / "l.parquet", label(frames, reference))
    gathered = gather([tmp_path / "l.parquet"])
    assert {split: len(frames) for split, frames in gathered.items()} == {
        "train": 1,
        "validation": 1,
        "test": 1,
        "free_atoms": 0,
        "bad": 1,
        "not_computed": 0,
    }


def foretold(frames):
    """Frames with what the model that visited them predicted, each atom's values its own."""
    for number, frame in enumerate(frames):
        n = len(frame)
        frame.info |= {
            "role": "audit",
            "draw": 0.1 * number,
            "model_energy": -1.0,
            "split": "train",
        }
        frame.arrays["model_forces"] = np.arange(3.0 * n).reshape(n, 3) + number
        for name in ("distance_latent", "expected_error", "scores"):
            frame.arrays[name] = np.arange(float(n)) + number
    return frames


def test_what_the_model_predicted_stays_with_the_frame_and_out_of_the_store(
    label, rattled, tmp_path
):
    frames = foretold(rattled(3))
    reference = Counted(fail=lambda n: Status.CRASHED if n == 2 else None)
    write_frames(tmp_path / "labels.parquet", label(frames, reference))
    labelled = read_frames(tmp_path / "labels.parquet")
    assert [f.info["status"] for f in labelled] == ["ok", "crashed", "ok"]
    names = ("model_forces", "distance_latent", "expected_error", "scores")
    for frame, other in zip(frames, labelled, strict=True):
        assert {"role", "draw", "model_energy"} <= other.info.keys()
        for name in names:
            np.testing.assert_array_equal(other.arrays[name], frame.arrays[name])
    store = LabelStore(tmp_path / "store", reference.level)
    columns = {name for table in store.stream() for name in table.column_names}
    assert columns & {*names, "role", "draw", "model_energy"} == set()
    assert {"forces", "energy", "key"} <= columns
    # Another order of the atoms: the label is the store's, the predictions are the frame's own.
    turned = frames[0][[2, 0, 1]]
    turned.info = dict(frames[0].info)
    (again,) = label([turned], reference, work="b")
    np.testing.assert_array_equal(again.arrays["model_forces"], turned.arrays["model_forces"])
    np.testing.assert_array_equal(again.arrays["forces"], labelled[0].arrays["forces"][[2, 0, 1]])


def test_frames_that_the_budget_does_not_reach_keep_the_predictions(label, rattled):
    (frame,) = label(foretold(rattled(1)), Counted(), may_start=lambda: False)
    assert frame.info["status"] == "not computed"
    assert frame.info["model_energy"] == -1.0
    assert "model_forces" in frame.arrays
