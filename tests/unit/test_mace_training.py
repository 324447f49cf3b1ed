"""Training: kills, stops, short memory, schedules, other start models, replay."""

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from scipy.special import huber
from test_mace_model import ELEMENTS, FIT, TINY, fit, springs

from halcyon.config import ModelSettings, TrainingSettings
from halcyon.errors import InputError, Interrupted
from halcyon.models import graphs, learner, mace, training


class KilledError(Exception):
    """Stands for what gives a training no time to save itself."""


@pytest.fixture(scope="module")
def frames():
    return springs("CH3OH", 16, energy_zero=-310.0, seed=2, stiffness=2.5)


@pytest.fixture(scope="module")
def teacher():
    return springs("CH3OH", 16, energy_zero=0.7, seed=1, stiffness=3.0)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, teacher):
    tmp = tmp_path_factory.mktemp("pretrained")
    fit(tmp, teacher[:12], teacher[12:])
    return tmp / "m.model"


@pytest.fixture(autouse=True)
def save_every_epoch(monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", -1.0)


def weights(path):
    return mace.load(path, device="cpu").state_dict()


def same(first, second):
    first, second = weights(first), weights(second)
    return first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first)


def in_epoch(number, act):
    """A progress that acts after an epoch, once."""

    def progress(done):
        if done.epoch == number:
            act()

    return progress


def kill():
    raise KilledError


def stop():
    raise Interrupted


@pytest.fixture(params=["scratch", "replay"])
def more(request, teacher, pretrained):
    """Arguments of a training from scratch, and of one with a start model and replay."""
    replay = {"start": pretrained, "replay": teacher, "replay_weight": 0.3}
    return replay if request.param == "replay" else {}


@pytest.mark.parametrize("act", [kill, stop])
def test_a_broken_off_training_ends_in_the_same_model(tmp_path, frames, more, act):
    train, validation = frames[:11], frames[11:]
    whole = fit(tmp_path / "whole", train, validation, **more)
    broken = tmp_path / "broken"
    said = []
    for epoch in (2, 5):
        with pytest.raises((KilledError, Interrupted)):
            fit(broken, train, validation, progress=in_epoch(epoch, act), say=said.append, **more)
    told = []
    summary = fit(broken, train, validation, progress=told.append, say=said.append, **more)
    # A kill in the progress comes before the epoch is saved: that epoch is done again.
    assert told[0].epoch == (5 if act is kill else 6)
    assert said[-1] == f"going on after epoch {told[0].epoch - 1} of 6"
    assert same(tmp_path / "whole/m.model", broken / "m.model")
    assert (summary.epochs, summary.best_epoch) == (whole.epochs, whole.best_epoch)
    assert not (broken / "work" / training.RUN).exists()


FRESH = """
import os, signal, sys
from pathlib import Path
from test_mace_model import ModelSettings, fit, springs

def tell(done):
    print("epoch", done.epoch, flush=True)
    if done.epoch == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

frames = springs("CH3OH", 16, energy_zero=-310.0, seed=2, stiffness=2.5)
model = ModelSettings(channels=8, r_max_A=3.0)  # large enough for TorchScript to care
fit(Path(sys.argv[1]), frames[:11], frames[11:], progress=tell, model=model)
"""


def fresh(folder, *, killed_in=0):
    """Train in a process of its own, as a job does; its status, and the epochs that it told."""
    paths = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH, str(folder), str(killed_in)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    return done.returncode, [int(line.split()[1]) for line in told]


def test_a_real_kill_costs_one_epoch_and_a_fresh_process_goes_on_alike(tmp_path):
    assert fresh(tmp_path / "whole") == (0, [1, 2, 3, 4, 5, 6])
    assert fresh(tmp_path / "killed", killed_in=2) == (-signal.SIGKILL, [1, 2])
    assert fresh(tmp_path / "killed") == (0, [2, 3, 4, 5, 6])
    assert same(tmp_path / "whole/m.model", tmp_path / "killed/m.model")


def test_a_stop_within_an_epoch_is_heeded_at_once(tmp_path, frames):
    fit(tmp_path / "whole", frames[:11], frames[11:])
    steps = []

    def stopping():
        steps.append(1)
        return len(steps) == 6  # asked at each of three steps, and after each epoch

    with pytest.raises(Interrupted, match="in epoch 2 of 6"):
        fit(tmp_path / "stopped", frames[:11], frames[11:], stopping=stopping)
    fit(tmp_path / "stopped", frames[:11], frames[11:], say=lambda _: None)
    assert same(tmp_path / "whole/m.model", tmp_path / "stopped/m.model")


