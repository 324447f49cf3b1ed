import numpy as np
import pytest

from halcyon.exploration.spread import farthest, fingerprint


def on_a_line(*places):
    """Points along the diagonal of two descriptors."""
    return np.array([[place, place] for place in places], dtype=float)


def by_brute_force(points, learned, number):
    """Farthest-point sampling as its definition reads."""
    everything = np.concatenate([learned, points])
    scale = everything.std(axis=0)
    places, taken = [row / scale for row in learned], []
    for _ in range(number):
        distances = [
            min((np.linalg.norm(row / scale - s) for s in places), default=0) for row in points
        ]
        for i, _ in taken:
            distances[i] = -1
        best = int(np.argmax(distances))
        taken.append((best, distances[best]))
        places.append(points[best] / scale)
    return taken


def test_the_farthest_from_what_is_known_comes_first_then_the_gaps():
    points, learned = on_a_line(1, 10, 9.5, 5), on_a_line(0, 0.2)
    taken = farthest(points, learned, 4)
    assert [i for i, _ in taken] == [1, 3, 0, 2]
    # Ten comes 9.8 after the learned 0.2; five lies 4.8 from it; one 0.8; nine and a half 0.5 off.
    unit = np.std([0, 0.2, 1, 10, 9.5, 5])
    expected = np.sqrt(2) * np.array([9.8, 4.8, 0.8, 0.5]) / unit
    assert [d for _, d in taken] == pytest.approx(expected)


@pytest.mark.parametrize("learned", [1, 7])
def test_agrees_with_the_definition(learned):
    random = np.random.default_rng(3)
    points, before = random.normal(size=(40, 6)), random.normal(size=(learned, 6))
    taken = farthest(points, before, 12)
    expected = by_brute_force(points, before, 12)
    assert [i for i, _ in taken] == [i for i, _ in expected]
    assert [d for _, d in taken] == pytest.approx([d for _, d in expected])


def test_with_nothing_known_the_first_point_begins():
    points = on_a_line(3, 4, 0, 9)
    taken = farthest(points, [], 3)
    assert [i for i, _ in taken] == [0, 3, 2]
    assert taken[0][1] is None
    assert farthest(points[:1], [], 1) == [(0, None)]


def test_the_scale_of_a_descriptor_does_not_matter():
    random = np.random.default_rng(8)
    points, learned = random.normal(size=(20, 3)), random.normal(size=(4, 3))
    scaled = np.array([10.0, 1.0, 0.1])
    assert farthest(points * scaled, learned * scaled, 9) == [
        (i, pytest.approx(d)) for i, d in farthest(points, learned, 9)
    ]


def test_a_constant_offset_costs_no_digits():
    points, learned = on_a_line(0, 3e-3, 1e-3), on_a_line(0)
    taken = farthest(points + 1e6, learned + 1e6, 2)
    assert [i for i, _ in taken] == [1, 2]


def test_equally_far_points_are_taken_in_their_order():
    assert [i for i, _ in farthest(on_a_line(2, 2, -2), on_a_line(0), 3)] == [0, 2, 1]


def test_a_fingerprint_is_the_mean_of_each_class():
    descriptors = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 8.0]])
    print_of_water = fingerprint(descriptors, ["O", "H", "H"])
    assert print_of_water.tolist() == [4.0, 6.0, 1.0, 2.0]
    assert fingerprint(descriptors[[0, 2, 1]], ["O", "H", "H"]).tolist() == print_of_water.tolist()
    assert fingerprint(descriptors, ["O", "H1", "H2"]).tolist() == [3, 4, 5, 8, 1, 2]
