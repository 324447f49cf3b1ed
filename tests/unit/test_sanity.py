"""Expected numbers: by hand, or GFN2-xTB on frames far wilder than a campaign selects."""

import numpy as np
import pytest
from ase.build import molecule
from ase.units import kB

from halcyon.config import SanitySettings, XtbReference
from halcyon.labels.reference.xtb import Xtb
from halcyon.labels.sanity import energy_range, judge, xtb_witness

SETTINGS = SanitySettings()


def labelled(frames, energies, forces=None):
    for number, (frame, energy) in enumerate(zip(frames, energies, strict=True)):
        frame.info |= {"key": f"{number:032x}", "status": "ok", "energy": energy}
        frame.arrays["forces"] = np.zeros((len(frame), 3)) if forces is None else forces[number]
    return frames


@pytest.fixture
def water_labels(rattled):
    """Labels of water by GFN2-xTB."""
    frames = rattled(20)
    records = list(Xtb(XtbReference(backend="xtb")).label(frames, None, 1))
    return labelled(frames, [r.energy for r in records], [r.forces for r in records])


def test_the_range_is_bonds_heat_and_reactions():
    # 9 atoms at 500 K: 10 eV + 27/2 k_B T = 10 + 13.5 * 8.617333e-5 * 500; upwards 3 eV an atom
    # more, downwards 1 eV an atom where there are reactions.
    still = energy_range(SETTINGS, 9, 500, reactive=False)
    assert still == pytest.approx((10.58167, 37.58167), abs=1e-5)
    reactive = energy_range(SETTINGS, 9, 500, reactive=True)
    assert reactive == pytest.approx((19.58167, 37.58167), abs=1e-5)
    off = SanitySettings(energy_range_eV=None)
    assert energy_range(off, 9, 500, reactive=False) is None
    assert kB == pytest.approx(8.617333e-5, rel=1e-6)


def test_a_wrong_energy_among_twenty_is_rejected_and_told(water_labels):
    wrong = water_labels[7].info["energy"] - 27.2114  # a hartree too little
    water_labels[7].info["energy"] = wrong
    judged = judge(water_labels, SETTINGS, temperature_K=500)
    assert [f.info["status"] for f in judged].count("ok") == 19
    info = judged[7].info
    assert info["status"] == "rejected"
    assert "energy" not in info
    assert "forces" not in judged[7].arrays
    assert f"{wrong:.6f} eV" in info["message"]  # nothing is lost
    assert "sanity.energy_range_eV" in info["message"]
    assert water_labels[7].info["status"] == "ok"  # what came from the store is as it was


def test_earlier_labels_are_the_yardstick_and_few_are_none(water_labels):
    suspect = water_labels[:1]
    suspect[0].info["energy"] += 30
    (alone,) = judge(suspect, SETTINGS, temperature_K=500)
    assert alone.info["status"] == "ok"
    (judged,) = judge(suspect, SETTINGS, earlier=water_labels[1:], temperature_K=500)
    assert judged.info["status"] == "rejected"
    for frame in water_labels[1:]:  # another spin is another composition
        frame.info["multiplicity"] = 3
    (judged,) = judge(suspect, SETTINGS, earlier=water_labels[1:], temperature_K=500)
    assert judged.info["status"] == "ok"


def test_wild_frames_are_no_poison():
    """Ethanol, every atom 0.2 Å off its place: real energies, 10 eV and more apart."""
    random = np.random.default_rng(4)
    frames = []
    for number in range(60):
        frame = molecule("CH3CH2OH")
        frame.info = {"charge": 0, "multiplicity": 1}
        frame.positions += random.normal(scale=0.05 if number < 30 else 0.2, size=(9, 3))
        frames.append(frame)
    records = list(Xtb(XtbReference(backend="xtb")).label(frames, None, 1))
    labelled(frames, [r.energy for r in records], [r.forces for r in records])
    # Selection drops frames with larger forces (selection.force_cap_eV_per_A).
    frames = [f for f in frames if np.linalg.norm(f.arrays["forces"], axis=1).max() < 50]
    assert len(frames) > 40
    energies = np.array([frame.info["energy"] for frame in frames])
    assert np.abs(energies - np.median(energies)).max() > 10
    judged = judge(frames, SETTINGS, temperature_K=500)
    assert {frame.info["status"] for frame in judged} == {"ok"}


def test_forces_must_sum_to_zero(rattled):
    grid, broken = rattled(2)
    labelled([grid, broken], [0.0, 0.0])
    # Noise of a grid: 0.13 eV/Å on the oxygen, 0.075 per square root of three atoms.
    grid.arrays["forces"][0, 0] = 0.13
    broken.arrays["forces"][0, 0] = 0.36  # 0.208
    good, bad = judge([grid, broken], SETTINGS, temperature_K=300)
    assert good.info["status"] == "ok"
    assert bad.info["status"] == "rejected"
    assert "0.360 eV/Å: 0.208" in bad.info["message"]
    (judged,) = judge([broken], SanitySettings(net_force_eV_per_A=None), temperature_K=300)
    assert judged.info["status"] == "ok"


def test_the_second_witness_flags_and_saves_but_does_not_reject(water_labels):
    """The reference differs from GFN2-xTB by a constant; two labels do not."""
    for frame in water_labels:
        frame.info["energy"] -= 2000.0
    water_labels[3].info["energy"] += 1.0
    forces = water_labels[4].arrays["forces"]
    water_labels[4].arrays["forces"] = forces + np.array([[3, 0, 0], [-3, 0, 0], [0, 0, 0]])
    judged = judge(water_labels, SETTINGS, temperature_K=500, witness=xtb_witness())
    assert {frame.info["status"] for frame in judged} == {"ok"}
    assert [number for number, f in enumerate(judged) if "flag" in f.info] == [3, 4]
    assert "energy +1.00 eV off GFN2-xTB" in judged[3].info["flag"]
    # sqrt((9 + 9) / 9 components) = 1.41 eV/Å
    assert "forces 1.41 eV/Å off GFN2-xTB" in judged[4].info["flag"]
    assert judged[0].info["xtb_shift"] == pytest.approx(-2000, abs=1e-6)

    # An energy far out of range that GFN2-xTB has, too: a wild frame, not a wild label.
    for frame in judged:
        frame.info.pop("flag", None)
    tight = SanitySettings(energy_range_eV=0.01, energy_widths=0.5)
    saved = judge(judged, tight, temperature_K=1, witness=None)
    assert any("GFN2-xTB confirms it" in f.info.get("flag", "") for f in saved)


def test_a_witness_is_asked_once(water_labels):
    keys = []

    def witness(frame):
        keys.append(frame.info["key"])
        return frame.info["energy"], frame.arrays["forces"]

    first = judge(water_labels[:10], SETTINGS, temperature_K=500, witness=witness)
    judge(water_labels[10:], SETTINGS, earlier=first, temperature_K=500, witness=witness)
    assert len(keys) == len(set(keys)) == 20


def test_what_failed_passes_as_it_is(rattled):
    (frame,) = rattled(1)
    frame.info |= {"status": "timeout", "message": "late"}
    (judged,) = judge([frame], SETTINGS, temperature_K=300)
    assert judged.info == frame.info
