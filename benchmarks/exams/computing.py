"""The cells of an exam, and how each is computed.

A campaign is a cell, each segment of each batch of replicas is another, and so are the force errors
on the reference's frames of a segment. What a cell needs of others is in their JSON, except the
campaign's models and labels, which are where the campaign was run.

    from exams.computing import Place, compute, grid, waits_for

    place = Place(exam, folder, work, {"": Path("benchmarks/exams/aspirin.yaml")}, root=Path())
    for cell in grid(exam):
        waits_for(cell, place) or compute(cell, place)

Not for: what the cells say together (see `results`).
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms

import cells
from exams import observables as measure
from exams.definitions import WHOLE, Exam
from exams.potentials import ReferencePotential, pressures
from exams.segments import HILLS, Criteria, Part, Run, Segment, frames_of, integrate
from halcyon import files
from halcyon.campaign import accounts
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.config import MetadynamicsBias, NoBias
from halcyon.exploration.dynamics import Replica
from halcyon.exploration.starts import deal_to_each
from halcyon.final.certificate import Certificate
from halcyon.labels.labelling import gather
from halcyon.models import mace
from halcyon.models.batched import BatchedMace
from halcyon.verdict.forms import Verdict

SCHEMA = 1
FREQUENCIES_PER_CM = np.arange(0.0, 4001.0, 10.0)
ANGLES_DEG = np.arange(-180.0, 181.0, 5.0)
RADIAL_BINS = 120
RADIAL_EVERY_FS = 100.0
KINDS_EVERY_FS = 25.0
AMU_PER_A3_IN_G_PER_CM3 = 1.66053907
KELVIN_PER_A3_IN_GPA = 1.380649e-2


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A part of an exam.

    Attributes:
        kind: campaign, dynamics or errors.
        variant: of the campaign; empty for the whole one and for the reference's dynamics.
        run: of the dynamics, or whose frames the errors are on.
        batch: of the run's replicas, from 0.
        number: of the segment, from 0.
    """

    kind: str
    variant: str = WHOLE
    run: Run | None = None
    batch: int = 0
    number: int = 0

    @property
    def name(self) -> str:
        """E.g. `campaign`, `model_scratch_b00_s003`, `errors_reference_b00_s003`."""
        words = [] if self.kind == "dynamics" else [self.kind]
        words += [] if self.run is None else [self.run.name]
        words += [self.variant] if self.variant else []
        words += [] if self.run is None else [f"b{self.batch:02d}", f"s{self.number:03d}"]
        return "_".join(words)

    @property
    def segment(self) -> Segment:
        """Of the dynamics."""
        assert self.run is not None  # noqa: S101  # a campaign has none
        return Segment(self.run, self.number)


