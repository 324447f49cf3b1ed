"""Frames to pre-train on: the teacher's dynamics, and frames near the walls of its potential.

    from halcyon.config import TeacherSettings
    from halcyon.teacher.sampling import sample

    frames, counts = sample(teacher, start, TeacherSettings(md_frames=20), seed=1)
    counts["md"]  # 20

Each frame says in `info["origin"]` how it was made:

| origin | how |
|---|---|
| `md` | Langevin dynamics at one of several temperatures |
| `displaced` | an `md` frame with Gaussian noise on every atom that is not fixed |
| `stretched` | an `md` frame with one bond at 0.7 to 1.5 times its length; both sides stay rigid |
| `contact` | an `md` frame with two non-bonded atoms pushed together while the others relax |
| `dissociated` | an `md` frame with one bond at 1.5 to 2.5 times its length |

A frame with a force above `force_cap_eV_per_A` is dropped, whatever its origin, and so is one that
is larger than its box or has flown apart. The dynamics come
first in the list, because the frames that get a reference label are drawn from them.

Not for: reference labels (see `labels`).
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openmm
from ase import Atoms
from ase.data import covalent_radii, vdw_radii
from ase.geometry import find_mic
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path

from halcyon.config import TeacherSettings
from halcyon.config.learning import TEACHER_TIMESTEP_FS
from halcyon.frames import structure_only
from halcyon.systems.fingerprint import pair_distances, rms_difference
from halcyon.teacher.dynamics import Run
from halcyon.teacher.forcefield import Teacher
from halcyon.teacher.openmm_units import NM
from halcyon.teacher.relaxation import minimise, positions_of

ORIGINS = ("md", "displaced", "stretched", "contact", "dissociated")
STRETCH = (0.7, 1.5)
"""Range of a stretched bond, in multiples of its length in the frame."""
DISSOCIATION = (1.5, 2.5)
"""Range of a dissociated bond, in multiples of its length in the frame."""
CONTACT = (0.3, 0.7)
"""Range of a close contact, in multiples of the pair's van der Waals distance, or of its
distance in the frame if that is shorter."""
CONTACT_BONDS = 4
"""Two atoms are pushed together only if at least so many bonds lie between them; in molecules where
no two atoms are that far apart, those with the most bonds between them."""
CONTACT_REACH_A = 6.0
"""Two atoms further apart than this are not pushed together, Å."""
APART, APART_A = 2.0, 5.0
"""A molecule without a box has flown apart where it is so many times as long as at the start, and
so many Å longer: a dissociated bond is 3 Å longer at most."""
SPRING_KJ_PER_NM2 = 2e5
"""Spring that pushes two atoms together, kJ/mol/nm²: about 20 eV/Å², softer than most bonds, so
that bonds keep their lengths."""
SPRING_ITERATIONS = 30


def sample(
    teacher: Teacher,
    start: Atoms,
    settings: TeacherSettings,
    *,
    seed: int,
    saved: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    warn: Callable[[str], None] = warnings.warn,
) -> tuple[list[Atoms], dict[str, int]]:
    """Draw and label frames.

    The same seed gives the same frames, bit for bit, on one machine, also where the process was
    killed and called again with the same `saved`: the dynamics then continue. One core is used.

    Args:
        teacher: the force field.
        start: where the dynamics start, after a minimisation.
        settings: how many frames of which origin, at which temperatures, how far displaced.
        seed: of all random numbers.
        saved: folder where the dynamics save their state and continue from it; None: no saving.
        progress: called with the numbers of frames done and of all frames; may raise to stop.
        warn: called with a message for people where saved dynamics are damaged.

    Returns:
        Labelled frames with `info` energy (eV), origin and, for `md`, temperature (K) and time
        since equilibration (ps), and `arrays["forces"]` (eV/Å). And counts: frames kept, by
        origin, and frames dropped, by reason (`force_cap`, `not_finite`,
        `too_large`, `duplicate`).

    Raises:
        InputError: the dynamics became unstable.
    """
    runs = len(settings.temperatures_K)
    total = sum(getattr(settings, f"{origin}_frames") for origin in ORIGINS)
    seeds = np.random.SeedSequence(seed).spawn(runs + 4)
    displacing, stretching, touching, parting = (np.random.default_rng(s) for s in seeds[runs:])
    dynamics = _dynamics(
        teacher,
        start,
        settings,
        seeds=seeds[:runs],
        saved=saved,
        report=lambda done: progress(done, total),
        warn=warn,
    )
    frames = [
        *dynamics,
        *_displaced(teacher, dynamics, settings, displacing),
        *_pulled(
            teacher,
            dynamics,
            stretching,
            number=settings.stretched_frames,
            factors=STRETCH,
            origin="stretched",
        ),
        *_contacts(teacher, dynamics, settings.contact_frames, touching),
        *_pulled(
            teacher,
            dynamics,
            parting,
            number=settings.dissociated_frames,
            factors=DISSOCIATION,
            origin="dissociated",
        ),
    ]
    energies, forces = teacher.evaluate(frames)
    progress(total, total)
    return _worth_teaching(start, frames, energies, forces, settings)


def _dynamics(
    teacher: Teacher,
    start: Atoms,
    settings: TeacherSettings,
    *,
    seeds: Sequence[np.random.SeedSequence],
    saved: Path | None,
    report: Callable[[int], None],
    warn: Callable[[str], None],
) -> list[Atoms]:
    """Frames of one run per temperature, which share `md_frames`; saved even if stopped."""
    frames: list[Atoms] = []
    for number, (temperature, seed) in enumerate(zip(settings.temperatures_K, seeds, strict=True)):
        run = Run(
            teacher,
            start,
            temperature,
            interval_fs=settings.md_interval_fs,
            seed=seed,
            saved=saved,
            warn=warn,
        )
        try:
            for _ in range(number, settings.md_frames, len(seeds)):
                frames.append(next(run))
                report(len(frames))
        finally:
            run.save()
    return frames


def _worth_teaching(
    start: Atoms,
    frames: Sequence[Atoms],
    energies: np.ndarray,
    forces: np.ndarray,
    settings: TeacherSettings,
) -> tuple[list[Atoms], dict[str, int]]:
    """The frames to keep, with their labels; and how many were kept and dropped, by reason."""
    kept: list[Atoms] = []
    origins = [o for o in ORIGINS if o == "md" or getattr(settings, f"{o}_frames")]
    counts = dict.fromkeys([*origins, "force_cap", "not_finite", "too_large", "duplicate"], 0)
    earlier = _KeptFrames(settings.min_difference_A)
    largest_A = _largest_A(start)
    for frame, energy, force in zip(frames, energies, forces, strict=True):
        if not (np.isfinite(energy) and np.isfinite(force).all()):
            counts["not_finite"] += 1
        elif np.linalg.norm(force, axis=1).max() > settings.force_cap_eV_per_A:
            counts["force_cap"] += 1
        elif _is_too_large(frame, largest_A):
            counts["too_large"] += 1
        elif not earlier.is_new(frame):
            counts["duplicate"] += 1
        else:
            counts[frame.info["origin"]] += 1
            frame.info["energy"] = float(energy)
            frame.arrays["forces"] = force
            kept.append(frame)
    return kept, counts


def _largest_A(start: Atoms) -> float:  # noqa: N802 (the unit)
    """Longest distance between two atoms that a frame may have, Å; infinite where it is periodic.

    It is the edge of the box, where there is one: the frame would not fit into the box that it is
    labelled in. Without a box, a frame that has flown apart is told by the size of the start.
    """
    if start.pbc.any():
        return np.inf
    if start.cell.rank == 3:
        return float(start.cell.lengths().min())
    return APART * float(pair_distances(start).max(initial=0.0)) + APART_A


def _is_too_large(frame: Atoms, largest_A: float) -> bool:
    return bool(np.isfinite(largest_A) and pair_distances(frame).max(initial=0.0) > largest_A)


class _KeptFrames:
    """The frames that were kept, by their interatomic distances."""

    def __init__(self, min_difference_A: float) -> None:
        self.least = min_difference_A
        self.means: list[float] = []
        self.distances: list[np.ndarray] = []

    def is_new(self, frame: Atoms) -> bool:
        """Whether a frame differs from all frames so far; if it does, it joins them."""
        distances = pair_distances(frame)
        if self.least and len(distances):
            # The difference of two means is at most the root mean square difference, so that the
            # means alone show for most frames that they differ.
            near = np.flatnonzero(np.abs(np.array(self.means) - distances.mean()) < self.least)
            for index in near:
                if rms_difference(distances, self.distances[index]) < self.least:
                    return False
            self.means.append(float(distances.mean()))
            self.distances.append(distances)
        return True


def _displaced(
    teacher: Teacher,
    frames: Sequence[Atoms],
    settings: TeacherSettings,
    random: np.random.Generator,
) -> list[Atoms]:
    """Copies of frames drawn with replacement, each with Gaussian noise of a width drawn for it."""
    displaced = []
    for _ in range(settings.displaced_frames):
        frame = _copy(frames, random, "displaced")
        width = random.uniform(*settings.displacement_A)
        noise = random.normal(scale=width, size=frame.positions.shape)
        frame.positions += np.where(teacher.fixed[:, None], 0.0, noise)
        displaced.append(frame)
    return displaced


def _pulled(
    teacher: Teacher,
    frames: Sequence[Atoms],
    random: np.random.Generator,
    *,
    number: int,
    factors: tuple[float, float],
    origin: str,
) -> list[Atoms]:
    """Copies of frames with one bond drawn at random set to another length.

    Each side of the bond moves as a rigid body. If the bond is part of a ring, it has no two sides,
    and only its two atoms move.
    """
    pulled: list[Atoms] = []
    if not teacher.bonds:
        return pulled
    sides: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    for _ in range(number):
        frame = _copy(frames, random, origin)
        bond = teacher.bonds[int(random.integers(len(teacher.bonds)))]
        factor = random.uniform(*factors)
        if bond not in sides:
            sides[bond] = _sides(teacher, bond)
        first, second = sides[bond]
        vector = _vector(frame, *bond)
        held = [bool(teacher.fixed[side].any()) for side in (first, second)]
        if all(held):
            continue  # no side of the bond may move
        # The side with fewer atoms moves more: a hydrogen leaves the molecule, not the reverse.
        part = len(first) / (len(first) + len(second))
        part = 1.0 if held[0] else 0.0 if held[1] else part
        frame.positions[first] -= (1 - part) * (factor - 1) * vector
        frame.positions[second] += part * (factor - 1) * vector
        pulled.append(frame)
    return pulled


def _sides(teacher: Teacher, bond: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Atoms on each side of a bond; in a ring, the bond's two atoms alone."""
    steps = _bonds_between(teacher, without=bond)
    first, second = (np.flatnonzero(np.isfinite(steps[atom])) for atom in bond)
    if bond[1] in first:
        return np.array([bond[0]]), np.array([bond[1]])
    return first, second


