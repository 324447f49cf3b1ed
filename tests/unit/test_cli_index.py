import numpy as np
import pytest
import torch

from halcyon.domain.index import CliIndex, per_replica


def run(scores, timestep_ps=0.001, **options):
    index = CliIndex(len(scores[0]), timestep_ps=timestep_ps, **options)
    for score in scores:
        index.update(torch.tensor([score], dtype=torch.float64))
    return index


def test_a_hand_made_trace_has_the_known_answer():
    # Atom 0 is outside for two steps, comes back, leaves for one; atom 1 stays inside.
    index = run([[0.0, 0.0], [0.25, 0.0], [1.0, 0.0], [0.0, 0.0], [1e-300, 0.0]])
    assert index.cli.tolist() == pytest.approx([0.003, 0.0])
    assert index.excursions.tolist() == [2, 0]
    assert index.outside.tolist() == [True, False]


@pytest.mark.parametrize("indicator", ["hard", "smooth"])
def test_several_steps_at_once_are_those_steps(indicator):
    scores = np.maximum(0, np.random.default_rng(1).normal(size=(60, 2, 5)))
    one, many = (CliIndex(2, 5, timestep_ps=0.001, indicator=indicator) for _ in range(2))
    for score in scores:
        one.update(torch.tensor(score)[:, None])
    for begin, end in ((0, 1), (1, 8), (8, 20), (20, 60)):
        many.update(torch.tensor(scores[begin:end]).movedim(0, 1))
    if indicator == "hard":
        assert torch.equal(one.cli, many.cli)
    assert torch.allclose(one.cli, many.cli, rtol=1e-12)
    assert torch.equal(one.excursions, many.excursions)
    many.join(3)
    assert many.cli[:, 5:].tolist() == [[0.0] * 3] * 2
    assert torch.equal(many.excursions[:, :5], one.excursions)


def test_signals_are_counted_side_by_side():
    random = np.random.default_rng(0)
    scores = np.maximum(0, random.normal(size=(50, 3, 4)))
    together = CliIndex(3, 4, timestep_ps=0.001)
    for step in scores:
        together.update(torch.tensor(step)[:, None])
    for number in range(3):
        alone = run(scores[:, number].tolist())
        assert torch.equal(together.cli[number], alone.cli)
        assert torch.equal(together.excursions[number], alone.excursions)
    together.keep(torch.tensor([True, False, False, True]))
    assert together.cli.shape == (3, 2)
    assert torch.equal(together.cli[2], alone.cli[[0, 3]])


def test_permuted_replicas_give_the_same_numbers():
    scores = np.maximum(0, np.random.default_rng(0).normal(size=(50, 6)))
    order = np.array([4, 5, 0, 1, 2, 3])  # three replicas of two atoms
    for indicator in ("hard", "smooth"):
        one = run(scores.tolist(), indicator=indicator)
        other = run(scores[:, order].tolist(), indicator=indicator)
        assert torch.equal(one.cli[order], other.cli)
        assert torch.equal(one.excursions[order], other.excursions)


def test_half_the_step_gives_the_same_index():
    def atom_energy(time_ps):
        return 1.3 * np.sin(2 * np.pi * time_ps / 0.01137)

    found = []
    for timestep in (0.0005, 0.00025):
        times = np.arange(0, 1, timestep)
        beyond = [max(0.0, abs(atom_energy(t)) - 1) for t in times]
        index = run([[score, 0.0] for score in beyond], timestep_ps=timestep)
        found.append(float(index.cli[0]))
    # |1.3 sin| > 1 for this part of a period, by hand.
    expected = 1 - 2 / np.pi * np.arcsin(1 / 1.3)
    assert found[0] == pytest.approx(expected, rel=0.03)
    assert found[1] == pytest.approx(found[0], rel=0.03)


def test_the_smooth_indicator_is_small_close_to_the_domain_and_one_far_away():
    index = run([[0.001, 0.0]], indicator="smooth", kappa=0.1)
    near = float(index.cli[0]) / 0.001
    assert near == pytest.approx(1 - np.exp(-((0.001 / 0.1) ** 2)))
    index = run([[50.0, np.inf]], indicator="smooth", kappa=0.1)
    assert index.cli.tolist() == pytest.approx([0.001, 0.001])


def test_an_infinite_score_is_outside():
    index = run([[np.inf, 0.0], [np.inf, 0.0]])
    assert float(index.cli[0]) == pytest.approx(0.002)
    assert index.excursions.tolist() == [1, 0]


def test_a_million_small_steps_add_up():
    index = CliIndex(1, timestep_ps=1e-4)
    for _ in range(100_000):
        index.update(torch.tensor([[2.0]], dtype=torch.float32))
    assert float(index.cli[0]) == pytest.approx(10.0, rel=1e-9)


def test_restored_index_goes_on_and_kept_atoms_keep_their_numbers():
    scores = [[0.0, 5.0], [1.5, 5.0], [1.5, 0.0]]
    whole = run(scores)
    first = run(scores[:1])
    second = CliIndex(2, timestep_ps=0.001)
    state = {name: value.clone() for name, value in first.state().items()}
    second.restore(state)
    for score in scores[1:]:
        second.update(torch.tensor([score]))
    assert second.cli.tolist() == whole.cli.tolist()
    assert second.excursions.tolist() == whole.excursions.tolist()
    assert torch.equal(state["steps"], first.steps)  # a copy went on
    second.keep(torch.tensor([False, True]))
    assert second.cli.tolist() == [whole.cli[1].item()]
    second.update(torch.tensor([[5.0]]))
    assert second.excursions.tolist() == [2]


def test_replicas_are_reduced_apart_and_permuted_replicas_give_the_same_numbers():
    values = torch.tensor([1.0, 3.0, -4.0, -8.0])
    replica = torch.tensor([0, 0, 1, 1])
    assert per_replica(values, replica, 2, "mean").tolist() == [2.0, -6.0]
    assert per_replica(values, replica, 2, "amax").tolist() == [3.0, -4.0]
    assert per_replica(values[[2, 3, 0, 1]], replica, 2, "sum").tolist() == [-12.0, 4.0]
    stacked = torch.stack([values, -values])
    assert per_replica(stacked, replica, 2, "mean").tolist() == [[2.0, -6.0], [-2.0, 6.0]]