def grid(exam: Exam) -> list[Cell]:
    """All cells: campaigns, the reference's dynamics, the models', and errors."""
    made = [Cell(kind="campaign", variant=variant) for variant in exam.variants]
    for run in sorted(exam.runs, key=lambda run: run.who == "model"):
        variants = exam.variants if run.who == "model" else (WHOLE,)
        made += [
            Cell(kind="dynamics", variant=variant, run=run, batch=batch, number=number)
            for variant in variants
            for number in range(run.segments)
            for batch in range(-(-run.replicas // run.batch))
        ]
    of_reference = [cell for cell in made if cell.run and cell.run.who == "reference"]
    return made + [
        Cell(kind="errors", variant=variant, run=c.run, batch=c.batch, number=c.number)
        for variant in exam.variants
        for c in of_reference
    ]


@dataclass(frozen=True)
class Place:
    """Where an exam is taken.

    Attributes:
        exam: which.
        folder: of its cells.
        work: of what need not be kept.
        configs: configuration file of each variant's campaign.
        root: of the repository, in which campaigns are run.
    """

    exam: Exam
    folder: Path
    work: Path
    configs: dict[str, Path]
    root: Path

    def campaign(self, variant: str) -> Campaign | None:
        """A variant's campaign as far as it is; None: it has not begun."""
        content = yaml.safe_load(self.configs[variant].read_text(encoding="utf-8"))
        folder = Path(content.get("results", "results")) / content["campaign"]
        path = folder / "campaign.json"
        return Campaign.read(path) if path.exists() else None

    def path(self, cell: Cell) -> Path:
        """A cell's file."""
        return cells.path_of(cell, self.folder)


def waits_for(cell: Cell, place: Place) -> str:
    """What a cell needs first; empty where it can be computed."""
    if cell.kind == "campaign":
        return ""
    needs_model = cell.kind == "errors" or (cell.run is not None and cell.run.who == "model")
    if needs_model and not place.path(Cell(kind="campaign", variant=cell.variant)).exists():
        return "the campaign"
    if cell.kind == "errors":
        before = Cell(kind="dynamics", run=cell.run, batch=cell.batch, number=cell.number)
        return "" if place.path(before).exists() else "the reference's dynamics"
    if cell.number and not place.path(_earlier(cell)).exists():
        return "the segment before"
    # The same starts for all: those of the whole campaign's seed.
    return "" if cell.number or _seed_files(place) else "the seed's labels"


def compute(cell: Cell, place: Place) -> dict[str, Any]:
    """Compute a cell that waits for nothing."""
    begun, spent = time.monotonic(), time.process_time()
    content = {"campaign": _campaign, "dynamics": _dynamics, "errors": _errors}[cell.kind](
        cell, place
    )
    return {
        "schema": SCHEMA,
        "cell": cell.name,
        "kind": cell.kind,
        "variant": cell.variant,
        "run": asdict(cell.run) if cell.run else None,
        "batch": cell.batch,
        "number": cell.number,
        "wall_s": time.monotonic() - begun,
        # A campaign's are in its accounts: its jobs are other processes.
        "core_s": time.process_time() - spent,
        **content,
    }


def _earlier(cell: Cell) -> Cell:
    return Cell(
        kind=cell.kind,
        variant=cell.variant,
        run=cell.run,
        batch=cell.batch,
        number=cell.number - 1,
    )


# The campaign


def _campaign(cell: Cell, place: Place) -> dict[str, Any]:
    """Run a campaign to its end, or go on; its verdicts, its certificate, and what it cost."""
    config = place.configs[cell.variant]
    place.work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", str(config)]
    command += ["--directory", str(place.root), "--quiet", "rules", "--nolock"]
    reported = place.work / f"{cell.name}.log"
    with reported.open("a") as log:
        ended = subprocess.run(command, check=False, stdout=log, stderr=log, cwd=place.root)
    if ended.returncode:
        raise SystemExit(
            f"the campaign of {config} stopped: {reported} says why. "
            "What is done is kept; the same command goes on."
        )
    campaign = place.campaign(cell.variant)
    assert campaign is not None  # noqa: S101  # it has just run
    system = place.exam.system
    folder = campaign.folder / system
    verdicts = [Verdict.read(path) for path in sorted(folder.glob("gen*/verdict.json"))]
    last, costs = verdicts[-1], accounts.costs(campaign, system)
    proof = folder / "certificate" / "certificate.json"
    return {
        "decision": last.decision,
        "reason": last.reason,
        "generations": len(verdicts),
        "labels": last.labels.spent,
        "core_hours": {
            "labels": accounts.total(costs, "label", "check"),
            "all": accounts.total(costs),
        },
        "audits_forces_mae_meV_per_A": [
            [
                part.forces_mae_meV_per_A and asdict(part.forces_mae_meV_per_A)
                for part in audit.parts
            ]
            for audit in (verdict.audit for verdict in verdicts)
            if audit
        ],
        "failures_in_exploration": last.failures and last.failures.model_dump(mode="json"),
        "certificate": _certified(Certificate.read(proof)) if proof.exists() else None,
    }


def _certified(certificate: Certificate) -> dict[str, Any]:
    """What a certificate says of stability and drift."""
    return {
        "conclusion": certificate.conclusion,
        "sentence": certificate.sentence,
        "runs": [
            {
                "ensemble": run.ensemble,
                "time_ps": run.time_ps,
                "findings": run.findings[0].model_dump(mode="json"),
            }
            for run in certificate.runs
        ],
    }


def _seed_files(place: Place) -> list[Path]:
    campaign = place.campaign(WHOLE)
    if campaign is None:
        return []
    return sorted((campaign.folder / place.exam.system / "seed/labels").glob("*.parquet"))


def _last_folder(campaign: Campaign, system: str) -> Path:
    """Of the last generation with a verdict, whose model is examined."""
    return max((campaign.folder / system).glob("gen*/verdict.json")).parent


# Dynamics


@dataclass(frozen=True)
class _Setting:
    """What all segments of a run share."""

    campaign: Campaign
    plan: SystemPlan
    run: Run

    @cached_property
    def bias(self) -> MetadynamicsBias | NoBias:
        """Of the exploration, where it is metadynamics and the run has a thermostat."""
        bias = self.plan.settings.exploration.bias
        if isinstance(bias, MetadynamicsBias) and self.run.ensemble == "nvt":
            return bias
        return NoBias(kind="none")

    @cached_property
    def criteria(self) -> Criteria:
        """Failures, as in exploration; bonds have the lengths of the start structure."""
        name, exploration = self.run.structure, self.plan.settings.exploration
        start, pairs = self.plan.start(name), self.plan.lasting_bonds(name) or []
        bonds = [(i, j, start.get_distance(i, j, mic=bool(start.pbc.any()))) for i, j in pairs]
        return Criteria(
            kind=self.plan.system.kind,
            bonds={name: bonds},
            bond_stretch_A=exploration.bond_stretch_A,
            min_distance_A=exploration.min_distance_A,
        )


def _dynamics(cell: Cell, place: Place) -> dict[str, Any]:
    """Integrate a segment, and reduce it to observables."""
    segment, run = cell.segment, cell.segment.run
    whole = place.campaign(WHOLE)
    assert whole is not None  # noqa: S101  # `waits_for` looked
    setting = _Setting(whole, whole.systems[place.exam.system], run)
    chosen = range(cell.batch * run.batch, min(run.replicas, (cell.batch + 1) * run.batch))
    replicas, keys = _starts(place, run)
    before = _before(cell, place)
    members = [replicas[n] for n in chosen if not cell.number or n in before]
    if not members:  # all have failed
        return {"steps": run.steps, "released": segment.released, "replicas": []}
    if run.who == "reference":
        potential: Any = ReferencePotential(
            whole.reference(),
            replicas[0].start,
            setting.plan.structures[replicas[0].start.info["structure"]],
            place.work / cell.name,
        )
    else:
        campaign = place.campaign(cell.variant)
        assert campaign is not None  # noqa: S101
        folder = _last_folder(campaign, place.exam.system)
        dtype = campaign.systems[place.exam.system].settings.model.dtype
        model = mace.load(folder / "model.model", device="cpu", dtype=dtype)
        potential = BatchedMace(model, compute_stress=run.ensemble == "npt")
    parts = integrate(
        potential,
        segment,
        members,
        criteria=setting.criteria,
        bias=setting.bias,
        before=[before[replica.number] for replica in members] if cell.number else [],
    )
    rows = []
    for part, replica in zip(parts, members, strict=True):
        hills = len(before[part.replica][HILLS[0]][0]) if _has_hills(before, part) else 0
        row = _reduced(part, replica.start, place, setting, whole)
        if part.end is not None and HILLS[0] in part.end:
            part.end[HILLS[0]] = [axis[hills:] for axis in part.end[HILLS[0]]]
            part.end[HILLS[1]] = part.end[HILLS[1]][hills:]
        rows.append(row | {"start": keys[part.replica], "end": part.end})
    cost = {}
    if isinstance(potential, ReferencePotential):
        cost = {"evaluations": potential.evaluations, "reference_core_s": potential.core_seconds}
    return {"steps": run.steps, "released": segment.released, "replicas": rows, **cost}


def _has_hills(before: dict[int, Any], part: Part) -> bool:
    return part.replica in before and HILLS[0] in before[part.replica]


def _starts(place: Place, run: Run) -> tuple[list[Replica], dict[int, str]]:
    """Training frames of the seed, the same for the reference and all models."""
    train = gather(_seed_files(place))["train"]
    settings = run.settings(NoBias(kind="none"))
    return deal_to_each(train, [run.structure], settings, seed=run.seed)


def _before(cell: Cell, place: Place) -> dict[int, dict[str, Any]]:
    """How the segment before ended, of each replica that has not failed, with all its hills."""
    if not cell.number:
        return {}
    chain = [_earlier(cell)]
    while chain[-1].number:
        chain.append(_earlier(chain[-1]))
    ends: dict[int, dict[str, Any]] = {}
    hills: dict[int, dict[str, Any]] = {}
    for earlier in reversed(chain):
        rows = files.read_json(place.path(earlier))["replicas"]
        ends = {row["replica"]: row["end"] for row in rows if row["end"] is not None}
        for number, end in ends.items():
            if HILLS[0] in end:
                so_far = hills.setdefault(number, {"centers": [[]], "heights": []})
                so_far["centers"] = [
                    [*a, *b] for a, b in zip(so_far["centers"], end["centers"], strict=True)
                ]
                so_far["heights"] = [*so_far["heights"], *end["heights"]]
    return {number: end | hills.get(number, {}) for number, end in ends.items()}


def _reduced(
    part: Part, start: Atoms, place: Place, setting: _Setting, campaign: Campaign
) -> dict[str, Any]:
    """What is kept of a replica's segment."""
    run = setting.run
    row: dict[str, Any] = {
        "replica": part.replica,
        "ps": part.ps,
        "failure": part.failure,
        "analysed_ps": len(part.positions) * run.every_fs / 1000,
    }
    if len(part.positions) < 2:
        return row
    row |= {"temperature_K": float(np.mean(part.temperatures))}
    if run.ensemble == "nve":
        row["drift_meV_per_atom_ps"] = measure.drift(
            np.array(part.energies), every_fs=run.every_fs, atoms=len(start)
        )
    row |= _structural(part, start, place.exam, run)
    if isinstance(setting.bias, MetadynamicsBias) and part.end is not None:
        row |= _biased(part, place.exam, setting)
    if run.ensemble == "npt":
        row |= _at_pressure(part, start, campaign, place.work)
    if run.who == "reference":
        every = max(1, len(part.positions) // place.exam.frames)
        chosen = frames_of(part, start, every=every)[-place.exam.frames :]
        row["frames"] = [
            {
                "positions_A": frame.positions.round(6).tolist(),
                "forces_eV_per_A": frame.arrays["forces"].round(6).tolist(),
            }
            for frame in chosen
        ]
    return row


def _structural(part: Part, start: Atoms, exam: Exam, run: Run) -> dict[str, Any]:
    """Distributions and spectra of a segment."""
    row: dict[str, Any] = {}
    positions = np.array(part.positions)
    if exam.vibrations:
        density = measure.vibrations(
            np.array(part.velocities),
            start.get_masses(),
            every_fs=run.every_fs,
            edges=FREQUENCIES_PER_CM,
        )
        row["vibrations"] = density.round(7).tolist()
    if exam.torsions:
        row["torsions"] = {
            name: np.histogram(measure.torsions(positions, atoms), ANGLES_DEG)[0].tolist()
            for name, atoms in exam.torsions.items()
        }
    if exam.radial and run.ensemble != "npt":
        frames = frames_of(part, start, every=max(1, round(RADIAL_EVERY_FS / run.every_fs)))
        row["radial"] = {
            name: measure.radial(frames, pair, range_A=exam.radial_A, bins=RADIAL_BINS)
            .round(5)
            .tolist()
            for name, pair in exam.radial.items()
        }
    if exam.track_every_ps and run.ensemble == "nve":
        tracks = measure.unwrapped(positions, start.cell.array)[:, start.numbers == 8]
        every = max(1, round(1000 * exam.track_every_ps / run.every_fs))
        # The last frame of a segment is one: the next goes on from it.
        kept = tracks[(len(tracks) - 1) % every :: every]
        row |= {"oxygen_A": kept.round(3).tolist(), "cell_A": start.cell.array.tolist()}
    if exam.allowed:
        frames = frames_of(part, start, every=max(1, round(KINDS_EVERY_FS / run.every_fs)))
        counted = measure.kinds(frames)
        row["molecules"] = dict(sum(counted, start=type(counted[0])()))
        row["unphysical"] = dict(measure.unphysical(counted, exam.allowed))
    return row


def _biased(part: Part, exam: Exam, setting: _Setting) -> dict[str, Any]:
    """The bias at the end of a segment on the grid of the free energy that is asked for."""
    barrier, bias = exam.barrier, setting.bias
    if barrier is None or barrier.structure != setting.run.structure:
        return {}
    assert isinstance(bias, MetadynamicsBias) and part.end is not None  # noqa: S101, PT018
    (variable,) = (v for v in bias.variables if v.structure == barrier.structure)
    centres, heights = np.array(part.end["centers"][0]), np.array(part.end["heights"])
    bias_eV = measure.hills_on(np.linspace(*barrier.grid), centres, heights, variable.width)
    return {"bias_eV": bias_eV.round(5).tolist(), "bias_factor": bias.bias_factor}


def _at_pressure(part: Part, start: Atoms, campaign: Campaign, work: Path) -> dict[str, Any]:
    """Density of a segment, and the reference's pressure on some of its frames."""
    frames = frames_of(part, start)
    volumes = np.array([frame.get_volume() for frame in frames])
    mass = float(start.get_masses().sum())
    chosen = frames[:: max(1, len(frames) // 2)][:2]
    virial = np.array(pressures(campaign.reference(), chosen, work))
    kelvin = float(np.mean(part.temperatures))
    kinetic = [len(f) * kelvin * KELVIN_PER_A3_IN_GPA / f.get_volume() for f in chosen]
    return {
        "density_g_per_cm3": float(np.mean(mass / volumes) * AMU_PER_A3_IN_G_PER_CM3),
        "reference_pressure_GPa": (virial + kinetic).tolist(),
    }


# Errors


def _errors(cell: Cell, place: Place) -> dict[str, Any]:
    """A model's force errors on the frames that the reference visited in a segment."""
    visited = Cell(kind="dynamics", run=cell.run, batch=cell.batch, number=cell.number)
    campaign = place.campaign(cell.variant)
    assert campaign is not None  # noqa: S101
    folder = _last_folder(campaign, place.exam.system)
    plan = campaign.systems[place.exam.system]
    model = mace.load(folder / "model.model", device="cpu", dtype=plan.settings.model.dtype)
    start = plan.start(cell.segment.run.structure)
    rows = []
    for row in files.read_json(place.path(visited))["replicas"]:
        frames, forces = _frames(start, row.get("frames", []))
        if frames:
            predicted = mace.evaluate(model, frames).forces
            apart = [a - b for a, b in zip(predicted, forces, strict=True)]
            rows.append({"replica": row["replica"], **measure.force_errors(apart)})
    return {"replicas": rows}


def _frames(start: Atoms, kept: Sequence[dict[str, Any]]) -> tuple[list[Atoms], list[np.ndarray]]:
    frames = []
    for each in kept:
        frame = start.copy()
        frame.positions = each["positions_A"]
        frames.append(frame)
    return frames, [np.array(each["forces_eV_per_A"]) for each in kept]