@pytest.mark.parametrize("spoiled", ["other seed", "other label", "half a file"])
def test_only_its_own_checkpoint_is_taken(tmp_path, frames, spoiled):
    train = [atoms.copy() for atoms in frames[:11]]
    if spoiled == "other label":
        train[0].info["energy"] += 1e-6
    seed = 4 if spoiled == "other seed" else 3
    with pytest.raises(KilledError):
        fit(tmp_path, train, frames[11:], progress=in_epoch(3, kill), seed=seed)
    checkpoint = tmp_path / "work" / training.RUN / "checkpoint.pt"
    if spoiled == "half a file":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    told = []
    fit(tmp_path, frames[:11], frames[11:], progress=told.append)
    assert told[0].epoch == 1


def test_short_memory_gives_smaller_pieces_a_message_and_the_same_model(
    tmp_path, frames, monkeypatch
):
    double = TINY.model_copy(update={"dtype": "float64"})
    fit(tmp_path / "whole", frames[:11], frames[11:], model=double)
    joined = graphs.joined
    largest = []

    def short_of_memory(batch):
        if len(batch) > 3:
            raise torch.OutOfMemoryError
        largest.append(len(batch))
        return joined(batch)

    monkeypatch.setattr(learner, "joined", short_of_memory)
    said = []
    fit(tmp_path / "short", frames[:11], frames[11:], model=double, say=said.append)
    assert max(largest) <= 3
    assert [text.split(":")[0] for text in said[:1]] == [
        "memory is too small for batches of 4 frames"
    ]
    assert any("validated" in text for text in said)
    first, second = weights(tmp_path / "whole/m.model"), weights(tmp_path / "short/m.model")
    for name, values in first.items():
        torch.testing.assert_close(second[name], values, rtol=1e-6, atol=1e-9)


