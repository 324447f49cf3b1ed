"""The three exams: which runs each has, what is measured, and at which settings.

    from exams.definitions import EXAMS

    EXAMS["aspirin"].runs

Not for: the campaigns' settings (the YAML file of each exam, beside this one).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from exams.segments import Run

WHOLE = ""
"""The variant whose campaign is that of the YAML file."""
SCRATCH = "scratch"
"""The same without pre-training."""


@dataclass(frozen=True, kw_only=True)
class Barrier:
    """Of which variable the free energy is asked.

    Attributes:
        structure: whose.
        unit: of the variable; empty: it has none.
        variable: what it is, in words.
        grid: least, greatest, and number of points.
        first: range of the first basin.
        second: of the second.
    """

    structure: str
    variable: str
    unit: str
    grid: tuple[float, float, int]
    first: tuple[float, float]
    second: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Exam:
    """An exam.

    Attributes:
        name: of its YAML file and its command.
        system: name of the campaign's system.
        asks: what it asks, in a sentence.
        variants: campaigns; the first is that of the YAML file.
        runs: of the reference and of the models.
        frames: kept of each replica of the reference in a segment, for force errors.
        torsions: by name, their four atoms.
        vibrations: whether the vibrational density of states is measured.
        radial: pairs of elements, whether and which.
        radial_A: range of their functions, Å; less than half the smallest box.
        track_every_ps: between the places of oxygen atoms that are kept for diffusion.
        barrier: the free energy that is asked for.
        allowed: formulas of molecules that are physical; empty: it is not asked.
        overrides: of the campaign, for a smoke test.
    """

    name: str
    system: str
    asks: str
    runs: tuple[Run, ...]
    variants: tuple[str, ...] = (WHOLE,)
    frames: int = 5
    torsions: Mapping[str, tuple[int, int, int, int]] = field(default_factory=dict)
    vibrations: bool = False
    radial: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    radial_A: float = 6.0
    track_every_ps: float = 0.0
    barrier: Barrier | None = None
    allowed: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def small(self) -> "Exam":
        """The same in minutes: does it run at all?"""
        runs = tuple(
            replace(
                run,
                replicas=2,
                batch=min(2, run.batch),
                segments=2,
                segment_ps=0.05 if run.who == "model" else 0.02,
                first_ps=0.0,
                later_ps=0.0,
            )
            for run in self.runs
        )
        return replace(self, runs=runs, frames=2, track_every_ps=min(0.01, self.track_every_ps))


_ASPIRIN: dict[str, Any] = {"structure": "aspirin", "temperature_K": 500.0}
_WATER: dict[str, Any] = {"temperature_K": 300.0}
_HYDROGEN: dict[str, Any] = {"temperature_K": 1500.0, "ensemble": "nvt"}

EXAMS = {
    exam.name: exam
    for exam in (
        Exam(
            name="aspirin",
            system="aspirin",
            asks="Is the model of one gas-phase molecule stable for 16 × 300 ps at 500 K, and are "
            "its vibrations and conformations the reference's?",
            # A thermostat at the start of each segment makes the ensemble canonical; spectra are
            # taken from the rest of it, in which nothing damps the motion.
            runs=(
                Run(
                    name="reference",
                    who="reference",
                    replicas=16,
                    batch=1,
                    segments=5,
                    segment_ps=5.0,
                    first_ps=1.0,
                    later_ps=1.0,
                    **_ASPIRIN,
                ),
                Run(
                    name="model",
                    who="model",
                    replicas=16,
                    batch=8,
                    segments=60,
                    segment_ps=5.0,
                    first_ps=1.0,
                    later_ps=1.0,
                    **_ASPIRIN,
                ),
            ),
            # CC(=O)Oc1ccccc1C(=O)O, atoms as RDKit numbers them
            torsions={
                "acetyl, C-C-O-C(ring)": (0, 1, 3, 4),
                "ester, C-O-C-C(ring)": (1, 3, 4, 9),
                "carboxyl, C-C-C-O": (4, 9, 10, 12),
                "hydroxyl, C-C-O-H": (9, 10, 12, 20),
            },
            vibrations=True,
        ),
        Exam(
            name="water",
            system="exam-water",
            asks="Does the model of the liquid hold for 8 × 100 ps at 300 K, has it in a small box "
            "the reference's structure, and which density and diffusion has it?",
            frames=1,
            # A step of 64 molecules costs the reference some 5 s of a core, of 16 molecules 0.4 s:
            # only the small box has the reference's own dynamics.
            runs=(
                Run(
                    name="reference",
                    who="reference",
                    structure="box16",
                    replicas=4,
                    batch=1,
                    segments=10,
                    segment_ps=0.5,
                    first_ps=1.5,
                    every_fs=10.0,
                    **_WATER,
                ),
                Run(
                    name="small",
                    who="model",
                    structure="box16",
                    replicas=8,
                    batch=8,
                    segments=10,
                    segment_ps=2.0,
                    first_ps=2.0,
                    every_fs=10.0,
                    **_WATER,
                ),
                Run(
                    name="model",
                    who="model",
                    structure="box",
                    replicas=8,
                    batch=2,
                    segments=20,
                    segment_ps=5.0,
                    first_ps=5.0,
                    every_fs=10.0,
                    **_WATER,
                ),
                Run(
                    name="density",
                    who="model",
                    structure="box",
                    replicas=4,
                    batch=2,
                    segments=20,
                    segment_ps=5.0,
                    ensemble="npt",
                    every_fs=50.0,
                    **_WATER,
                ),
            ),
            radial={"O-O": (8, 8), "O-H": (8, 1), "H-H": (1, 1)},
            radial_A=3.6,
            track_every_ps=0.5,
        ),
        Exam(
            name="hydrogen",
            system="hydrogen",
            asks="Is the free energy of OH + H2 → H2O + H the reference's at 1500 K, and does the "
            "dynamics make molecules that there are not, with and without pre-training?",
            variants=(WHOLE, SCRATCH),
            runs=(
                Run(
                    name="reference",
                    who="reference",
                    structure="abstraction",
                    replicas=6,
                    batch=1,
                    segments=30,
                    segment_ps=1.0,
                    every_fs=5.0,
                    **_HYDROGEN,
                ),
                Run(
                    name="model",
                    who="model",
                    structure="abstraction",
                    replicas=16,
                    batch=16,
                    segments=30,
                    segment_ps=1.0,
                    every_fs=5.0,
                    **_HYDROGEN,
                ),
                Run(
                    name="reference-peroxide",
                    who="reference",
                    structure="peroxide",
                    replicas=4,
                    batch=1,
                    segments=5,
                    segment_ps=1.0,
                    every_fs=5.0,
                    **_HYDROGEN,
                ),
                Run(
                    name="model-peroxide",
                    who="model",
                    structure="peroxide",
                    replicas=16,
                    batch=16,
                    segments=30,
                    segment_ps=1.0,
                    every_fs=5.0,
                    **_HYDROGEN,
                ),
            ),
            barrier=Barrier(
                structure="abstraction",
                variable="coordination of O by H",
                unit="",
                grid=(0.0, 3.0, 121),
                first=(0.7, 1.15),
                second=(1.6, 2.1),
            ),
            allowed=("H", "H2", "HO", "H2O", "O", "O2", "HO2", "H2O2"),
        ),
    )
}
