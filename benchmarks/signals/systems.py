"""Systems of `signal_truth`, and their frames: what models learn, and what they are judged on.

    system = SYSTEMS["ethanol"]
    frames = frames_of(system, work, data=None)
    frames.train[0].info["energy"]  # eV

All labels are GFN2-xTB's but those of published sets. Water and the ion are droplets in vacuum: a
frame takes GFN2-xTB 0.03 s there, and seconds in a periodic box of the same size.

Not for: the models, or their dynamics (see `visits`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from halcyon.config import (
    DatasetLayout,
    Gaff2ForceField,
    StructureSettings,
    TeacherSettings,
    XmlForceField,
    XtbReference,
)
from halcyon.errors import InputError
from halcyon.frames import read_frames, write_frames
from halcyon.labels.published import read_set
from halcyon.labels.reference.xtb import Xtb
from halcyon.systems.structures import atom_classes, bonds, molecules, start_structure
from halcyon.teacher.forcefield import Teacher, make_teacher
from halcyon.teacher.sampling import sample

ROOT = Path(__file__).resolve().parents[2]
FORCE_FIELDS = ROOT / "config" / "forcefields"
SEED = 20261128
TRAIN, VALIDATION = 100, 20
"""Labels to learn from at most, and held-out ones."""
WATER_VOLUME_A3 = 29.9
"""Of one molecule in the liquid."""
BONDED = 1.3
"""Atoms are bonded where their distance is under so many sums of their covalent radii."""
DATASET = DatasetLayout(energy_unit="kcal/mol")
TEACHER = TeacherSettings(md_frames=300, displaced_frames=110)


@dataclass(frozen=True, kw_only=True)
class System:
    """A system of the benchmark.

    Attributes:
        name: of it, in cells and tables.
        kind: `molecule`, `liquid` or `reactive`: what counts as a failure of its dynamics.
        temperatures_K: at which the model's own dynamics visits frames; none: frames are given.
        labelled_K: temperatures of the force field's dynamics whose frames are labelled.
        smiles: of a molecule.
        waters: molecules in a droplet.
        ion: symbol of an ion in the droplet; empty: none.
        channel: number of the reaction channel in the published set.
        tests: kinds of published frames that models are judged on.
        relabelled: whether published structures get labels of GFN2-xTB, so that what the model's
            dynamics visits can be labelled alike.
        time_ps: of each replica's dynamics, ps; a droplet is slow, and 500 K take it apart.
    """

    name: str
    kind: str = "molecule"
    temperatures_K: tuple[float, ...] = ()
    labelled_K: tuple[float, ...] = (300.0, 500.0)
    smiles: str = ""
    waters: int = 0
    ion: str = ""
    channel: str = ""
    tests: tuple[str, ...] = ()
    relabelled: bool = False
    time_ps: float = 3.0

    @property
    def places(self) -> list[str]:
        """Where its models are judged: temperatures of their dynamics, or published frames."""
        return [*(f"{kelvin:g}K" for kelvin in self.temperatures_K), *self.tests]


SYSTEMS = {
    system.name: system
    for system in (
        System(name="ethanol", smiles="CCO", temperatures_K=(1000.0,)),
        System(name="aspirin", smiles="CC(=O)Oc1ccccc1C(=O)O", temperatures_K=(800.0,)),
        System(
            name="water",
            kind="liquid",
            waters=16,
            time_ps=1.0,
            temperatures_K=(300.0, 500.0),
            labelled_K=(300.0,),
        ),
        System(
            name="sodium",
            kind="liquid",
            waters=12,
            time_ps=1.0,
            ion="Na",
            temperatures_K=(300.0, 500.0),
            labelled_K=(300.0,),
        ),
        System(name="channel-11", kind="reactive", channel="11", tests=("aimd", "nm")),
        System(
            name="channel-11-xtb",
            kind="reactive",
            channel="11",
            relabelled=True,
            temperatures_K=(1500.0,),
        ),
        System(
            name="channel-15-xtb",
            kind="reactive",
            channel="15",
            relabelled=True,
            temperatures_K=(1500.0,),
        ),
        System(name="channel-03", kind="reactive", channel="03", tests=("aimd",)),
        System(name="channel-08", kind="reactive", channel="08", tests=("aimd", "nm")),
        System(name="channel-13", kind="reactive", channel="13", tests=("nm",)),
        System(name="channel-14", kind="reactive", channel="14", tests=("nm",)),
        System(name="channel-15", kind="reactive", channel="15", tests=("nm",)),
    )
}


@dataclass(frozen=True)
class Frames:
    """Frames of a system, all with energy (eV) and forces (eV/Å).

    Attributes:
        teacher: labelled by the force field.
        train: labelled by the reference, in the order in which models take them.
        validation: the same, held out.
        test: by kind, published frames that models are judged on.
        classes: class of every atom, by structure.
        bonds: bonded atoms, by structure.
    """

    teacher: list[Atoms]
    train: list[Atoms]
    validation: list[Atoms]
    test: dict[str, list[Atoms]]
    classes: dict[str, list[str]]
    bonds: dict[str, list[tuple[int, int]]]


def seed_of(*words: object) -> int:
    """A seed that depends on these words only."""
    digest = hashlib.sha256(" ".join(map(str, (SEED, *words))).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def frames_of(system: System, work: Path, data: Path | None) -> Frames:
    """Make the frames of a system, or read what was made before.

    Args:
        system: which.
        work: folder for frames.
        data: folder of the published set, needed for its channels.

    Raises:
        InputError: the published set is needed and not named, or a label failed.
    """
    work.mkdir(parents=True, exist_ok=True)
    if system.channel:
        return _published(system, work, data)
    start, pairs = start_of(system)
    taught, labelled = work / f"{system.name}-teacher.parquet", work / f"{system.name}.parquet"
    if not taught.exists():
        write_frames(taught, _taught(system, work))
    if not labelled.exists():
        write_frames(labelled, with_reference(system, work, TRAIN + VALIDATION))
    known = read_frames(labelled)
    classes = atom_classes(start, pairs, "symmetry" if system.smiles else "element")
    return Frames(
        teacher=read_frames(taught),
        train=known[VALIDATION:],
        validation=known[:VALIDATION],
        test={},
        classes={system.name: classes, "molecule": ["O", "H", "H"]},
        bonds={system.name: pairs, "molecule": [(0, 1), (0, 2)]},
    )


def start_of(system: System) -> tuple[Atoms, list[tuple[int, int]]]:
    """A start structure and its bonds."""
    if system.smiles:
        settings = StructureSettings(name=system.name, smiles=system.smiles, box_A=None, file=None)
        start = start_structure(settings)
        return start, bonds(settings, start)
    start = droplet(system.waters, system.ion, seed=seed_of(system.name))
    begin = len(start) % 3
    pairs = [(i, i + k) for i in range(begin, len(start), 3) for k in (1, 2)]
    start.info = {
        "charge": 1 if system.ion else 0,
        "multiplicity": 1,
        "structure": system.name,
    }
    return start, pairs


def droplet(waters: int, ion: str, *, seed: int) -> Atoms:
    """The molecules of a cubic grid that are nearest to its middle, turned at random.

    Args:
        waters: number of molecules.
        ion: symbol of an atom in the middle, the first of the droplet; empty: none.
        seed: of the turns.
    """
    random = np.random.default_rng(seed)
    edge = WATER_VOLUME_A3 ** (1 / 3)
    grid = edge * (np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3), -1).reshape(-1, 3))
    # Without an ion the middle lies off the grid's points, so that the droplet is round.
    middle = np.zeros(3) if ion else np.array([0.1, 0.2, 0.3]) * edge
    nearest = np.argsort(np.linalg.norm(grid - middle, axis=1), kind="stable")
    atoms = Atoms(ion)
    for place in grid[nearest[bool(ion) :][:waters]]:
        water = molecule("H2O")
        water.euler_rotate(*random.uniform(0, 360, size=3), center="COM")
        water.translate(place - water.get_center_of_mass())
        atoms += water
    return atoms


def _force_field(system: System, start: Atoms, pairs: list[tuple[int, int]], work: Path) -> Teacher:
    """The teacher of a structure."""
    if system.name == "aspirin":
        settings = StructureSettings(name=system.name, smiles=system.smiles, box_A=None, file=None)
        return make_teacher(
            Gaff2ForceField(kind="gaff2"),
            start,
            pairs,
            molecules=lambda: {system.name: molecules(settings, start, pairs)},
            prepared=work / "prepared",
        )
    files = [FORCE_FIELDS / "small-molecules.xml"] if system.smiles else [Path("amber14/tip3p.xml")]
    return make_teacher(XmlForceField(kind="forcefield_xml", files=files), start, pairs)


def _taught(system: System, work: Path) -> list[Atoms]:
    """Frames of the force field: of the molecule, or, of a droplet, of a single water."""
    start, pairs = start_of(system)
    if system.waters:
        start, pairs = molecule("H2O"), [(0, 1), (0, 2)]
        start.info = {"charge": 0, "multiplicity": 1, "structure": "molecule"}
    teacher = _force_field(system, start, pairs, work)
    return sample(teacher, start, TEACHER, seed=seed_of(system.name, "teacher"))[0]


def with_reference(system: System, work: Path, total: int) -> list[Atoms]:
    """So many frames of the force field's dynamics, mixed, with labels of GFN2-xTB.

    Raises:
        InputError: a label failed.
    """
    start, pairs = start_of(system)
    teacher = _force_field(system, start, pairs, work)
    settings = TeacherSettings(
        temperatures_K=list(system.labelled_K),
        md_frames=total,
        md_interval_fs=100.0,
        displaced_frames=0,
        stretched_frames=0,
        contact_frames=0,
    )
    seed = seed_of(system.name, "labels")
    frames, _ = sample(teacher, start, settings, seed=seed)
    order = np.random.default_rng(seed).permutation(len(frames))
    labelled, failed = with_labels([frames[i] for i in order])
    if failed:
        raise InputError(f"GFN2-xTB failed on {failed} frames of {system.name}")
    return labelled


def with_labels(frames: Sequence[Atoms], method: str = "GFN2-xTB") -> tuple[list[Atoms], int]:
    """Frames with energies and forces of tight binding; and how many failed, which are left out."""
    records = Xtb(XtbReference(backend="xtb", method=method)).label(frames, Path(), 1)
    labelled = []
    for frame, record in zip(frames, records, strict=True):
        if record.energy is not None:
            copy = frame.copy()
            copy.info["energy"], copy.arrays["forces"] = record.energy, record.forces
            labelled.append(copy)
    return labelled, len(frames) - len(labelled)


def _published(system: System, work: Path, data: Path | None) -> Frames:
    """Frames of a channel: learned are those of the reaction path and of its normal modes."""
    if data is None:
        raise InputError(f"{system.name}: frames of a published set: give its folder by --data")
    random = np.random.default_rng(seed_of(system.name))
    parts: dict[str, list[Atoms]] = {}
    for kind in ("irc", "nm", "aimd"):
        file = data / f"{system.channel}_{kind}.npz"
        read = list(read_set(file, DATASET)) if file.exists() else []
        # The set has points of the potential's far walls: no dynamics comes there.
        read = [f for f in read if np.linalg.norm(f.arrays["forces"], axis=1).max() < FORCE_CAP]
        parts[kind] = [read[i] for i in random.permutation(len(read))]
        for frame in parts[kind]:
            frame.info["structure"] = frame.get_chemical_formula()
    half = (TRAIN + VALIDATION) // 2
    known = parts["irc"][:half]
    known += parts["nm"][: TRAIN + VALIDATION - len(known)]
    known = [known[i] for i in random.permutation(len(known))]
    if system.relabelled:
        known, _ = with_labels(known)
    after = TRAIN + VALIDATION
    test = {
        kind: (parts[kind][after:] if kind == "nm" else parts[kind])[:JUDGED]
        for kind in system.tests
    }
    every = {atoms.info["structure"]: atoms for part in (known, *test.values()) for atoms in part}
    taught = work / "combustion-teacher.parquet"
    if not taught.exists():
        write_frames(taught, _species(work))
    teacher = read_frames(taught)
    every |= {atoms.info["structure"]: atoms for atoms in teacher}
    return Frames(
        teacher=teacher,
        train=known[VALIDATION:],
        validation=known[:VALIDATION],
        test=test,
        classes={name: atoms.get_chemical_symbols() for name, atoms in every.items()},
        bonds={name: [] for name in every},
    )


FORCE_CAP = 20.0
"""Published frames with a greater force on an atom are left out, eV/Å."""
JUDGED = 400
"""Published frames of a kind that models are judged on."""
SPECIES = {"H2": "[H][H]", "O2": "O=O", "OH": "[OH]", "HO2": "O[O]", "H2O": "O", "H2O2": "OO"}


def _species(work: Path) -> list[Atoms]:
    """Frames of the force field of each stable species of hydrogen's combustion."""
    del work
    frames = []
    for name, smiles in SPECIES.items():
        spin = {"O2": 3, "OH": 2, "HO2": 2}.get(name, 1)
        settings = StructureSettings(
            name=f"species-{name}", smiles=smiles, multiplicity=spin, box_A=None, file=None
        )
        start = start_structure(settings)
        teacher = make_teacher(
            XmlForceField(kind="forcefield_xml", files=[FORCE_FIELDS / "hydrogen-combustion.xml"]),
            start,
            bonds(settings, start),
        )
        few = TeacherSettings(
            md_frames=60,
            displaced_frames=30,
            stretched_frames=10,
            contact_frames=5,
            dissociated_frames=10,
        )
        frames += sample(teacher, start, few, seed=seed_of(name))[0]
    return frames


def bonded_pairs(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of atoms that are as near as bonded ones, each in both orders."""
    radii = covalent_radii[atoms.numbers]
    i, j, distance = neighbor_list("ijd", atoms, 4.0)
    near = distance < BONDED * (radii[i] + radii[j])
    return i[near], j[near]
