"""What the teacher teaches: frames of its dynamics, and frames up against the potential's walls.

    from halcyon.config import TeacherSettings
    from halcyon.teacher.sampling import sample

    frames, counts = sample(teacher, start, TeacherSettings(md_frames=20), seed=1)
    counts["md"]  # 20

Each frame says in `info["origin"]` how it was made:

| origin | how |
|---|---|
| `md` | Langevin dynamics at one of several temperatures |
| `displaced` | such a frame with Gaussian noise on every atom |
| `stretched` | one of its bonds at 0.7 to 1.5 times its length, what hangs on it moved along |
| `contact` | two of its atoms that are not bonded pushed together, the rest giving way |
| `dissociated` | one of its bonds at 1.5 to 2.5 times its length: as far as the force cap lets it |

The dynamics come first: reference labels are drawn from them.

Not for: labels of a reference (see `reference`).
"""

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
from halcyon.teacher.dynamics import Run, positions_of
from halcyon.teacher.forcefield import NM, Teacher

ORIGINS = ("md", "displaced", "stretched", "contact", "dissociated")
STRETCH = (0.7, 1.5)
"""Range of a stretched bond, in lengths that it had."""
DISSOCIATION = (1.5, 2.5)
"""Range of a bond that is pulled apart, in lengths that it had."""
CONTACT = (0.3, 0.7)
"""Range of a close contact, in van der Waals distances, or in the pair's own if it is closer."""
CONTACT_BONDS = 4
"""Two atoms can be pushed together if so many bonds lie between them, or fewer if none have."""
CONTACT_REACH_A = 6.0
"""Two atoms further apart are not pushed together, Å."""
SPRING_KJ_PER_NM2 = 2e5
"""Pushes two atoms together, kJ/mol/nm²: about 20 eV/Å², so that it is not the bonds that give."""
SPRING_ITERATIONS = 30