def _bonds_between(teacher: Teacher, without: tuple[int, int] | None = None) -> np.ndarray:
    """Number of bonds on the shortest path between two atoms, shape (N, N); infinite if none."""
    number = len(teacher.numbers)
    i, j = np.array([b for b in teacher.bonds if b != without], dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(number, number))
    steps: np.ndarray = shortest_path(graph.tocsr(), directed=False, unweighted=True)
    return steps


def _contacts(
    teacher: Teacher, frames: Sequence[Atoms], number: int, random: np.random.Generator
) -> list[Atoms]:
    """Copies of frames with two atoms that are not bonded pushed together by a spring.

    A few steps of minimisation let the other atoms relax, so that the frame shows the wall of the
    contact, and not of the bonds around it.
    """
    contacts = _drawn_contacts(teacher, frames, number, random)
    if not contacts:
        return []
    springs = openmm.CustomBondForce("0.5*k*(r-r0)^2")
    springs.addPerBondParameter("k")
    springs.addPerBondParameter("r0")
    springs.setUsesPeriodicBoundaryConditions(teacher.periodic)
    for frame, i, j, target in contacts:
        ends = int(teacher.particles[i]), teacher.nearest(frame, i, j)
        springs.addBond(*ends, [0.0, target / NM])
    # The springs act in a copy: the teacher's own system labels the frames.
    system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(teacher.system))
    system.addForce(springs)
    context = teacher.context(openmm.VerletIntegrator(TEACHER_TIMESTEP_FS / 1000), system)
    pushed = []
    for index, (frame, *_) in enumerate(contacts):
        for other, strength in ((index - 1, 0.0), (index, SPRING_KJ_PER_NM2 * teacher.copies)):
            if other >= 0:
                a, b, (_, length) = springs.getBondParameters(other)
                springs.setBondParameters(other, a, b, [strength, length])
        springs.updateParametersInContext(context)
        rotation = teacher.place(context, frame)
        try:
            minimise(teacher, context, steps=SPRING_ITERATIONS)
        except openmm.OpenMMException:
            if not teacher.program:
                raise
            continue  # the program failed on the way: this contact is left out
        frame.positions = (positions_of(context) @ rotation)[teacher.particles]
        pushed.append(frame)
    return pushed


