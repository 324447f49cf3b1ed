"""Walls before and after a fine-tuning."""

import numpy as np
import pytest
from ase.build import molecule

from halcyon.models.forgetting import bond_stretches, compared, dimers, frames_of


def lengths(scans):
    return np.array([atoms.get_distance(0, 1) for atoms in frames_of(scans)])


def test_dimers_are_of_all_pairs_at_the_distances_they_say():
    scans = dimers([8, 1, 1])
    assert [scan.name for scan in scans] == ["H–H", "H–O", "O–O"]
    np.testing.assert_allclose(lengths(scans), np.concatenate([s.distances_A for s in scans]))
    # 0.31 and 0.66 Å: covalent radii of H and O by Cordero et al.
    assert scans[1].distances_A[0] == pytest.approx(0.4 * 0.97)
    assert 2.9 < scans[1].distances_A[-1] < 3.0


def test_a_bond_is_stretched_and_what_hangs_on_it_moves_along():
    start = molecule("CH3OH")  # C O H H H H, the second hydrogen is that of O
    bonds = [(0, 1), (0, 2), (1, 3), (0, 4), (0, 5)]
    classes = ["C", "O", "HC", "HO", "HC", "HC"]
    scans = bond_stretches("methanol", start, bonds, classes)
    assert [scan.name for scan in scans] == [
        "methanol: C0–O1", "methanol: C0–H2", "methanol: O1–H3",
    ]  # fmt: skip
    co, ch, _ = scans
    at_rest = start.get_all_distances()
    for frame, length in zip(co.frames, co.distances_A, strict=True):
        distances = frame.get_all_distances()
        assert distances[0, 1] == pytest.approx(length)
        assert distances[1, 3] == pytest.approx(at_rest[1, 3])  # the hydroxyl is rigid
        assert distances[0, 2] == pytest.approx(at_rest[0, 2])
    assert ch.distances_A[[0, -1]] == pytest.approx(np.array([0.6, 1.8]) * at_rest[0, 2])


def test_in_a_ring_one_atom_moves_alone():
    start = molecule("C3H6_D3h")
    bonds = [(0, 1), (1, 2), (0, 2)]
    (scan,) = bond_stretches("ring", start, bonds, ["C"] * 9)
    moved = np.abs(scan.frames[0].positions - start.positions).sum(1) > 1e-9
    assert moved.tolist() == [False, True] + [False] * 7


def test_differences_are_of_energies_counted_from_the_start_models_minimum():
    scans = dimers([8])
    r = scans[0].distances_A
    before = 7.0 + 4.0 * (r - 1.5) ** 2
    after = -3.0 + 5.0 * (r - 1.5) ** 2
    (wall,) = compared(scans, before, after).scans
    zero = int(np.argmin(np.abs(r - 1.5)))
    old = 4.0 * (r - 1.5) ** 2 - 4.0 * (r[zero] - 1.5) ** 2
    new = 5.0 * (r - 1.5) ** 2 - 5.0 * (r[zero] - 1.5) ** 2
    above = old > 1.0
    assert wall.rms_above_eV == pytest.approx(np.sqrt(np.mean((new - old)[above] ** 2)))
    below = ~above & (np.arange(len(r)) != zero)
    assert wall.rms_below_eV == pytest.approx(np.sqrt(np.mean((new - old)[below] ** 2)))
    assert (wall.turns_before_A, wall.turns_after_A) == (None, None)
    assert wall.before_eV[zero] == wall.after_eV[zero] == 0.0


def test_a_hole_in_the_wall_is_named_by_where_the_energy_begins_to_fall():
    scans = dimers([8])
    r = scans[0].distances_A
    before = (r - 1.5) ** 2
    after = np.where(r < 1.0, 0.25 - 20 * (1.0 - r), (r - 1.5) ** 2)
    (wall,) = compared(scans, before, after).scans
    assert wall.turns_before_A is None
    first = r[r >= 1.0][0]
    assert wall.turns_after_A == pytest.approx(first, abs=1e-3)


def test_a_scan_that_is_not_finite_is_left_out():
    scans = dimers([1, 8])
    energies = np.concatenate([(s.distances_A - 1.0) ** 2 for s in scans])
    broken = energies.copy()
    broken[0] = np.nan
    names = [s.name for s in compared(scans, energies, broken).scans]
    assert names == ["H–O", "O–O"]


def test_where_nothing_is_a_wall_there_is_no_number():
    scans = dimers([1])
    flat = np.zeros(len(scans[0].distances_A))
    forgotten = compared(scans, flat, flat)
    assert forgotten.scans[0].rms_above_eV is None
    assert forgotten.median_rms_above("dimer") is None
    assert forgotten.median_rms_above("bond") is None
