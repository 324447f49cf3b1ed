"""Fine-tuning of a user's model: replayed frames, blocks that do not learn, adapters."""

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from test_mace_model import ELEMENTS, fit, springs

from halcyon.config import Settings, TrainingSettings
from halcyon.errors import InputError
from halcyon.frames import read_frames
from halcyon.models import mace, replay
from halcyon.models.fast.evaluate import FastMace


@pytest.fixture(scope="module")
def frames():
    return springs("CH3OH", 16, energy_zero=-310.0, seed=2, stiffness=2.5)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("start")
    taught = springs("CH3OH", 16, energy_zero=0.7, seed=1, stiffness=3.0)
    fit(tmp, taught[:12], taught[12:])
    return tmp / "m.model"


def parts(path):
    return {name: values.double() for name, values in mace.load(path).named_parameters()}


def moved(start, made):
    before, after = parts(start), parts(made)
    assert before.keys() == after.keys()
    return {name.split(".")[0] for name in before if (before[name] != after[name]).any()}


@pytest.mark.parametrize(
    ("freeze", "learning"),
    [
        ("nothing", {"node_embedding", "interactions", "products", "readouts"}),
        ("embedding", {"interactions", "products", "readouts"}),
        ("interactions", {"products", "readouts"}),
        ("all_but_readouts", {"readouts"}),
    ],
)
def test_frozen_blocks_keep_every_bit(tmp_path, frames, start, freeze, learning):
    fit(tmp_path, frames[:11], frames[11:], start=start, freeze=freeze)
    assert moved(start, tmp_path / "m.model") == learning


def test_blocks_stay_frozen_beside_replayed_frames(tmp_path, frames, start):
    more = {"start": start, "freeze": "interactions", "replay": frames, "replay_weight": 0.3}
    fit(tmp_path, frames[:11], frames[11:], **more)
    assert moved(start, tmp_path / "m.model") == {"products", "readouts"}


def test_adapters_are_merged_into_an_ordinary_model(tmp_path, frames, start):
    done = fit(tmp_path, frames[:11], frames[11:], start=start, lora_rank=2)
    made = mace.load(tmp_path / "m.model", device="cpu")
    assert parts(start).keys() == parts(tmp_path / "m.model").keys()
    assert FastMace.of(made) is not None
    # Contractions are no linear layers.
    before, after = parts(start), parts(tmp_path / "m.model")
    contractions = [name for name in before if ".symmetric_contractions." in name]
    assert contractions
    assert all((before[name] == after[name]).all() for name in contractions)
    # What was trained with adapters is what the merged weights predict: the validation errors of
    # the best epoch were computed before the merging, its energy zero apart.
    found = mace.errors(mace.evaluate(made, frames[11:]), frames[11:])
    best = done.epochs[done.best_epoch - 1]
    assert found["forces_mae_meV_per_A"] == pytest.approx(best.forces_mae_meV_per_A, rel=1e-4)
    assert best.forces_mae_meV_per_A < done.epochs[0].forces_mae_meV_per_A


def test_a_kill_changes_nothing_with_adapters(tmp_path, frames, start):
    class KilledError(Exception):
        pass

    def kill(done):
        if done.epoch == 3:
            raise KilledError

    more = {"start": start, "lora_rank": 2}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    fit(tmp_path / "a", frames[:11], frames[11:], **more)
    with pytest.raises(KilledError):
        fit(tmp_path / "b", frames[:11], frames[11:], progress=kill, **more)
    fit(tmp_path / "b", frames[:11], frames[11:], **more)
    assert moved(tmp_path / "a/m.model", tmp_path / "b/m.model") == set()


# Frames to replay


def named(frames):
    for atoms in frames:
        atoms.info |= {"structure": "methanol", "origin": "md"}
    return frames


def make(path, start, frames, said=None, **changes):
    settings = TrainingSettings(**({"replay_frames": 10} | changes))
    say = [].append if said is None else said.append
    return replay.prepared(
        path, start, frames, settings, cap_eV_per_A=100.0, seed=7, device="cpu", say=say
    )


def test_the_start_model_labels_what_is_replayed(tmp_path, frames, start):
    path, said = tmp_path / "replay.parquet", []
    made = make(path, start, named(frames), said)
    assert [atoms.info["origin"] for atoms in made] == ["md"] * 5 + ["strained"] * 5
    assert {atoms.info["reason"] for atoms in made} == {replay.LABELLED_BY}
    predicted = mace.evaluate(mace.load(start, device="cpu", dtype="float64"), made)
    np.testing.assert_allclose([a.info["energy"] for a in made], predicted.energy, atol=1e-9)
    np.testing.assert_allclose([a.arrays["forces"] for a in made], predicted.forces, atol=1e-9)
    assert "10 frames labelled by the start model, to be replayed (5 md, 5 strained)" in said[0]


