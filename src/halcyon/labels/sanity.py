"""Whether a label that the program calls good can be trusted.

    judged, found = judge(labelled, settings, earlier=…, range_eV=…, witness=…)

A judgement is the campaign's, with its tolerances, and is written into its label files. The label
store keeps what the program said, so that another campaign, or this one with another tolerance,
judges for itself. A label is *rejected* only where it is poison beyond doubt: frames are selected
because they are unusual, and unusual is no fault. What is merely odd is *flagged* and used.

Not for: calculations that fail (`reference`), or forces against energies (`finite_difference`).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.units import kB

from halcyon.config import SanitySettings
from halcyon.labels.reference.base import Status

NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
LEAST_SPREAD_eV_PER_ATOM = 0.02
LEAST_SPREAD_eV_PER_A = 0.05
"""Differences between two methods that agree better than this are not outliers."""


class Witness(Protocol):
    """A cheap method beside the reference."""

    def __call__(self, frame: Atoms) -> tuple[float, np.ndarray] | None:
        """Energy in eV and forces in eV/Å; None where it has nothing to say."""


@dataclass(frozen=True)
class _Said:
    """What there is to hold against other labels of a composition.

    Attributes:
        energy: of the reference, eV.
        shift: energy of the reference minus the witness's, eV; None without one.
        force: root mean square difference of their forces, eV/Å; None without one.
    """

    energy: float
    shift: float | None = None
    force: float | None = None


def xtb_witness() -> Witness:
    """GFN2-xTB as the second witness."""
    from halcyon.config import XtbReference
    from halcyon.labels.reference.xtb import Xtb

    method = Xtb(XtbReference(backend="xtb"))

    def testify(frame: Atoms) -> tuple[float, np.ndarray] | None:
        record = next(method.label([frame], Path(), 1))
        if record.energy is None or record.forces is None:
            return None
        return record.energy, record.forces

    return testify


def energy_range(
    settings: SanitySettings, atoms: int, temperature_K: float, *, reactive: bool
) -> tuple[float, float] | None:
    """How far energies of a composition may lie below and above their median, eV; None: anywhere.

    Potential energy of harmonic atoms is 3/2 k_B T each above the minimum, on average.
    """
    if settings.energy_range_eV is None:
        return None
    low = settings.energy_range_eV + 1.5 * atoms * kB * temperature_K
    high = low + settings.distortion_range_eV_per_atom * atoms
    return low + settings.reaction_range_eV_per_atom * atoms * reactive, high


def judge(
    frames: Sequence[Atoms],
    settings: SanitySettings,
    *,
    earlier: Sequence[Atoms] = (),
    temperature_K: float,
    reactive: bool = False,
    witness: Witness | None = None,
) -> list[Atoms]:
    """Judge good labels.

    Args:
        frames: with their records; those that are not ok pass as they are.
        settings: tolerances.
        earlier: trusted labels of earlier batches.
        temperature_K: highest temperature that frames were sampled at.
        reactive: bonds may break and form for good.
        witness: a second method, if there is one.

    Returns:
        New frames in the same order, with `xtb_shift` and `xtb_force` where the witness had
        something to say. A rejected one has the status `rejected`, a `message` with
        reason and energy, and neither energy nor forces; a flagged one has a `flag`.
    """
    spoken: dict[int, _Said] = {}
    groups: dict[tuple, list[_Said]] = defaultdict(list)
    good = [f for f in (*earlier, *frames) if f.info["status"] == Status.OK]
    for frame in good:
        spoken[id(frame)] = _listen(frame, witness)
        groups[_composition(frame)].append(spoken[id(frame)])
    judged = []
    for frame in frames:
        mine = frame.copy()
        mine.info = dict(frame.info)
        if frame.info["status"] == Status.OK:
            said = spoken[id(frame)]
            if said.shift is not None and said.force is not None:
                mine.info |= {"xtb_shift": said.shift, "xtb_force": said.force}
            limit = energy_range(settings, len(frame), temperature_K, reactive=reactive)
            peers = groups[_composition(frame)]
            fault, flag = _net_force(frame, settings), ""
            if not fault and len(peers) >= settings.least_labels:
                fault, flag = _against(said, peers, len(frame), limit, settings)
            if fault:
                mine = rejected(mine, fault)
            elif flag:
                mine.info["flag"] = flag
        judged.append(mine)
    return judged


def rejected(frame: Atoms, why: str) -> Atoms:
    """The frame without its label: energy and largest force are told, and kept in the store."""
    force = np.linalg.norm(frame.arrays["forces"], axis=1).max()
    bare = frame.copy()
    bare.info = {k: v for k, v in frame.info.items() if k not in ("energy", "flag")}
    bare.info["status"] = Status.REJECTED.value
    bare.info["message"] = (
        f"{why}. The program said energy {frame.info['energy']:.6f} eV, largest force {force:.3f} "
        "eV/Å; the label store keeps it whole"
    )
    del bare.arrays["forces"]
    return bare


def _composition(frame: Atoms) -> tuple:
    """Frames whose energies may be compared; the sum formula, charge and spin."""
    info = frame.info
    return frame.get_chemical_formula(), info["charge"], info["multiplicity"]


def _listen(frame: Atoms, witness: Witness | None) -> _Said:
    info, energy = frame.info, frame.info["energy"]
    if "xtb_shift" in info and "xtb_force" in info:  # asked when it was new
        return _Said(energy, info["xtb_shift"], info["xtb_force"])
    other = witness(frame) if witness else None
    if other is None:
        return _Said(energy)
    difference = frame.arrays["forces"] - other[1]
    return _Said(energy, energy - other[0], float(np.sqrt(np.mean(difference**2))))


def _net_force(frame: Atoms, settings: SanitySettings) -> str:
    """Say that forces do not sum to zero; empty if they do."""
    if settings.net_force_eV_per_A is None:
        return ""
    net = float(np.linalg.norm(frame.arrays["forces"].sum(axis=0)))
    share = net / np.sqrt(len(frame))
    if share <= settings.net_force_eV_per_A:
        return ""
    return (
        f"forces sum to {net:.3f} eV/Å: {share:.3f} per square root of atoms, expected at most "
        f"{settings.net_force_eV_per_A:g} (sanity.net_force_eV_per_A)"
    )


def _against(
    mine: _Said,
    peers: Sequence[_Said],
    atoms: int,
    limit: tuple[float, float] | None,
    settings: SanitySettings,
) -> tuple[str, str]:
    """Reason to reject and reason to flag; empty where there is none."""
    flags = []
    shifts = [peer.shift for peer in peers if peer.shift is not None]
    confirmed = False
    if mine.shift is not None and mine.force is not None and len(shifts) >= settings.least_labels:
        shift, spread = _centre(shifts, LEAST_SPREAD_eV_PER_ATOM * atoms)
        off = abs(mine.shift - shift)
        confirmed = limit is not None and off <= limit[0]
        if off > settings.xtb_widths * spread:
            flags.append(f"energy {mine.shift - shift:+.2f} eV off GFN2-xTB, usual ± {spread:.2f}")
        usual, spread = _centre([p.force for p in peers if p.force is not None])
        if mine.force - usual > settings.xtb_widths * max(spread, LEAST_SPREAD_eV_PER_A):
            flags.append(f"forces {mine.force:.2f} eV/Å off GFN2-xTB, usually {usual:.2f}")
    if limit is not None:
        middle, spread = _centre([peer.energy for peer in peers])
        low, high = (max(side, settings.energy_widths * spread) for side in limit)
        off = mine.energy - middle
        if not -low <= off <= high:
            said = (
                f"energy {off:+.2f} eV from the median of {len(peers)} labels of its composition, "
                f"expected within -{low:.2f} and +{high:.2f} (sanity.energy_range_eV)"
            )
            if not confirmed:
                return said, ""
            flags.append(f"{said}; GFN2-xTB confirms it")
    return "", "; ".join(flags)


def _centre(values: Sequence[float], least: float = 0.0) -> tuple[float, float]:
    """Median and robust standard deviation (P. J. Huber, Robust Statistics, 1981)."""
    middle = float(np.median(values))
    return middle, max(least, NORMAL * float(np.median(np.abs(np.array(values) - middle))))
