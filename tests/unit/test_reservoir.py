"""The reservoir of random frames, on fabricated runs: uniform, bounded, always the same frames."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy import stats

from halcyon.config import AuditSettings
from halcyon.exploration.activity import Activity
from halcyon.exploration.dynamics import Replica
from halcyon.exploration.reservoir import Reservoir, audit_frames, draw_of, in_turn
from halcyon.systems.molecules import number_of_molecules

STEPS = 100
SCHEDULE = SimpleNamespace(steps=STEPS, early_end=None, timestep_ps=0.001)


def atom(structure="argon", **info):
    return Atoms("Ar", info={"charge": 0, "multiplicity": 1, "structure": structure} | info)


REPLICAS = [Replica(n, 300.0 + 200 * (n % 2), atom()) for n in range(4)]


def filled(
    seed=1, *, most=10, equilibration=0.2, ends=None, order=range(4), schedule=SCHEDULE, steps=STEPS
):
    """A run of four replicas, each of which offers its frame every two steps until its end."""
    reservoir = Reservoir(
        AuditSettings(reservoir=most, equilibration=equilibration), schedule, seed=seed
    )
    for step in range(2, steps + 1, 2):
        for n in order:
            if step <= (ends or [STEPS] * 4)[n]:
                positions = torch.full((1, 3), float(step))
                reservoir.offer(n, REPLICAS[n], step, positions, torch.zeros(3, 3))
    return reservoir


def places(frames):
    return [(f.info["replica"], round(1000 * f.info["time"])) for f in frames]


def test_every_visited_frame_is_drawn_equally_often():
    """800 runs, 10 of 82 frames (41 of each of two replicas, one of which ends at half time)."""
    ends = [STEPS, STEPS, 60, STEPS]
    counts: dict[tuple[int, int], int] = {}
    for seed in range(800):
        for place in places(filled(seed, ends=ends).frames(REPLICAS, steps=STEPS)):
            counts[place] = counts.get(place, 0) + 1
    expected_places = {(n, s) for n in range(4) for s in range(20, ends[n] + 1, 2)}
    assert set(counts) == expected_places
    for group in ((0, 2), (1, 3)):
        seen = [counts[place] for place in sorted(expected_places) if place[0] in group]
        assert sum(seen) == 8000
        # Drawn without replacement, counts spread less than independent ones: no inflated χ².
        assert stats.chisquare(seen).pvalue > 0.001


def test_draws_of_neighbouring_steps_and_replicas_are_uniform_and_independent():
    draws = np.array([[draw_of(seed=5, replica=r, step=s) for s in range(400)] for r in range(5)])
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 0.06
    assert abs(np.corrcoef(draws)[~np.eye(5, dtype=bool)]).max() < 0.15


def test_the_order_of_replicas_changes_nothing_and_each_temperature_has_its_own():
    one, other = (
        filled().frames(REPLICAS, steps=STEPS),
        filled(order=(2, 0, 3, 1)).frames(REPLICAS, steps=STEPS),
    )
    assert places(one) == places(other)
    assert [f.info["temperature"] for f in one].count(300.0) == 10
    assert len(one) == 20


def test_a_smaller_reservoir_is_the_beginning_of_a_larger():
    large, small = (filled(most=n).frames(REPLICAS, steps=STEPS) for n in (30, 7))
    for temperature in (300.0, 500.0):
        of = [[f for f in part if f.info["temperature"] == temperature] for part in (large, small)]
        assert places(of[0])[:7] == places(of[1])


def test_a_run_that_may_end_early_keeps_the_frames_of_both_its_ends():
    may, short = (
        SimpleNamespace(**{**vars(SCHEDULE), **x}) for x in ({"early_end": 40}, {"steps": 40})
    )
    for seed in range(20):
        asked = {"steps": 40, "most": 30}
        ended = filled(seed, schedule=may, **asked).frames(REPLICAS, steps=40)
        assert places(ended) == places(
            filled(seed, schedule=short, **asked).frames(REPLICAS, steps=40)
        )
        assert min(step for _, step in places(ended)) < 0.2 * STEPS
        whole = filled(seed, schedule=may).frames(REPLICAS, steps=STEPS)
        assert places(whole) == places(filled(seed).frames(REPLICAS, steps=STEPS))


def test_saved_and_restored_it_goes_on_as_if_undisturbed():
    whole, half = filled(), Reservoir(AuditSettings(reservoir=10), SCHEDULE, seed=1)
    for stop, start in ((40, 0), (STEPS, 40)):
        again = Reservoir(AuditSettings(reservoir=10), SCHEDULE, seed=1)
        again.restore(half.state(), REPLICAS)
        half = again
        for step in range(start + 2, stop + 1, 2):
            for n in range(4):
                positions = torch.full((1, 3), float(step))
                half.offer(n, REPLICAS[n], step, positions, torch.zeros(3, 3))
    assert places(half.frames(REPLICAS, steps=STEPS)) == places(whole.frames(REPLICAS, steps=STEPS))
    for frame in half.frames(REPLICAS, steps=STEPS):
        assert frame.positions[0, 0] == round(1000 * frame.info["time"])


def drawn():
    return [
        atom(structure, temperature=t, draw=draw, replica=0)
        for structure, t, draw in (
            ("a", 300.0, 0.1),
            ("a", 300.0, 0.2),
            ("a", 300.0, 0.3),
            ("a", 500.0, 0.05),
            ("a", 500.0, 0.5),
            ("b", 300.0, 0.9),
        )
    ]


def of_replicas(sizes, seed=1):
    """A reservoir of one structure at one temperature, as many frames of each replica as said."""
    random = np.random.default_rng(seed)
    return [
        atom(temperature=300.0, replica=replica, draw=random.random(), number=number)
        for replica, size in enumerate(sizes)
        for number in range(size)
    ]


def test_the_audit_has_of_each_replica_about_its_part():
    sizes = [70, 70, 35, 25]
    for seed in range(50):
        for number in (5, 10, 20):
            taken = audit_frames(of_replicas(sizes, seed), number, limit=100)
            counts = np.bincount([f.info["replica"] for f in taken], minlength=4)
            expected = number * np.array(sizes) / 200
            assert (abs(counts - expected) < 2).all()
            assert counts.sum() == number
    equal = audit_frames(of_replicas([50] * 3), 10, limit=100)
    assert sorted(np.bincount([f.info["replica"] for f in equal])) == [3, 3, 4]


def test_the_audit_takes_every_frame_equally_often():
    """7 of 40 frames, of replicas of unequal lengths, so that their parts are no whole numbers.

    A frame of each replica is taken in 0.98 to 1.02 of 7/40 of the cases by 20,000 drawings of
    three uniform numbers. Were replicas to begin alike, that would be 1.01, 0.82 and 1.27.
    """
    sizes, runs = np.array([17, 14, 9]), 4000
    counts = np.zeros(3)
    for seed in range(runs):
        taken = [f.info["replica"] for f in audit_frames(of_replicas(sizes, seed), 7, limit=100)]
        counts += np.bincount(taken, minlength=3)
    assert counts / (runs * 7 * sizes / 40) == pytest.approx(1.0, abs=0.06)


def test_fewer_frames_are_the_beginning_of_more():
    frames = of_replicas([30, 20, 10])
    draws = [f.info["draw"] for f in in_turn(frames)[0]]
    assert sorted(draws) == sorted(f.info["draw"] for f in frames)
    for number in (1, 7, 60):
        taken = audit_frames(frames, number, limit=100)
        assert [f.info["draw"] for f in taken] == draws[:number]


def test_the_audit_takes_the_least_draws_of_a_replica_at_each_structure_and_temperature():
    taken = audit_frames(drawn(), 2, limit=100)
    assert sorted(f.info["draw"] for f in taken) == [0.05, 0.1, 0.2, 0.5, 0.9]
    splits = {f.info["draw"]: f.info["split"] for f in taken}
    assert splits == {
        0.1: "validation",
        0.2: "train",
        0.05: "validation",
        0.5: "train",
        0.9: "validation",
    }
    assert {f.info["role"] for f in taken} == {"audit"}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(0, set()), (-3, set()), (3, {0.1, 0.05, 0.9}), (4, {0.1, 0.05, 0.9, 0.2})],
)
def test_where_the_budget_is_short_structures_and_temperatures_take_turns(limit, expected):
    assert {f.info["draw"] for f in audit_frames(drawn(), 2, limit=limit)} == expected


def test_activity_does_not_depend_on_the_blocks_it_is_noted_in():
    active = np.random.default_rng(3).random(400) < 0.1
    spans = []
    for length in (1, 3, 7, 50, 400):
        activity = Activity(0.001)
        for begin in range(0, 400, length):
            activity.note(0, begin + 1, active[begin : begin + length])
        spans.append(activity.of(0))
    assert all(other == spans[0] for other in spans)
    # By hand: steps 3, 4 and 8 (a gap of 3 fs is closed), then 14 (a gap of 5 fs is not).
    activity = Activity(0.001)
    activity.note(0, 1, np.isin(np.arange(1, 21), [3, 4, 8, 14]))
    assert activity.of(0) == [(0.002, 0.008), (0.013, 0.014)]
    assert activity.of(1) == []


def test_molecules_are_counted_over_periodic_boundaries_and_a_crystal_is_one(water):
    two = water.copy()
    two.translate([5, 0, 0])
    both = water + two
    assert number_of_molecules(both) == 2
    both.set_cell([10, 10, 10])
    both.pbc = True
    both.positions[:, 0] -= both.positions[0, 0] + 0.1  # cut by the boundary
    both.wrap()
    assert number_of_molecules(both) == 2
    chain = Atoms("C", positions=[[0, 0, 0]], cell=[1.5, 10, 10], pbc=True)
    assert number_of_molecules(chain) == 1


def test_an_ion_is_not_bonded_to_the_water_that_touches_it():
    water = Atoms("OH2", positions=[[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    other = water.copy()
    other.positions += [0, 0, 4.8]
    # 2.4 Å from either oxygen, where 1.2 times the sum of the covalent radii are 2.8 Å.
    assert number_of_molecules(water + Atoms("Na", positions=[[0, 0, 2.4]]) + other) == 3