def test_strained_frames_are_denser_and_looser_than_those_they_are_made_of(frames):
    sizes = [np.linalg.norm(a.positions - a.positions.mean(0)) for a in frames]
    made = replay.drawn(named(frames), number=40, seed=7)[-20:]
    strained = [np.linalg.norm(a.positions - a.positions.mean(0)) for a in made]
    assert min(strained) < min(sizes)
    assert max(strained) > max(sizes)


def test_they_are_made_once_and_again_when_what_they_depend_on_changes(tmp_path, frames, start):
    path, said = tmp_path / "replay.parquet", []
    first = make(path, start, named(frames), said)
    content = path.read_bytes()
    again = make(path, start, named(frames), said)
    assert len(said) == 1
    assert path.read_bytes() == content
    for one, other in zip(first, again, strict=True):
        assert (one.positions == other.positions).all()
        assert (one.arrays["forces"] == other.arrays["forces"]).all()
    path.unlink()
    make(path, start, named(frames))
    assert [a.info for a in read_frames(path)] == [a.info for a in again]
    assert len(make(path, start, named(frames), said, replay_frames=8)) == 8
    assert len(said) == 2


def test_the_users_frames_join_without_their_labels(tmp_path, frames, start):
    file = tmp_path / "theirs.xyz"
    strange = Atoms("SH2", [[0, 0, 0], [0, 0, 1.3], [0, 1.3, 0]])
    write(file, [*frames[:3], strange], format="extxyz")
    made = make(tmp_path / "replay.parquet", start, named(frames), replay_from=[file])
    assert [a.info["origin"] for a in made[10:]] == ["file"] * 3
    wrong = [a.info["energy"] - f.info["energy"] for a, f in zip(made[10:], frames, strict=False)]
    assert min(np.abs(wrong)) > 1.0  # the start model's zero, not the file's
    fit(tmp_path, frames[:11], frames[11:], start=start, replay=made, replay_weight=0.1)


def test_files_that_cannot_be_replayed_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"training.replay_from: .*none.xyz: no such file"):
        replay.of_files([tmp_path / "none.xyz"], ELEMENTS)
    (tmp_path / "bad.xyz").write_text("not frames")
    with pytest.raises(InputError, match="not readable as frames"):
        replay.of_files([tmp_path / "bad.xyz"], ELEMENTS)
    write(tmp_path / "sulfur.xyz", Atoms("S2", [[0, 0, 0], [0, 0, 2]]))
    with pytest.raises(InputError, match="none of its 1 frames can be replayed"):
        replay.of_files([tmp_path / "sulfur.xyz"], ELEMENTS)


def test_frames_with_hopeless_forces_are_dropped(frames, start):
    model = mace.load(start, device="cpu", dtype="float64")
    far = [a.copy() for a in frames[:4]]
    predicted = mace.evaluate(model, far)
    largest = sorted(np.linalg.norm(f, axis=1).max() for f in predicted.forces)
    kept, dropped = replay.labelled(model, far, cap_eV_per_A=(largest[1] + largest[2]) / 2)
    assert (len(kept), dropped) == (2, 2)


# Settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": {"lora_rank": 4, "freeze": "embedding"}}, "lora_rank = 4 with freeze"),
        ({"training": {"replay_from": ["a.xyz"]}}, "pretraining.start, which is missing"),
        (
            {
                "training": {"replay_from": ["a.xyz"], "replay_weight": 0},
                "pretraining": {"start": "m.model"},
            },
            "no frames are replayed",
        ),
        (
            {"training": {"lora_rank": 4}, "pretraining": {"enabled": False}},
            "starts from random weights",
        ),
        (
            {"training": {"freeze": "interactions"}, "pretraining": {"enabled": False}},
            "starts from random weights",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        Settings.model_validate(content)


@pytest.mark.parametrize(
    ("content", "weight"),
    [
        ({}, 0.0),
        ({"pretraining": {"start": "m.model"}}, 0.1),
        ({"pretraining": {"start": "m.model"}, "training": {"replay_weight": 0}}, 0.0),
        ({"training": {"replay_weight": 0.5}}, 0.5),
        ({"training": {"replay_weight": 0.5}, "pretraining": {"enabled": False}}, 0.0),
    ],
)
def test_replay_is_on_for_a_users_model_alone(content, weight):
    settings = Settings.model_validate(content)
    assert settings.training.weight_of_replay(settings.pretraining) == weight