def test_a_frame_too_large_for_the_memory_is_said(tmp_path, frames, monkeypatch):
    def full(_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(learner, "joined", full)
    with pytest.raises(InputError, match="6 atoms does not fit the device's memory"):
        fit(tmp_path, frames[:11], frames[11:], say=lambda _: None)


def test_a_training_that_diverges_says_so(tmp_path, frames):
    wild = frames[0].copy()
    wild.arrays["forces"] = np.full_like(wild.arrays["forces"], np.nan)
    with pytest.raises(InputError, match="diverged in epoch 1"):
        fit(tmp_path, [wild, *frames[1:4]], frames[11:])


def test_a_batch_that_overflows_is_a_divergence_too(tmp_path, frames, monkeypatch):
    monkeypatch.setattr(learner.Learner, "losses", lambda *_: iter([1.0, np.inf]))
    with pytest.raises(InputError, match="diverged in epoch 1: the loss became NaN or infinite"):
        fit(tmp_path, frames[:4], frames[11:])


@pytest.mark.parametrize(
    ("n", "updates", "epochs"),
    [(20, (900, 4000), 225), (50, (900, 4000), 90), (1000, (900, 4000), 20), (20, None, 90),
     (99_999, (900, 4000), 1), (11, (900, 1000), 300)],
)  # fmt: skip
def test_epochs_follow_the_number_of_labels(n, updates, epochs):
    settings = TrainingSettings(updates=updates)
    assert settings.epochs_of(n) == epochs
    if updates and n < 10_000:
        assert updates[0] <= epochs * -(-n // settings.batch_size) <= updates[1]


def test_a_training_makes_as_many_epochs(tmp_path, frames):
    short = FIT.model_copy(update={"updates": (1, 8)})  # three batches an epoch
    assert len(fit(tmp_path, frames[:11], frames[11:], fit=short).epochs) == 2


def test_replay_keeps_what_the_teacher_taught(tmp_path, frames, pretrained):
    # Close contacts, which no label knows.
    walls = []
    for atoms in springs("CH3OH", 6, energy_zero=7.0, seed=9):
        atoms.positions *= 0.8
        atoms.arrays["forces"] = 5 * (atoms.positions - atoms.get_center_of_mass())
        walls.append(atoms)
    errors = {}
    for weight in (0.0, 1.0):
        out = tmp_path / str(weight)
        more = {"start": pretrained, "replay": walls, "replay_weight": weight}
        fit(out, frames[:11], frames[11:], **more)
        said = mace.evaluate(out / "m.model", walls)
        errors[weight] = mace.errors(said, walls)["forces_mae_meV_per_A"]
        # The energy zero remains that of the labels.
        labels = mace.evaluate(out / "m.model", frames[:11]).energy
        assert np.mean(labels) == pytest.approx(
            np.mean([atoms.info["energy"] for atoms in frames[:11]]), abs=1e-3
        )
    assert errors[1.0] < 0.9 * errors[0.0]
    # With weight 0, they are not looked at: as if they were not there.
    fit(tmp_path / "none", frames[:11], frames[11:], start=pretrained)
    assert same(tmp_path / "0.0/m.model", tmp_path / "none/m.model")


# Start models that others made


@pytest.fixture(scope="module")
def foundation(tmp_path_factory):
    """Trained by MACE's own command, with more elements than any system here has."""
    import ase.io
    from mace import tools
    from mace.cli import run_train

    folder = tmp_path_factory.mktemp("foundation")
    names = ("CH3OH", "H2O", "NH3", "CH4")
    made = [f for i, name in enumerate(names) for f in springs(name, 3, energy_zero=-5.0, seed=i)]
    for atoms in made:
        atoms.info = {"REF_energy": atoms.info["energy"]}
        atoms.arrays["REF_forces"] = atoms.arrays.pop("forces")
    ase.io.write(folder / "train.xyz", made, format="extxyz")
    options = {
        "name": "found", "work_dir": folder, "train_file": folder / "train.xyz",
        "valid_file": folder / "train.xyz", "E0s": "{1: -1.0, 6: -2.0, 7: -3.0, 8: -4.0}",
        "model": "MACE", "num_channels": TINY.channels, "max_L": 0, "r_max": TINY.r_max_A,
        "correlation": TINY.correlation, "num_radial_basis": TINY.radial_basis,
        "num_interactions": TINY.layers, "max_num_epochs": 2, "batch_size": 4, "seed": 1,
        "default_dtype": "float64", "device": "cpu",
    }  # fmt: skip
    dtype = torch.get_default_dtype()
    run_train.run(
        tools.build_default_arg_parser().parse_args([f"--{k}={v}" for k, v in options.items()])
    )
    torch.set_default_dtype(dtype)
    return folder / "found.model"


def test_our_models_are_built_as_maces_command_builds_them(foundation, tmp_path, frames):
    from mace.tools.scripts_utils import extract_config_mace_model

    fit(tmp_path, frames[:11], frames[11:], fit=FIT.model_copy(update={"epochs": 1}))
    ours, theirs = (
        extract_config_mace_model(mace.load(path, device="cpu"))
        for path in (tmp_path / "m.model", foundation)
    )
    fitted = {"atomic_energies", "atomic_numbers", "num_elements", "avg_num_neighbors"}
    fitted |= {"atomic_inter_scale", "atomic_inter_shift", "gate"}
    assert {k: str(v) for k, v in ours.items() if k not in fitted} == {
        k: str(v) for k, v in theirs.items() if k not in fitted
    }


def test_a_model_of_others_is_started_from(foundation, tmp_path, frames):
    start = mace.load_start(foundation, ELEMENTS, dtype="float64", device="cpu")
    assert start.atomic_numbers.tolist() == ELEMENTS  # nitrogen is left out
    mine = mace.evaluate(start, frames)
    theirs = mace.evaluate(foundation, frames)
    np.testing.assert_allclose(mine.forces, theirs.forces, atol=1e-9)
    np.testing.assert_allclose(mine.node_energy, theirs.node_energy, atol=1e-9)
    # Their size counts, not ours; our precision does.
    other = ModelSettings(channels=8, layers=1, r_max_A=5.0)
    summary = fit(tmp_path, frames[:11], frames[11:], start=foundation, model=other)
    made = mace.load(tmp_path / "m.model", device="cpu")
    assert (int(made.num_interactions), float(made.r_max)) == (2, 3.0)
    assert next(made.parameters()).dtype == torch.float32
    assert summary.epochs[0].energy_mae_meV_per_atom < 1000  # no offset to unlearn


def two_headed():
    from mace.tools.scripts_utils import extract_config_mace_model

    e0s = dict.fromkeys(ELEMENTS, 0.0)
    settings = extract_config_mace_model(mace.new(TINY, e0s, scale=1.0, mean_neighbours=5.0))
    settings |= {"heads": ["low", "high"], "atomic_energies": np.zeros((2, 3))}
    settings |= {"atomic_inter_scale": [1.0, 2.0], "atomic_inter_shift": [0.0, 0.5]}
    return mace.modules.ScaleShiftMACE(**settings)


def test_one_head_of_several_is_kept(tmp_path):
    torch.manual_seed(1)
    torch.save(two_headed(), tmp_path / "two.model")
    both = mace.load(tmp_path / "two.model", device="cpu")
    with pytest.raises(InputError, match=r"start_head is missing.*low, high"):
        mace.load_start(tmp_path / "two.model", ELEMENTS, dtype="float32")
    with pytest.raises(InputError, match=r"start_head = 'middle': expected one of low, high"):
        mace.load_start(tmp_path / "two.model", ELEMENTS, dtype="float32", head="middle")
    atoms = springs("CH3OH", 1, energy_zero=0, seed=1)
    graph = graphs.joined(graphs.graphs(atoms, both, dict.fromkeys(ELEMENTS, 0.0)))
    for number, head in enumerate(("low", "high")):
        one = mace.load_start(
            tmp_path / "two.model", ELEMENTS, dtype="float32", device="cpu", head=head
        )
        graph["head"] = torch.tensor([number])
        wanted = both(dict(graph))["interaction_energy"].item()
        graph["head"] = torch.tensor([0])
        assert one(dict(graph))["interaction_energy"].item() == pytest.approx(wanted, rel=1e-5)


def test_what_cannot_be_started_from_is_said(tmp_path, foundation):
    with pytest.raises(InputError, match="lacks S; it knows H, C, N, O"):
        mace.load_start(foundation, [1, 16], dtype="float32")
    with pytest.raises(InputError, match="no such model file"):
        mace.load_start(tmp_path / "none.model", [1], dtype="float32")
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(InputError, match="not a readable MACE model"):
        mace.load_start(tmp_path / "text.model", [1], dtype="float32")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "linear.model")
    with pytest.raises(InputError, match="holds a Linear, not a MACE model"):
        mace.load_start(tmp_path / "linear.model", [1], dtype="float32")


# Graphs


@pytest.mark.parametrize("periodic", [False, True])
def test_graphs_give_what_evaluation_gives(pretrained, periodic):
    model = mace.load(pretrained, device="cpu", dtype="float64")
    frames = [springs("CH3OH", 1, energy_zero=0, seed=4)[0], molecule("H2O")]
    frames[1].info["energy"], frames[1].arrays["forces"] = 1.0, np.zeros((3, 3))
    for atoms in frames:
        atoms.set_cell([3.4, 4.0, 5.0] if periodic else None)
        atoms.pbc = periodic
    e0s = {1: 0.5, 6: 1.0, 8: 2.0}
    batch = graphs.joined(graphs.graphs(frames, model, e0s))
    result = model(batch)
    said = mace.evaluate(model, frames)
    sums = [nodes.sum() for nodes in said.node_energy]
    np.testing.assert_allclose(result["interaction_energy"].detach(), sums, atol=1e-8)
    np.testing.assert_allclose(result["forces"].detach(), np.concatenate(said.forces), atol=1e-8)
    assert batch["energy"].tolist() == pytest.approx([frames[0].info["energy"] - 5.0, -2.0])


def test_small_errors_of_energies_may_count_by_their_square(pretrained):
    """The loss against a sum by hand of SciPy's Huber function of other evaluations' errors."""
    model = mace.load(pretrained, device="cpu", dtype="float64")
    frames = springs("CH3OH", 3, energy_zero=0, seed=4)
    e0s = dict.fromkeys(ELEMENTS, 0.0)
    inner = [nodes.sum() for nodes in mace.evaluate(model, frames).node_energy]
    for frame, energy, off in zip(frames, inner, (0.06, -0.6, 3.0), strict=True):
        frame.info["energy"] = energy + off  # 10, 100 and 500 meV/atom

    def losses(**settings):
        fit = FIT.model_copy(update={"forces_weight": 0.0, "energy_weight": 2.0} | settings)
        taught = learner.Learner(copy.deepcopy(model).requires_grad_(True), fit, seed=1, say=print)
        labels = graphs.graphs(frames, model, e0s)
        return taught.validated(labels)[0], taught._add_gradient(labels, 1.0)

    size = 2.0 * np.mean([0.01, 0.1, 0.5])
    assert losses() == pytest.approx((size, size), rel=1e-6)
    smooth = 2.0 * np.mean(huber(0.05, [0.01, 0.1, 0.5])) / 0.05
    assert losses(energy_huber_meV_per_atom=50.0) == pytest.approx((smooth, smooth), rel=1e-6)
