"""Whether a level's forces and stress are slopes of its energy, on frames with a label.

    from halcyon.config import SanitySettings
    from halcyon.labels.finite_difference import check, fault

    slopes = check(compute(frames), compute, SanitySettings(), seed=1)
    fault(slopes)  # None

Forces in another unit, of another state, of an unfinished SCF, or without a term that the energy
has: calculations with such forces converge and look sound. Two more calculations, a little ahead of
the frame and a little behind it along one direction, show the fault. Half of the direction is the
forces' own, so that a wrong scale shows; half is random, so that no atom is left out.

The stress of the most stressed frame is checked alike, by two more calculations of the frame a
little strained: a wrong sign or unit shows. Of a published set nothing can be computed; there,
`stress_in_set` compares frames with others of the same atoms in a slightly different cell.

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
from halcyon.labels.stress import GPA, tensor
from halcyon.verdict.forms import File, Form

STEP_A = 0.01
"""Length of the step, all atoms together, Å. An error of 2e-6 Ha in an energy then makes an error
of 3 meV/Å in the slope; the third derivative of H2's energy makes one of 10 meV/Å."""
RELATIVE = 0.05
"""Part of the slope that is tolerated as an error of the finite step."""
STRAIN = 0.002
"""Norm of the strain, all nine components together. With 300 Å³, an error of 2e-6 Ha in an energy
then makes one of 0.01 GPa in the slope."""
FRAMES_AT_MOST = 2
"""Where the first frame fails, a second is checked: the first may be at a crossing of states."""
FRAMES_TRIED = 3
"""So many frames are tried where the points beside them say nothing."""
LARGEST_CURVATURE_eV_PER_A2 = 3000.0
"""No energy bends more along a direction of all atoms, eV/Å²: bonds have up to 150, atoms pushed
into each other 2000. Where three points bend more, they do not belong to one state: the SCF has
found another solution beside the frame, which says nothing of the forces of the first."""
LARGEST_MODULUS_GPa = 5000.0
"""The same of the energy by strain, per volume, GPa: diamond has 1200 along one direction."""


class Slope(Form):
    """Forces of one frame against its energy."""

    key: str = Field(description="Of the frame.")
    structure: str = Field(description="Start structure of the frame.")
    passed: bool | None = Field(
        description="Whether they agree; null: a calculation beside the frame has no label, or is "
        "of another state."
    )
    force: float = Field(description="Force along the direction, eV/Å.")
    slope: float | None = Field(
        description="Minus the difference of the two energies over the distance between the "
        "points, eV/Å; null: a calculation beside the frame has no label."
    )
    allowed: float = Field(description="Difference that is tolerated, eV/Å.")
    core_seconds: float = Field(description="Paid for the two calculations.")
    message: str = Field(description="The result in words.")


class StrainSlope(Form):
    """Stress of one frame against its energy."""

    key: str = Field(description="Of the frame.")
    structure: str = Field(description="Start structure of the frame.")
    passed: bool | None = Field(
        description="Whether they agree; null: a calculation beside the frame has no label, or is "
        "of another state, or the stress is too small to tell."
    )
    stress_GPa: float = Field(description="Stress along the strain, tension positive.")
    slope_GPa: float | None = Field(
        description="Difference of the two energies over the strain between the points and the "
        "volume; null: a calculation beside the frame has no label."
    )
    allowed_GPa: float = Field(description="Difference that is tolerated.")
    core_seconds: float = Field(description="Paid for the two calculations.")
    message: str = Field(description="The result in words.")


class CheckedForces(File):
    """The file of a label job with the frames whose forces and stresses it checked."""

    REMEDY: ClassVar[str] = (
        "Delete this file: only the cost of these checks is then missing from the accounts."
    )

    slopes: tuple[Slope, ...] = ()
    strains: tuple[StrainSlope, ...] = ()

    @property
    def checks(self) -> list[Slope | StrainSlope]:
        """All checks, of forces and of stresses."""
        return [*self.slopes, *self.strains]

    @property
    def core_seconds(self) -> float:
        """Paid for all calculations beside the frames."""
        return sum(check.core_seconds for check in self.checks)


def check(
    frames: Sequence[Atoms],
    compute: Callable[[list[Atoms]], list[Atoms]],
    settings: SanitySettings,
    *,
    seed: int,
) -> list[Slope]:
    """Check one frame; where it fails, another one; where it cannot be told, up to three.

    Args:
        frames: good labels to draw from.
        compute: labels frames, e.g. `Labeller.label`; it is called with two at a time.
        settings: tolerance.
        seed: the same seed draws the same frame and direction, so that nothing is paid twice.

    Returns:
        A slope of each frame that was tried; none where there are no frames.
    """
    slopes: list[Slope] = []
    for number in np.random.default_rng(seed).permutation(len(frames))[:FRAMES_TRIED]:
        slopes.append(_slope(frames[number], compute, settings, seed))
        if slopes[-1].passed or [s.passed for s in slopes].count(False) == FRAMES_AT_MOST:
            break
    return slopes


