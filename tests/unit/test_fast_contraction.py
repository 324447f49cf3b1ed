"""Training through the compiled contraction gives MACE's own gradients, of energies and forces."""

import copy

import pytest
import torch
from ase.build import molecule
from test_batched_mace import ELEMENTS, moved, random_model

from halcyon.models.fast import contraction
from halcyon.models.fast.contraction import compiled_contractions
from halcyon.models.graphs import graphs, joined


def a_batch(model):
    frames = [moved(molecule(name), seed) for seed, name in enumerate(("CH3CH2OH", "CH3CN"))]
    for frame in frames:
        frame.info["energy"] = 0.0
        frame.arrays["forces"] = 0 * frame.positions
    return joined(graphs(frames, model, dict.fromkeys(ELEMENTS, 0.0)))


def loss_of(model, batch):
    result = model(batch, training=True)
    energy, forces = result["interaction_energy"], result["forces"]
    return energy.square().sum() + (forces * forces.detach().cos()).sum() + forces.square().sum()


def gradients(model, batch):
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, batch)
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    "changes",
    [
        {"correlation": 3},
        {"correlation": 2, "max_L": 1},
        {"correlation": 3, "max_L": 2},
        {"correlation": 3, "use_agnostic_product": True},
    ],
    ids=str,
)
def test_gradients_of_energies_and_forces_are_those_of_maces_own(changes, monkeypatch):
    model = random_model(**changes)
    batch = a_batch(model)
    expected_loss, expected = gradients(model, batch)
    calls = []
    kernel = contraction.kernels.contract_twice
    monkeypatch.setattr(
        contraction.kernels, "contract_twice", lambda *a: (calls.append(1), kernel(*a))
    )
    with compiled_contractions(model):
        loss, result = gradients(model, batch)
    assert calls  # so it was not MACE's own
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert len(result) == len(expected)
    for gradient, reference in zip(result, expected, strict=True):
        scale = float(reference.abs().max())
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-10 * scale + 1e-12)


def test_the_model_stays_as_it_was(tmp_path):
    model = random_model(correlation=3)
    names, before = list(model.state_dict()), copy.deepcopy(model.state_dict())
    with compiled_contractions(model):
        model(a_batch(model), training=True)
    assert "forward" not in model.products[0].symmetric_contractions.__dict__
    torch.save(model, tmp_path / "saved.model")
    assert list(model.state_dict()) == names
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_contraction_of_four_factors_is_left_to_mace():
    for correlation, ours in ((3, True), (4, False)):
        model = random_model(correlation=correlation, max_ell=1)
        with compiled_contractions(model):
            assert ("forward" in model.products[0].symmetric_contractions.__dict__) == ours