def _drawn_contacts(
    teacher: Teacher, frames: Sequence[Atoms], number: int, random: np.random.Generator
) -> list[tuple[Atoms, int, int, float]]:
    """Copies of frames, each with two atoms and the distance to push them to, Å.

    A frame without two atoms that may be pushed together is left out.
    """
    steps = _bonds_between(teacher)
    furthest = steps[np.triu_indices(len(steps), k=1)].max(initial=0)
    if furthest < 2:
        return []  # all atoms are bonded to each other
    least = min(CONTACT_BONDS, furthest)
    contacts = []
    for _ in range(number):
        frame = _copy(frames, random, "contact")
        distances = frame.get_all_distances(mic=bool(frame.pbc.any()))
        free = np.triu((steps >= least) & (distances < CONTACT_REACH_A), k=1)
        pairs = np.argwhere(free)
        if len(pairs):
            i, j = pairs[int(random.integers(len(pairs)))].tolist()
            radii = np.nan_to_num(vdw_radii[frame.numbers[[i, j]]], nan=0.0)
            radii = np.where(radii > 0, radii, covalent_radii[frame.numbers[[i, j]]] + 0.8)
            target = min(radii.sum(), distances[i, j]) * random.uniform(*CONTACT)
            contacts.append((frame, i, j, float(target)))
    return contacts


def _copy(frames: Sequence[Atoms], random: np.random.Generator, origin: str) -> Atoms:
    """A frame drawn with replacement, without labels."""
    frame = structure_only(frames[int(random.integers(len(frames)))])
    frame.info["origin"] = origin
    return frame


def _vector(frame: Atoms, i: int, j: int) -> np.ndarray:
    """Vector from atom i to atom j or its nearest periodic image, Å, shape (3,)."""
    straight = frame.positions[j] - frame.positions[i]
    nearest: np.ndarray = find_mic(straight, frame.cell, frame.pbc)[0]
    return nearest
