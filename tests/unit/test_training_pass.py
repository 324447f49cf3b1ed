"""The forward pass of training gives MACE's own numbers, and its gradients by the weights."""

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from mace.modules.lora import inject_lora
from test_batched_mace import ELEMENTS, moved, random_model

from halcyon.config import FitSettings
from halcyon.models.fast import training_weights
from halcyon.models.fast.training_pass import TrainingPass
from halcyon.models.graphs import graphs, joined
from halcyon.models.learner import Learner


def some_frames():
    """A molecule, a skewed box that shares no element with the next, a crystal, and an atom."""
    skewed = Atoms(
        "NH3N",
        positions=np.random.default_rng(5).uniform(0, 4, (5, 3)),
        cell=[[4.0, 0, 0], [1.2, 4.4, 0], [-0.7, 0.9, 3.9]],
        pbc=True,
    )
    # An ideal crystal, where different pairs have the same length, and atoms their own images.
    frames = [moved(molecule("CH3CH2OH")), skewed, bulk("C", cubic=True), Atoms("O")]
    random = np.random.default_rng(6)
    for frame in frames:
        frame.info["energy"] = 0.1
        frame.arrays["forces"] = random.normal(size=(len(frame), 3))
        if frame.pbc.all():
            frame.info["stress"] = random.normal(0, 0.01, 6)
    return frames


def a_batch(model):
    return joined(graphs(some_frames(), model, dict.fromkeys(ELEMENTS, 0.0)))


def everything(result, model):
    """What a pass gives, and gradients by the weights of a number that depends on all of it."""
    parts = [result[name] for name in ("interaction_energy", "forces", "virials", "node_feats")]
    loss = sum((part * part.detach().cos()).sum() for part in parts)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return parts, torch.autograd.grad(loss, weights)


def same(one, other, relative):
    scale = float(other.abs().max())
    torch.testing.assert_close(one, other, rtol=0, atol=relative * scale + 1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"correlation": 3, "channels": 8},
        {"correlation": 1, "max_ell": 2},
        {"num_interactions": 1},
        {"num_interactions": 3, "dtype": torch.float32},
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_maces_own_forward(changes):
    model = random_model(**changes)
    batch = a_batch(model)
    forward = TrainingPass.of(model)
    ours = everything(forward(model, batch, training=True, compute_virials=True), model)
    expected = everything(model(batch, training=True, compute_virials=True), model)
    relative = 1e-9 if next(model.parameters()).dtype == torch.float64 else 1e-4
    for found, known in zip(ours, expected, strict=True):
        for one, other in zip(found, known, strict=True):
            assert one.dtype == other.dtype
            same(one, other, relative)


def test_weights_of_elements_that_are_not_there_do_not_learn():
    model = random_model()
    batch = joined(graphs(some_frames()[1:2], model, dict.fromkeys(ELEMENTS, 0.0)))
    ours = everything(
        TrainingPass.of(model)(model, batch, training=True, compute_virials=True), model
    )
    expected = everything(model(batch, training=True, compute_virials=True), model)
    for found, known in zip(ours, expected, strict=True):
        for one, other in zip(found, known, strict=True):
            same(one, other, 1e-9)
    embedding = ours[1][0].view(len(ELEMENTS), -1)
    assert [bool(row.any()) for row in embedding] == [True, False, True, False]


def test_weights_are_read_anew_and_need_not_learn():
    model = random_model()
    forward, batch = TrainingPass.of(model), a_batch(model)
    average = copy.deepcopy(model).requires_grad_(False)
    with torch.no_grad():
        for weight in average.parameters():
            weight.mul_(1.1)
    result = forward(average, batch, training=False)
    same(result["forces"], average(batch, training=False)["forces"], 1e-9)
    assert not result["forces"].requires_grad
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith("readouts"))
    ours = everything(forward(model, batch, training=True, compute_virials=True), model)
    expected = everything(model(batch, training=True, compute_virials=True), model)
    for one, other in zip(ours[1], expected[1], strict=True):
        same(one, other, 1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_L": 1},
        {"pair_repulsion": True},
        {"distance_transform": "Agnesi"},
        {"correlation": 4, "max_ell": 1},
        {"first": "RealAgnosticResidualInteractionBlock"},
        {"use_agnostic_product": True},
    ],
    ids=str,
)
def test_other_models_are_left_to_mace(changes):
    assert TrainingPass.of(random_model(**changes)) is None


def test_adapters_are_left_to_mace():
    model = random_model()
    inject_lora(model, rank=2)
    assert TrainingPass.of(model) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_pass_that_gives_other_numbers_is_not_used(dtype, monkeypatch):
    model = random_model(dtype=dtype)
    assert TrainingPass.of(model) is not None
    right = training_weights._mixing_factors
    monkeypatch.setattr(
        training_weights, "_mixing_factors", lambda block: [1.01 * f for f in right(block)]
    )
    assert TrainingPass.of(model) is None


def test_a_training_goes_the_same_way_with_it_and_without():
    def learned(with_it):
        model = random_model()
        learner = Learner(
            model, FitSettings(epochs=3, batch_size=2, learning_rate=0.01), seed=3, say=print
        )
        assert learner.training_pass is not None
        if not with_it:
            learner.training_pass = None
        labels = graphs(some_frames(), model, dict.fromkeys(ELEMENTS, 0.0))
        losses = [loss for epoch in range(3) for loss in learner.losses(epoch, labels, [], 0.0)]
        return [*losses, learner.validated(labels)[0]]

    assert learned(with_it=True) == pytest.approx(learned(with_it=False), rel=1e-6)


def test_threads_share_the_frames_of_a_batch():
    model = random_model()
    forward, batch = TrainingPass.of(model), a_batch(model)
    threads = torch.get_num_threads()
    alone = everything(forward(model, batch, training=True, compute_virials=True), model)
    torch.set_num_threads(3)
    try:
        shared = everything(forward(model, batch, training=True, compute_virials=True), model)
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(alone, shared, strict=True):
        for expected, found in zip(one, other, strict=True):
            same(found, expected, 1e-12)
