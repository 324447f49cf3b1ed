"""Whether a label that the program calls good can be trusted.

    from halcyon.config import SanitySettings
    from halcyon.labels.sanity import judge, xtb_witness

    judged = judge(frames, SanitySettings(), temperature_K=500.0, witness=xtb_witness())
    messages = [f.info["message"] for f in judged if f.info["status"] == "rejected"]

1. Forces that do not sum to zero reject a label.
2. Where there are enough labels of its composition, its energy must lie in a range around their
   median. An energy outside rejects the label, unless GFN2-xTB has such an energy, too.
3. A label whose difference to GFN2-xTB is unusual is *flagged*, and used.

A label is rejected only where it is certainly wrong: frames are selected because they are unusual,
and an unusual label is no fault. A campaign judges with its own tolerances and writes the result
into its label files. The label store keeps the program's label, so that another campaign, or this
one with other tolerances, judges for itself.

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
"""Standard deviation of a normal distribution, divided by its median absolute deviation."""
LEAST_SPREAD_eV_PER_ATOM = 0.02
LEAST_SPREAD_eV_PER_A = 0.05
"""Least spread of energies and of forces between two methods that counts: where they agree better,
a small difference is no outlier."""


class Witness(Protocol):
    """A cheap second method."""

    def __call__(self, frame: Atoms) -> tuple[float, np.ndarray] | None:
        """Energy in eV and forces in eV/Å, shape (N, 3); None where it cannot compute them."""


@dataclass(frozen=True)
class _Evidence:
    """The numbers by which a label is compared with others of its composition.

    Attributes:
        energy: of the reference, eV.
        shift: energy of the reference minus that of the witness, eV; None without a witness.
        force: root mean square difference between the forces of both, eV/Å; None without a witness.
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
    """How far energies of a composition may lie below and above their median, eV.

    The potential energy of harmonic atoms is on average 3/2 k_B T per atom above the minimum.

    Args:
        settings: the ranges, per system and per atom.
        atoms: number of atoms.
        temperature_K: highest temperature that frames were sampled at.
        reactive: whether bonds break and form for good.

    Returns:
        Range below and range above the median; None where any energy is accepted.
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
        reactive: whether bonds break and form for good.
        witness: a second method, if there is one.

    Returns:
        New frames in the same order, with `xtb_shift` and `xtb_force` where the witness could
        compute them. A rejected one has the status `rejected`, a `message` with reason and energy,
        and neither energy nor forces; a flagged one has a `flag`.
    """
    evidence: dict[int, _Evidence] = {}
    groups: dict[tuple, list[_Evidence]] = defaultdict(list)
    good = [f for f in (*earlier, *frames) if f.info["status"] == Status.OK]
    for frame in good:
        evidence[id(frame)] = _evidence(frame, witness)
        groups[_composition(frame)].append(evidence[id(frame)])
    judged = []
    for frame in frames:
        result = frame.copy()
        result.info = dict(frame.info)
        if frame.info["status"] == Status.OK:
            own, peers = evidence[id(frame)], groups[_composition(frame)]
            if own.shift is not None and own.force is not None:
                result.info |= {"xtb_shift": own.shift, "xtb_force": own.force}
            limit = energy_range(settings, len(frame), temperature_K, reactive=reactive)
            fault, flag = _net_force(frame, settings), ""
            if not fault and len(peers) >= settings.least_labels:
                fault, flag = _compared(own, peers, len(frame), limit, settings)
            if fault:
                result = rejected(result, fault)
            elif flag:
                result.info["flag"] = flag
        judged.append(result)
    return judged


def rejected(frame: Atoms, why: str) -> Atoms:
    """The frame without its label; energy and largest force stand in the message."""
    force = np.linalg.norm(frame.arrays["forces"], axis=1).max()
    bare = frame.copy()
    bare.info = {k: v for k, v in frame.info.items() if k not in ("energy", "stress", "flag")}
    bare.info["status"] = Status.REJECTED.value
    bare.info["message"] = (
        f"{why}. The rejected label: energy {frame.info['energy']:.6f} eV, largest force "
        f"{force:.3f} eV/Å; it stays in the label store"
    )
    del bare.arrays["forces"]
    return bare


def _composition(frame: Atoms) -> tuple:
    """Sum formula, charge and multiplicity: frames that share them have comparable energies."""
    info = frame.info
    return frame.get_chemical_formula(), info["charge"], info["multiplicity"]


def _evidence(frame: Atoms, witness: Witness | None) -> _Evidence:
    info, energy = frame.info, frame.info["energy"]
    if "xtb_shift" in info and "xtb_force" in info:  # compared in an earlier batch
        return _Evidence(energy, info["xtb_shift"], info["xtb_force"])
    other = witness(frame) if witness else None
    if other is None:
        return _Evidence(energy)
    difference = frame.arrays["forces"] - other[1]
    return _Evidence(energy, energy - other[0], float(np.sqrt(np.mean(difference**2))))


def _net_force(frame: Atoms, settings: SanitySettings) -> str:
    """Reason to reject forces that do not sum to zero; empty if they do."""
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


def _compared(
    own: _Evidence,
    peers: Sequence[_Evidence],
    atoms: int,
    limit: tuple[float, float] | None,
    settings: SanitySettings,
) -> tuple[str, str]:
    """Compare a label with others of its composition.

    Args:
        own: of the label.
        peers: of all labels of its composition, its own among them.
        atoms: number of atoms.
        limit: from `energy_range`.
        settings: tolerances.

    Returns:
        Reason to reject it and reason to flag it; empty where there is none.
    """
    flags = []
    shifts = [peer.shift for peer in peers if peer.shift is not None]
    confirmed = False
    if own.shift is not None and own.force is not None and len(shifts) >= settings.least_labels:
        shift, spread = _centre(shifts, LEAST_SPREAD_eV_PER_ATOM * atoms)
        off = abs(own.shift - shift)
        confirmed = limit is not None and off <= limit[0]
        if off > settings.xtb_widths * spread:
            flags.append(f"energy {own.shift - shift:+.2f} eV off GFN2-xTB, usual ± {spread:.2f}")
        usual, spread = _centre([p.force for p in peers if p.force is not None])
        if own.force - usual > settings.xtb_widths * max(spread, LEAST_SPREAD_eV_PER_A):
            flags.append(f"forces {own.force:.2f} eV/Å off GFN2-xTB, usually {usual:.2f}")
    if limit is not None:
        middle, spread = _centre([peer.energy for peer in peers])
        low, high = (max(side, settings.energy_widths * spread) for side in limit)
        off = own.energy - middle
        if not -low <= off <= high:
            outlier = (
                f"energy {off:+.2f} eV from the median of {len(peers)} labels of its composition, "
                f"expected within -{low:.2f} and +{high:.2f} (sanity.energy_range_eV)"
            )
            if not confirmed:
                return outlier, ""
            flags.append(f"{outlier}; GFN2-xTB confirms it")
    return "", "; ".join(flags)


def _centre(values: Sequence[float], least: float = 0.0) -> tuple[float, float]:
    """Median, and robust standard deviation or `least` if that is larger.

    Source: P. J. Huber, Robust Statistics, 1981.
    """
    middle = float(np.median(values))
    return middle, max(least, NORMAL * float(np.median(np.abs(np.array(values) - middle))))