def check_stress(
    frames: Sequence[Atoms],
    compute: Callable[[list[Atoms]], list[Atoms]],
    settings: SanitySettings,
    *,
    seed: int,
) -> list[StrainSlope]:
    """Check the most stressed frame; where it fails, the next.

    Args:
        frames: good labels; those without a stress are passed over.
        compute: as for `check`.
        settings: tolerance.
        seed: the same seed draws the same strain.

    Returns:
        One slope, or two; none where no frame has a stress.
    """
    stressed = [frame for frame in frames if "stress" in frame.info]
    stressed.sort(key=lambda f: (-float(np.linalg.norm(tensor(f.info["stress"]))), f.info["key"]))
    slopes: list[StrainSlope] = []
    for frame in stressed[:FRAMES_AT_MOST]:
        slopes.append(_strain_slope(frame, compute, settings, seed))
        if slopes[-1].passed is not False:
            break
    return slopes


def fault(slopes: Sequence[Slope | StrainSlope]) -> str | None:
    """Why the level as a whole cannot be trusted: two frames failed; None otherwise.

    Args:
        slopes: all of forces, or all of stresses.
    """
    failed = [slope for slope in slopes if slope.passed is False]
    if len(failed) < FRAMES_AT_MOST:
        return None
    if isinstance(failed[0], StrainSlope):
        return (
            f"the stress is not the slope of the energy by strain on {len(failed)} of "
            f"{len(failed)} frames: {failed[0].message}. Is its sign tension positive, and its "
            "unit eV/Å³? Correct the level of theory; if its energies jump where the cell "
            "changes, refine its grid or raise sanity.stress_error_GPa; or do without stress "
            "(training.stress_weight = 0)"
        )
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
        bend = abs(ahead.info["energy"] + behind.info["energy"] - 2 * frame.info["energy"])
        if not passed and bend > LARGEST_CURVATURE_eV_PER_A2 * STEP_A**2:
            passed = None
            message += f"; {_off_line(bend)} of its forces"
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


def _off_line(bend: float) -> str:
    return (
        f"its energy and those beside it lie {bend:.2f} eV off a line: they are of different "
        "states, and say nothing"
    )


def _strain_slope(
    frame: Atoms,
    compute: Callable[[list[Atoms]], list[Atoms]],
    settings: SanitySettings,
    seed: int,
) -> StrainSlope:
    stress = tensor(frame.info["stress"])
    random = np.random.default_rng([seed, len(frame)]).normal(size=(3, 3))
    direction = (random + random.T) / np.linalg.norm(random + random.T)
    if (size := np.linalg.norm(stress)) > 0:
        direction = direction + stress / size
    direction /= np.linalg.norm(direction)
    points = []
    for sign in (1, -1):
        point = structure_only(frame)
        point.set_cell(frame.cell.array @ (np.eye(3) + sign * STRAIN * direction), scale_atoms=True)
        point.info |= {"reason": f"finite strain of {frame.info['key']}"}
        points.append(point)
    ahead, behind = compute(points)
    along = float((stress * direction).sum()) / GPA
    passed, slope, allowed = None, None, settings.stress_error_GPa
    unlabelled = [point for point in (ahead, behind) if point.info["status"] != Status.OK]
    if unlabelled:
        info = unlabelled[0].info
        message = f"no label beside it: {info['status']}: {info['message']}"
    else:
        difference = ahead.info["energy"] - behind.info["energy"]
        slope = difference / (2 * STRAIN * frame.get_volume()) / GPA
        allowed += RELATIVE * abs(slope)
        error = abs(along - slope)
        message = (
            f"stress {along:.3f} GPa along a strain, slope of the energy {slope:.3f}: {error:.3f} "
            f"apart, expected at most {allowed:.3f}"
        )
        bend = abs(ahead.info["energy"] + behind.info["energy"] - 2 * frame.info["energy"])
        bound = LARGEST_MODULUS_GPa * GPA * STRAIN**2 * frame.get_volume()
        if error > allowed and bend > bound:
            message += f"; {_off_line(bend)} of its stress"
        elif error > allowed:
            passed = False
        elif abs(slope) > allowed / 2:  # else a stress of the wrong sign would pass, too
            passed = True
        else:
            message += "; the stress is too small to tell its sign"
    return StrainSlope(
        key=frame.info["key"],
        structure=frame.info["structure"],
        passed=passed,
        stress_GPa=along,
        slope_GPa=slope,
        allowed_GPa=allowed,
        core_seconds=ahead.info["paid"] + behind.info["paid"],
        message=message,
    )


