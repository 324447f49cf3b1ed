import numpy as np
import pytest
import torch

from halcyon.cli_index import CliIndex, per_replica

BOUNDS = torch.tensor([[-1.0, -1.0], [1.0, 3.0]])


def run(energies, timestep_ps=0.001, **options):
    index = CliIndex(BOUNDS, timestep_ps=timestep_ps, **options)
    scores = [index.update(torch.tensor(e, dtype=torch.float64)) for e in energies]
    return index, torch.stack(scores)


def test_a_hand_made_trace_has_the_known_answer():
    # Atom 0 leaves [-1, 1] for two steps, comes back, leaves for one; atom 1 stays in [-1, 3].
    index, scores = run([[0.0, 2.9], [1.5, 0.0], [-3.0, 0.0], [0.9, 0.0], [2.0, -1.0]])
    assert index.cli.tolist() == pytest.approx([0.003, 0.0])
    assert index.excursions.tolist() == [2, 0]
    # Distance outside over the width 2: 0.5/2, 2/2, 1/2.
    assert scores[:, 0].tolist() == pytest.approx([0, 0.25, 1.0, 0, 0.5])


def test_half_the_step_gives_the_same_index():
    def atom_energy(time_ps):
        return 1.3 * np.sin(2 * np.pi * time_ps / 0.01137)

    found = []
    for timestep in (0.0005, 0.00025):
        times = np.arange(0, 1, timestep)
        index, _ = run([[atom_energy(t), 0.0] for t in times], timestep_ps=timestep)
        found.append(float(index.cli[0]))
    # |1.3 sin| > 1 for this part of a period, by hand.
    expected = 1 - 2 / np.pi * np.arcsin(1 / 1.3)
    assert found[0] == pytest.approx(expected, rel=0.03)
    assert found[1] == pytest.approx(found[0], rel=0.03)


def test_the_smooth_indicator_is_small_close_to_the_domain_and_one_far_away():
    index, _ = run([[1.002, 0.0]], indicator="smooth", kappa=0.1)
    near = float(index.cli[0]) / 0.001
    assert near == pytest.approx(1 - np.exp(-((0.001 / 0.1) ** 2)))
    index, _ = run([[100.0, 0.0]], indicator="smooth", kappa=0.1)
    assert float(index.cli[0]) == pytest.approx(0.001)


def test_values_that_are_not_finite_are_outside():
    index, scores = run([[float("nan"), 0.0], [float("inf"), 0.0]])
    assert float(index.cli[0]) == pytest.approx(0.002)
    assert torch.isinf(scores[:, 0]).all()
    assert index.excursions.tolist() == [1, 0]


def test_a_million_small_steps_add_up():
    index = CliIndex(torch.tensor([[0.0], [1.0]], dtype=torch.float32), timestep_ps=1e-4)
    for _ in range(100_000):
        index.update(torch.tensor([2.0], dtype=torch.float32))
    assert float(index.cli[0]) == pytest.approx(10.0, rel=1e-9)


def test_restored_index_goes_on_and_kept_atoms_keep_their_numbers():
    energies = [[0.0, 5.0], [1.5, 5.0], [1.5, 0.0]]
    whole, _ = run(energies)
    first, _ = run(energies[:1])
    second = CliIndex(BOUNDS, timestep_ps=0.001)
    second.restore(first.state())
    for energy in energies[1:]:
        second.update(torch.tensor(energy))
    assert second.cli.tolist() == whole.cli.tolist()
    assert second.excursions.tolist() == whole.excursions.tolist()
    second.keep(torch.tensor([False, True]))
    assert second.cli.tolist() == [whole.cli[1].item()]
    assert second.update(torch.tensor([5.0])).tolist() == pytest.approx([0.5])


def test_replicas_are_reduced_apart_and_permuted_replicas_give_the_same_numbers():
    values = torch.tensor([1.0, 3.0, -4.0, -8.0])
    replica = torch.tensor([0, 0, 1, 1])
    assert per_replica(values, replica, 2, "mean").tolist() == [2.0, -6.0]
    assert per_replica(values, replica, 2, "amax").tolist() == [3.0, -4.0]
    assert per_replica(values[[2, 3, 0, 1]], replica, 2, "sum").tolist() == [-12.0, 4.0]