def sample(
    teacher: Teacher,
    start: Atoms,
    settings: TeacherSettings,
    *,
    seed: int,
    saved: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[list[Atoms], dict[str, int]]:
    """Draw and label frames.

    The same seed gives the same frames, bit for bit, on one machine, also where the process was
    killed and called again with the same `saved`: there, the dynamics go on. One core is used.

    Args:
        teacher: the force field.
        start: where the dynamics start, after a minimisation.
        settings: how many frames of which origin, at which temperatures, how far displaced.
        seed: of all random numbers.
        saved: folder where the dynamics' state is kept and found again; None: nowhere.
        progress: called with frames done and frames asked; may raise to stop.

    Returns:
        Labelled frames with `info` energy (eV), origin and, for `md`, temperature (K) and time
        since equilibration (ps), and `arrays["forces"]` (eV/Å). And counts: frames kept by
        origin, and frames dropped (`force_cap`, `not_finite`, `duplicate`).

    Raises:
        InputError: the dynamics blow up.
    """
    runs = len(settings.temperatures_K)
    total = sum(getattr(settings, f"{origin}_frames") for origin in ORIGINS)
    seeds = np.random.SeedSequence(seed).spawn(runs + 4)
    displacing, stretching, touching, parting = (np.random.default_rng(s) for s in seeds[runs:])
    dynamics: list[Atoms] = []
    for run, temperature in enumerate(settings.temperatures_K):
        drawn = Run(
            teacher,
            start,
            temperature,
            interval_fs=settings.md_interval_fs,
            seed=seeds[run],
            saved=saved,
        )
        try:
            for _ in range(run, settings.md_frames, runs):
                dynamics.append(next(drawn))
                progress(len(dynamics), total)
        finally:
            drawn.save()
    frames = [
        *dynamics,
        *_displaced(dynamics, settings, displacing),
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
    return _kept(frames, energies, forces, settings)


def _kept(
    frames: Sequence[Atoms], energies: np.ndarray, forces: np.ndarray, settings: TeacherSettings
) -> tuple[list[Atoms], dict[str, int]]:
    """Frames worth teaching, and the fate of all."""
    kept: list[Atoms] = []
    asked = {"md", *(o for o in ORIGINS if getattr(settings, f"{o}_frames"))}
    fates = dict.fromkeys([o for o in ORIGINS if o in asked], 0)
    counts = fates | {"force_cap": 0, "not_finite": 0, "duplicate": 0}
    seen = _Seen(settings.min_difference_A)
    for frame, energy, force in zip(frames, energies, forces, strict=True):
        if not (np.isfinite(energy) and np.isfinite(force).all()):
            counts["not_finite"] += 1
        elif np.linalg.norm(force, axis=1).max() > settings.force_cap_eV_per_A:
            counts["force_cap"] += 1
        elif not seen.is_new(frame):
            counts["duplicate"] += 1
        else:
            counts[frame.info["origin"]] += 1
            frame.info["energy"] = float(energy)
            frame.arrays["forces"] = force
            kept.append(frame)
    return kept, counts


class _Seen:
    """Interatomic distances of the frames that were kept."""

    def __init__(self, least: float) -> None:
        self.least = least
        self.means: list[float] = []
        self.distances: list[np.ndarray] = []

    def is_new(self, frame: Atoms) -> bool:
        """Whether a frame differs from all before it; then it is one of them."""
        mine = pair_distances(frame)
        if self.least and len(mine):
            # |mean difference| ≤ root mean square: most frames are told apart by one number.
            near = np.flatnonzero(np.abs(np.array(self.means) - mine.mean()) < self.least)
            for index in near:
                if rms_difference(mine, self.distances[index]) < self.least:
                    return False
            self.means.append(float(mine.mean()))
            self.distances.append(mine)
        return True


def _displaced(
    frames: Sequence[Atoms], settings: TeacherSettings, random: np.random.Generator
) -> list[Atoms]:
    """Copies of frames drawn with replacement, each with its own width of Gaussian noise."""
    displaced = []
    for _ in range(settings.displaced_frames):
        frame = _copy(frames, random, "displaced")
        width = random.uniform(*settings.displacement_A)
        frame.positions += random.normal(scale=width, size=frame.positions.shape)
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

    Both sides of the bond move as they are. A bond in a ring has no two sides: there only its two
    atoms move.
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
        # The lighter side moves more: a hydrogen leaves the molecule, not the molecule it.
        part = len(first) / (len(first) + len(second))
        frame.positions[first] -= (1 - part) * (factor - 1) * vector
        frame.positions[second] += part * (factor - 1) * vector
        pulled.append(frame)
    return pulled


def _sides(teacher: Teacher, bond: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Atoms on each side of a bond."""
    steps = _bonds_between(teacher, without=bond)
    first, second = (np.flatnonzero(np.isfinite(steps[atom])) for atom in bond)
    if bond[1] in first:
        return np.array([bond[0]]), np.array([bond[1]])
    return first, second


def _bonds_between(teacher: Teacher, without: tuple[int, int] | None = None) -> np.ndarray:
    """Number of bonds on the shortest way between two atoms, shape (N, N); infinite: none."""
    number = len(teacher.numbers)
    i, j = np.array([b for b in teacher.bonds if b != without], dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(number, number))
    steps: np.ndarray = shortest_path(graph.tocsr(), directed=False, unweighted=True)
    return steps


def _contacts(
    teacher: Teacher, frames: Sequence[Atoms], number: int, random: np.random.Generator
) -> list[Atoms]:
    """Copies of frames with two atoms that are not bonded pushed together by a spring.

    A few steps of minimisation let the rest give way, so that the wall that is taught is that of
    the contact, and not of the bonds around it.
    """
    steps = _bonds_between(teacher)
    apart = steps[np.triu_indices(len(steps), k=1)]
    furthest = apart.max(initial=0)
    if furthest < 2 or not number:
        return []  # no two atoms that are not bonded
    least = min(CONTACT_BONDS, furthest)
    drawn = []
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
            drawn.append((frame, i, j, target))

    place = np.argsort(teacher.order)
    springs = openmm.CustomBondForce("0.5*k*(r-r0)^2")
    springs.addPerBondParameter("k")
    springs.addPerBondParameter("r0")
    springs.setUsesPeriodicBoundaryConditions(teacher.periodic)
    for _, i, j, target in drawn:
        springs.addBond(int(place[i]), int(place[j]), [0.0, target / NM])
    # A copy: the teacher's own system labels the frames, without springs.
    system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(teacher.system))
    system.addForce(springs)
    context = teacher.context(openmm.VerletIntegrator(TEACHER_TIMESTEP_FS / 1000), system)
    for index, (frame, *_) in enumerate(drawn):
        for other, strength in ((index - 1, 0.0), (index, SPRING_KJ_PER_NM2)):
            if other >= 0:
                a, b, (_, length) = springs.getBondParameters(other)
                springs.setBondParameters(other, a, b, [strength, length])
        springs.updateParametersInContext(context)
        rotation = teacher.place(context, frame)
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=SPRING_ITERATIONS)
        frame.positions[teacher.order] = positions_of(context) @ rotation
    return [frame for frame, *_ in drawn]


def _copy(frames: Sequence[Atoms], random: np.random.Generator, origin: str) -> Atoms:
    """A frame drawn with replacement, without labels."""
    frame = structure_only(frames[int(random.integers(len(frames)))])
    frame.info["origin"] = origin
    return frame


def _vector(frame: Atoms, i: int, j: int) -> np.ndarray:
    """From atom i to atom j, the short way over boundaries, Å, shape (3,)."""
    straight = frame.positions[j] - frame.positions[i]
    nearest: np.ndarray = find_mic(straight, frame.cell, frame.pbc)[0]
    return nearest