FEWEST_PAIRS = 3
"""Pairs of a set that say whether its stress is right."""
MOST_FRAMES = 100
"""Frames of one composition that are compared, each with each."""
LARGEST_STRAIN = 0.05
CURVED = 2.0
"""A pair counts where the energy by the curvature of displacements, which the trapezoidal rule
covers, is at most so many times the energy by strain: what it leaves is smaller, but grows with it.
"""
EXPLAINED = 0.8
"""Part of the energies by strain that some scale of the stress must explain."""
SCALE_OFF = 0.2
"""So far the scale of a right stress may be from 1."""


class StressScale(Form):
    """By what factor the stress of a set explains its energies in different cells."""

    scale: float | None = Field(description="1: right; -1: wrong sign; null: not enough data.")
    pairs: int = Field(description="Pairs of frames with different cells that were compared.")

    @property
    def wrong(self) -> bool:
        """Whether the stress cannot be the slope of the set's own energies."""
        return self.scale is not None and abs(self.scale - 1) > SCALE_OFF


def stress_in_set(frames: Sequence[Atoms]) -> StressScale:
    """Compare the stress of a set with its energies in different cells.

    Between two frames of the same atoms, with forces F, strain ε and displacements u at constant
    fractional coordinates of the cell, the energy changes by -(F₁ + F₂) · u / 2 +
    (V₁σ₁ + V₂σ₂) : ε / 2, but for terms of third order (trapezoidal rule). What forces leave
    unexplained is fitted by the second term.

    Args:
        frames: with energies, forces and stresses; frames of the same atoms must list them in the
            same order. Only near frames say anything: strained or scaled copies, or successive
            frames at constant pressure.
    """
    groups: dict[tuple, list[Atoms]] = {}
    for frame in frames:
        if "stress" in frame.info:
            identity = (*frame.numbers.tolist(), frame.info["charge"], frame.info["multiplicity"])
            groups.setdefault(identity, []).append(frame)
    by_strain, unexplained = [], []
    for group in groups.values():
        some = group[:: -(-len(group) // MOST_FRAMES)]
        for i, first in enumerate(some):
            for second in some[i + 1 :]:
                pair = _energies_between(first, second)
                if pair is not None:
                    unexplained.append(pair[0])
                    by_strain.append(pair[1])
    if len(by_strain) < FEWEST_PAIRS:
        return StressScale(scale=None, pairs=len(by_strain))
    x, y = np.array(by_strain), np.array(unexplained)
    scale = float((x * y).sum() / (x * x).sum()) if x.any() else 0.0
    explained = 1 - ((y - scale * x) ** 2).sum() / (y * y).sum()
    return StressScale(scale=scale if explained > EXPLAINED else None, pairs=len(x))


def _energies_between(first: Atoms, second: Atoms) -> tuple[float, float] | None:
    """Energy that forces do not explain, and what the stress says of it, eV.

    None where the cells are alike or very different, or displacements count for more.
    """
    deformation = np.linalg.solve(first.cell.array, second.cell.array)
    strain = (deformation + deformation.T) / 2 - np.eye(3)
    size = np.linalg.norm(strain)
    if not 1e-6 < size < LARGEST_STRAIN:
        return None
    moved = second.get_scaled_positions(wrap=False) - first.get_scaled_positions(wrap=False)
    moved -= np.round(moved)
    displacement = moved @ (first.cell.array + second.cell.array) / 2
    before, after = first.arrays["forces"], second.arrays["forces"]
    energy = second.info["energy"] - first.info["energy"]
    unexplained = energy + float(((before + after) * displacement).sum()) / 2
    curvature = abs(float(((after - before) * displacement).sum())) / 2
    if curvature > CURVED * abs(unexplained):
        return None
    virial = sum(f.get_volume() * tensor(f.info["stress"]) for f in (first, second)) / 2
    return unexplained, float((virial * strain).sum())


def _direction(forces: np.ndarray, seed: int) -> np.ndarray:
    """Unit vector of all atoms together, shape (N, 3)."""
    random = np.random.default_rng([seed, len(forces)]).normal(size=forces.shape)
    direction = random / np.linalg.norm(random)
    if (size := np.linalg.norm(forces)) > 0:
        direction = direction + forces / size
    return direction / np.linalg.norm(direction)
