"""Whether a level's forces are the slope of its energy, on a frame drawn at random.

    from halcyon.config import SanitySettings
    from halcyon.labels.finite_difference import check, fault

    slopes = check(compute(frames), compute, SanitySettings(), seed=1)
    fault(slopes)  # None

Forces in another unit, of another state, of an unfinished SCF, or without a term that the energy
has: calculations with such forces converge and look sound. Two more calculations, a little ahead of
the frame and a little behind it along one direction, show the fault. Half of the direction is the
forces' own, so that a wrong scale shows; half is random, so that no atom is left out.

Not for: judging labels one by one (`sanity`); this is about the level of theory.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from ase import Atoms
from pydantic import Field

from halcyon.config import SanitySettings
from halcyon.frames import structure_only
from halcyon.labels.reference.base import Status
from halcyon.verdict.forms import File, Form

STEP_A = 0.01
"""Length of the step, all atoms together, Å. An error of 2e-6 Ha in an energy then makes an error
of 3 meV/Å in the slope; the third derivative of H2's energy makes one of 10 meV/Å."""
RELATIVE = 0.05
"""Part of the slope that is tolerated as an error of the finite step."""
FRAMES_AT_MOST = 2
"""Where the first frame fails, a second is checked: the first may be at a crossing of states."""


class Slope(Form):
    """Forces of one frame against its energy."""

    key: str = Field(description="Of the frame.")
    structure: str = Field(description="Start structure of the frame.")
    passed: bool | None = Field(
        description="Whether they agree; null: a calculation beside the frame has no label."
    )
    force: float = Field(description="Force along the direction, eV/Å.")
    slope: float | None = Field(
        description="Minus the difference of the two energies over the distance between the "
        "points, eV/Å; null: a calculation beside the frame has no label."
    )
    allowed: float = Field(description="Difference that is tolerated, eV/Å.")
    core_seconds: float = Field(description="Paid for the two calculations.")
    message: str = Field(description="The result in words.")


class CheckedForces(File):
    """The file of a label job with the frames whose forces it checked."""

    REMEDY: ClassVar[str] = (
        "Delete this file: only the cost of these checks is then missing from the accounts."
    )

    slopes: tuple[Slope, ...] = ()


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
        compute: labels frames, e.g. `Labeller.label`; it is called with two at a time.
        settings: tolerance.
        seed: the same seed draws the same frame and direction, so that nothing is paid twice.

    Returns:
        One slope, or two; none where there are no frames.
    """
    slopes: list[Slope] = []
    for number in np.random.default_rng(seed).permutation(len(frames))[:FRAMES_AT_MOST]:
        slopes.append(_slope(frames[number], compute, settings, seed))
        if slopes[-1].passed:
            break
    return slopes


def fault(slopes: Sequence[Slope]) -> str | None:
    """Why the level as a whole cannot be trusted: two frames failed; None otherwise."""
    failed = [slope for slope in slopes if slope.passed is False]
    if len(failed) < FRAMES_AT_MOST:
        return None
    return (
        f"forces are not the slope of the energy on {len(failed)} of {len(failed)} frames: "
        f"{failed[0].message}. Correct the level of theory; if its energies are known to be noisy, "
        "raise sanity.force_error_eV_per_A"
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
    tolerance = settings.force_error_eV_per_A
    unlabelled = [point for point in (ahead, behind) if point.info["status"] != Status.OK]
    if unlabelled:
        passed, slope, allowed = None, None, tolerance
        info = unlabelled[0].info
        message = f"no label beside it: {info['status']}: {info['message']}"
    else:
        slope = (behind.info["energy"] - ahead.info["energy"]) / (2 * STEP_A)
        allowed = tolerance + RELATIVE * abs(slope)
        error = abs(force - slope)
        passed = error <= allowed
        message = (
            f"force {force:.4f} eV/Å, slope of the energy {slope:.4f}: {error:.4f} apart, "
            f"expected at most {allowed:.4f}"
        )
    return Slope(
        key=frame.info["key"],
        structure=frame.info["structure"],
        passed=passed,
        force=force,
        slope=slope,
        allowed=allowed,
        core_seconds=ahead.info["paid"] + behind.info["paid"],
        message=message,
    )


def _direction(forces: np.ndarray, seed: int) -> np.ndarray:
    """Unit vector of all atoms together, shape (N, 3)."""
    random = np.random.default_rng([seed, len(forces)]).normal(size=forces.shape)
    direction = random / np.linalg.norm(random)
    if (size := np.linalg.norm(forces)) > 0:
        direction = direction + forces / size
    return direction / np.linalg.norm(direction)
