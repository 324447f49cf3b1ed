"""Whether a level's forces are the slope of its energy, on a frame drawn at random.

    slopes = check(good_frames, compute, settings, seed=…)

Forces in another unit, of another state, of an unfinished SCF, or without a term that the energy
has: all of these converge and look sound. Two more calculations, a little ahead of and behind the
frame along one direction, tell. Half of the direction is the forces' own (so that their scale
shows), half is random (so that no atom is left out).

Not for: judging labels one by one (`sanity`); this is about the level of theory.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms

from halcyon.config import SanitySettings
from halcyon.frames import structure_only
from halcyon.labels.reference.base import Status

STEP_A = 0.01
"""Length of the step, all atoms together, Å. An error of 2e-6 Ha of an energy is then one of
3 meV/Å; the third derivative of H2 is one of 10 meV/Å."""
RELATIVE = 0.05
"""Part of the slope that the step may cost."""
FRAMES_AT_MOST = 2
"""A second frame is looked at where the first one fails: one may sit on a crossing of states."""


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Forces of one frame against its energy.

    Attributes:
        key: of the frame.
        structure: its structure.
        passed: whether they agree; None: a calculation beside the frame has no label.
        force: force along the direction, eV/Å.
        slope: minus the difference of energies over the way, eV/Å; None as above.
        allowed: difference that is tolerated, eV/Å.
        core_seconds: paid for the two calculations.
        message: what was found, in words.
    """

    key: str
    structure: str
    passed: bool | None
    force: float
    slope: float | None
    allowed: float
    core_seconds: float
    message: str

    @property
    def as_json(self) -> dict[str, Any]:
        """All of it, for a file."""
        return asdict(self)


def check(
    frames: Sequence[Atoms],
    compute: Callable[[list[Atoms]], list[Atoms]],
    settings: SanitySettings,
    *,
    seed: int,
) -> list[Slope]:
    """Check one frame; where it fails, another one.

    Args:
        frames: good labels to draw from.
        compute: labels frames, see `labels.label_frames`; it is asked for two at a time.
        settings: tolerance.
        seed: the same seed draws the same frame and direction, so that nothing is paid twice.

    Returns:
        One slope, or two; none where there are no frames. The level is at fault if two failed.
    """
    found: list[Slope] = []
    for number in np.random.default_rng(seed).permutation(len(frames))[:FRAMES_AT_MOST]:
        found.append(_slope(frames[number], compute, settings, seed))
        if found[-1].passed:
            break
    return found


def fault(slopes: Sequence[Slope]) -> str | None:
    """Why the level as a whole is not to be trusted; None if nothing says so."""
    failed = [slope for slope in slopes if slope.passed is False]
    if len(failed) < FRAMES_AT_MOST:
        return None
    return (
        f"forces are not the slope of the energy on {len(failed)} of {len(failed)} frames: "
        f"{failed[0].message}. Mend the level of theory; noise that you know of goes into "
        "sanity.force_error_eV_per_A"
    )


def _slope(
    frame: Atoms,
    compute: Callable[[list[Atoms]], list[Atoms]],
    settings: SanitySettings,
    seed: int,
) -> Slope:
    forces = frame.arrays["forces"]
    direction = _direction(forces, seed)
    points = []
    for sign in (1, -1):
        point = structure_only(frame)
        point.positions += sign * STEP_A * direction
        point.info |= {"reason": f"finite difference of {frame.info['key']}"}
        points.append(point)
    ahead, behind = compute(points)
    force = float((forces * direction).sum())
    told = {
        "key": frame.info["key"],
        "structure": frame.info["structure"],
        "force": force,
        "core_seconds": ahead.info["paid"] + behind.info["paid"],
    }
    if bad := [one for one in (ahead, behind) if one.info["status"] != Status.OK]:
        message = f"no label beside it: {bad[0].info['status']}: {bad[0].info['message']}"
        allowed = settings.force_error_eV_per_A
        return Slope(passed=None, slope=None, allowed=allowed, message=message, **told)
    slope = (behind.info["energy"] - ahead.info["energy"]) / (2 * STEP_A)
    allowed = settings.force_error_eV_per_A + RELATIVE * abs(slope)
    error = abs(force - slope)
    message = (
        f"force {force:.4f} eV/Å, slope of the energy {slope:.4f}: {error:.4f} apart, expected at "
        f"most {allowed:.4f}"
    )
    passed = error <= allowed
    return Slope(passed=passed, slope=slope, allowed=allowed, message=message, **told)


def _direction(forces: np.ndarray, seed: int) -> np.ndarray:
    """Unit vector of all atoms together, shape (N, 3)."""
    random = np.random.default_rng([seed, len(forces)]).normal(size=forces.shape)
    direction = random / np.linalg.norm(random)
    if (size := np.linalg.norm(forces)) > 0:
        direction = direction + forces / size
    return direction / np.linalg.norm(direction)
