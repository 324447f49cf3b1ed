"""Does the CLI foretell failure, and does it follow quality, temperature and energy conservation?

Ethanol, labelled by GFN2-xTB. Models: few and many labels, from scratch and pre-trained on the
force field; all labels are frames at 300 K, so that the higher temperatures are new to the models.
Each model runs replicas at several temperatures, with every signal watched at every step:

1. AUROC of Λ and λ for "fails within the next 0.5 ps", and the lead time of their warning at one
   false-alarm rate for all signals;
2. Spearman's ρ of λ with the temperature and with the model's force error;
3. replicas whose Λ stopped growing go on to five times the time: how many survive?
4. ρ of λ with the drift of the total energy without a thermostat.

    python benchmarks/cli_validity.py --list               what there is to do; estimated time
    python benchmarks/cli_validity.py --json validity.json  do it, or go on where it stopped
    python benchmarks/cli_validity.py --summary            no computing: what the cells say
    python benchmarks/cli_validity.py --smoke              a minute: does it run at all?

The work is cut into cells, one small JSON file each. A killed run goes on when started again; two
runs started at once share the cells. Models are kept in benchmarks/work, which git ignores, and are
trained again, to the same weights on the same kind of machine, where they are missing.

Two scores are there to be beaten: `clock`, the time since the start, and `thermometer`, the
thermostat's temperature. Who only knows that hot runs fail foretells well when temperatures are
pooled; "within cells" compares replicas of one model at one temperature only.

Not for: what the cells mean (see `cli_validity_summary`), other molecules, or speed (see
`exploration_speed`).
"""

import argparse
import contextlib
import hashlib
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from rich.console import Console
from scipy import stats

from cli_validity_summary import GROUPS, draw, footnote, late_outside, summarised, tables
from halcyon import files
from halcyon.config import (
    DomainSettings,
    ExplorationSettings,
    ModelSettings,
    PretrainingSettings,
    TeacherSettings,
    TrainingSettings,
    XtbReference,
    read_system,
)
from halcyon.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
SYSTEM = ROOT / "config" / "systems" / "ethanol.yaml"
RESULTS = ROOT / "benchmarks" / "results" / "cli_validity"
WORK = ROOT / "benchmarks" / "work" / "cli_validity"
SCHEMA = 1
SEED = 20261121
SIGNALS = ("node_energy", "guard", "latent", "latent_guard", "potential_energy", "bond_stretch")

COST_MS = {"dynamics": 1.5, "extension": 1.5, "nve": 2.4}
"""Of a step of one replica, ms, until it was measured."""
MODEL_COST_S = 120.0
TELL_EVERY_S = 60.0
TABLE_WIDTH = 150


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done. Cells of different plans do not mix.

    Attributes:
        labels: training labels of each model.
        seeds: models of each kind, which differ in the seed of their weights.
        temperatures_K: of the thermostat, K.
        replicas: per cell.
        time_ps: of each replica, ps.
        extension: replicas go on for so many times that time.
        trace_fs: time between two points, fs.
        nve_replicas: per cell without thermostat.
        nve_ps: time without thermostat, ps; a quarter of it more, before, with thermostat.
        validation: held-out labels, at 300 K.
        test: labels used for nothing but errors, at 300 K; half as many at each other temperature.
        teacher_frames: from dynamics; half as many displaced ones.
        epochs: of training and of pre-training.
        committee: more models for the signal `committee`; 0: it is not watched.
    """

    labels: tuple[int, ...] = (25, 100)
    seeds: int = 1
    temperatures_K: tuple[float, ...] = (300.0, 600.0, 900.0, 1200.0, 1600.0)
    replicas: int = 16
    time_ps: float = 4.0
    extension: int = 5
    timestep_fs: float = 0.5
    trace_fs: float = 50.0
    nve_replicas: int = 8
    nve_ps: float = 2.0
    validation: int = 20
    test: int = 40
    teacher_frames: int = 300
    epochs: tuple[int, int] = (90, 25)
    committee: int = 0

    @property
    def digest(self) -> str:
        """Of all that cells depend on. More seeds are more models: the others stay."""
        content = asdict(self) | {"seed": SEED, "signals": self.signals}
        del content["seeds"]
        for settings in (ModelSettings(), PretrainingSettings(), TrainingSettings()):
            content |= {type(settings).__name__: settings.model_dump()}
        exploration = ExplorationSettings()
        for name in ("friction_per_ps", "bond_stretch_A", "min_distance_A"):
            content[name] = getattr(exploration, name)
        content["alpha"] = DomainSettings().alpha
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    @property
    def signals(self) -> list[str]:
        """Watched at every step."""
        return [*SIGNALS, *(["committee"] if self.committee else [])]

    def models(self) -> list["Model"]:
        """All models, the cheapest first."""
        return [
            Model(group=group, labels=labels, seed=seed)
            for seed in range(1, self.seeds + 1)
            for labels in self.labels
            for group in GROUPS
        ]


SMOKE = Plan(
    labels=(10, 12),
    temperatures_K=(300.0, 3000.0),
    replicas=2,
    time_ps=0.1,
    trace_fs=10.0,
    nve_replicas=2,
    nve_ps=0.04,
    validation=6,
    test=4,
    teacher_frames=20,
    epochs=(3, 2),
)


@dataclass(frozen=True)
class Model:
    """Which model: its group (`scratch` or `pre-trained`), training labels and seed."""

    group: str
    labels: int
    seed: int

    @property
    def name(self) -> str:
        """E.g. `scratch-25-1`."""
        return f"{self.group.replace('-', '')}-{self.labels}-{self.seed}"


@dataclass(frozen=True)
class Cell:
    """One piece of work: `dynamics`, `nve` or `extension` of a model at a temperature in K."""

    kind: str
    model: Model
    temperature_K: float

    @property
    def name(self) -> str:
        """E.g. `dynamics_scratch-25-1_900K`."""
        return f"{self.kind}_{self.model.name}_{self.temperature_K:g}K"

    @property
    def seed(self) -> int:
        """Of starts, momenta and thermostat; the same for a run and its extension."""
        kind = "nve" if self.kind == "nve" else "dynamics"
        return derived_seed(kind, self.model.name, f"{self.temperature_K:g}")

    def cost_s(self, plan: Plan, ms: dict[str, float]) -> float:
        """Estimated wall time, s, from ms per step of one replica."""
        replicas, time_ps = plan.replicas, plan.time_ps
        if self.kind == "nve":
            replicas, time_ps = plan.nve_replicas, 1.25 * plan.nve_ps
        elif self.kind == "extension":
            time_ps *= plan.extension
        return replicas * 1000 * time_ps / plan.timestep_fs * ms[self.kind] / 1000


def derived_seed(*words: str) -> int:
    """A seed that depends on these words only."""
    return int.from_bytes(hashlib.sha256(" ".join([str(SEED), *words]).encode()).digest()[:4]) >> 1


# Cells on disk


def write_cell(path: Path, cell: dict[str, Any]) -> None:
    """Write a cell or a model's description atomically, one line per replica."""
    content = dict(cell)
    rows = content.pop("replicas", None)
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    if rows is not None:
        lines = ",\n".join(json.dumps(row, separators=(",", ":"), allow_nan=False) for row in rows)
        text = f'{text[:-2]},\n "replicas": [\n{lines}\n ]\n}}'
    files.write_text(path, text + "\n")


def read_cell(path: Path, plan: Plan | None = None) -> dict[str, Any] | None:
    """Read what `write_cell` wrote; None where there is nothing yet.

    Raises:
        InputError: it is of another schema, or of another plan than `plan`.
    """
    if not path.exists():
        return None
    cell = files.read_json(path)
    if cell.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a cell of schema {SCHEMA}")
    if plan is not None and cell["plan"] != plan.digest:
        raise InputError(
            f"{path}: made with other settings ({cell['plan']}, now {plan.digest}): delete it, or "
            "give another folder (--cells)"
        )
    return cell


def read_all(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cells and models' descriptions of a folder, by model and temperature.

    Raises:
        InputError: they are of different plans.
    """
    found = [read_cell(path) for path in sorted(folder.glob("*.json"))]
    entries = [entry for entry in found if entry is not None]
    if len({entry["plan"] for entry in entries}) > 1:
        raise InputError(f"{folder}: holds cells that were made with different settings")
    models = [entry for entry in entries if entry["kind"] == "model"]
    cells = [entry for entry in entries if entry["kind"] != "model"]
    return sorted(cells, key=lambda cell: (cell["model"], cell["temperature_K"])), models


# Frames, labels and models


@dataclass(frozen=True)
class Data:
    """Frames, all with energies (eV) and forces (eV/Å).

    Attributes:
        teacher: labelled by the force field.
        train: labelled by the reference, as the next ones; at 300 K.
        validation: held out; calibrates the domain.
        test: by temperature, K.
        bonds: pairs of bonded atoms.
        classes: of symmetry-equivalent atoms.
    """

    teacher: list[Atoms]
    train: list[Atoms]
    validation: list[Atoms]
    test: dict[float, list[Atoms]]
    bonds: list[tuple[int, int]]
    classes: list[str]


def prepared_data(plan: Plan, work: Path, say: Callable[[str], None]) -> Data:
    """Sample and label all frames, or read them where that was done before."""
    from halcyon.frames import read_frames, write_frames
    from halcyon.systems import atom_classes, bonds, start_structure
    from halcyon.teachers import make_teacher, sample

    system = read_system(SYSTEM)
    start = start_structure(system.structures[0])
    pairs = bonds(system.structures[0], start)
    paths = work / "teacher.parquet", work / "labels.parquet"
    if not all(path.exists() for path in paths):
        say("Sampling the force field, labelling")
        teacher = make_teacher([ROOT / path for path in system.forcefield], start, pairs)
        settings = TeacherSettings(
            md_frames=plan.teacher_frames, displaced_frames=plan.teacher_frames // 2
        )
        frames, _ = sample(teacher, start, settings, seed=derived_seed("teacher"))
        write_frames(paths[0], frames)
        chosen = []
        for kelvin in plan.temperatures_K:
            base = kelvin == plan.temperatures_K[0]
            splits = ["test"] * (plan.test if base else plan.test // 2)
            if base:
                splits += ["train"] * max(plan.labels) + ["validation"] * plan.validation
            settings = TeacherSettings(
                temperatures_K=[kelvin],
                md_frames=len(splits),
                md_interval_fs=100.0,
                displaced_frames=0,
            )
            seed = derived_seed("labels", f"{kelvin:g}")
            frames, _ = sample(teacher, start, settings, seed=seed)
            order = np.random.default_rng(seed).permutation(len(frames))
            for index, split in zip(order, splits, strict=True):
                frames[index].info["split"] = split
                chosen.append(frames[index])
        write_frames(paths[1], labelled(chosen, work))
    taught, known = (read_frames(path) for path in paths)
    by_split = {
        name: [frame for frame in known if frame.info["split"] == name]
        for name in ("train", "validation", "test")
    }
    return Data(
        teacher=taught,
        train=by_split["train"],
        validation=by_split["validation"],
        test={
            kelvin: [f for f in by_split["test"] if f.info["temperature"] == kelvin]
            for kelvin in plan.temperatures_K
        },
        bonds=pairs,
        classes=atom_classes(start, pairs, "symmetry"),
    )


def labelled(frames: Sequence[Atoms], work: Path) -> list[Atoms]:
    """Frames with energies and forces of GFN2-xTB.

    Raises:
        InputError: a calculation failed.
    """
    from halcyon.reference.xtb import Xtb

    reference = Xtb(XtbReference(backend="xtb"))
    for frame, record in zip(frames, reference.label(frames, work, 1), strict=True):
        if record.energy is None:
            raise InputError(f"GFN2-xTB failed on a frame: {record.status}: {record.message}")
        frame.info["energy"] = record.energy
        frame.arrays["forces"] = record.forces
    return list(frames)


def trained(
    plan: Plan, model: Model, data: Data, work: Path, *, member: int, say: Callable[[str], None]
) -> Path:
    """File of a model, or of a member of its committee (1, 2, …; 0: the model itself)."""
    from halcyon import mace_training

    ending = f"-member{member}" if member else ""
    out = work / f"{model.name}{ending}.model"
    if out.exists():
        return out
    tuning, pretraining = plan.epochs
    start = None
    if model.group == "pre-trained":
        start = work / f"base-{model.seed}{ending}.model"
        if not start.exists():
            say(f"Pre-training {start.stem} on {len(data.teacher)} frames")
            held_out = data.teacher[::10]
            mace_training.train(
                [frame for i, frame in enumerate(data.teacher) if i % 10],
                held_out,
                elements=data.train[0].numbers,
                model=ModelSettings(),
                fit=PretrainingSettings(epochs=pretraining),
                start=None,
                out=start,
                work=work,
                seed=derived_seed("base", str(model.seed), ending),
            )
    say(f"Training {out.stem} on {model.labels} labels")
    mace_training.train(
        data.train[: model.labels],
        data.validation,
        elements=data.train[0].numbers,
        model=ModelSettings(),
        fit=TrainingSettings(epochs=tuning, updates=None),
        start=start,
        out=out,
        work=work,
        seed=derived_seed("fit", model.name, ending),
    )
    return out


@dataclass(frozen=True)
class Ready:
    """A trained model, its domain, and what it is.

    Attributes:
        file: the model.
        settings: what is watched.
        domain: file of its domain, all signals calibrated.
        entry: the model's description, as kept beside the cells.
    """

    file: Path
    settings: DomainSettings
    domain: Path
    entry: dict[str, Any]


def prepared_model(
    plan: Plan,
    model: Model,
    data: Data,
    *,
    work: Path,
    cells: Path,
    say: Callable[[str], None],
) -> Ready:
    """Train a model and calibrate its domain, as far as that was not done before."""
    from halcyon import mace_model
    from halcyon.domain import Domain

    begun = time.monotonic()
    file = trained(plan, model, data, work, member=0, say=say)
    settings = DomainSettings(
        signals=plan.signals,
        committee=[
            trained(plan, model, data, work, member=number, say=say)
            for number in range(1, plan.committee + 1)
        ],
    )
    domain_file = work / f"{model.name}.domain.json"
    if not domain_file.exists():
        say(f"Calibrating the domain of {model.name}")
        calibrated_domain(plan, model, data, file, settings).write(domain_file)
    loaded = mace_model.load(file, device="cpu")
    weights = weights_hash(loaded)
    path = cells / f"model_{model.name}.json"
    entry = read_cell(path, plan)
    if entry is None or entry["weights"] != weights:
        if entry is not None:
            say(
                f"{model.name} has other weights than when its first cells were made (another "
                "machine or library): its cells are of two models of one recipe"
            )
        entry = described(plan, model, data, loaded, Domain.read(domain_file))
        entry |= {"weights": weights, "seconds": round(time.monotonic() - begun, 1)}
        write_cell(path, entry)
    return Ready(file=file, settings=settings, domain=domain_file, entry=entry)


def calibrated_domain(
    plan: Plan, model: Model, data: Data, file: Path, settings: DomainSettings
) -> Any:
    """Domain of a model, with the calibration of all signals."""
    from halcyon import mace_model, signals

    loaded = mace_model.load(file, device="cpu")

    def sample(frames: Sequence[Atoms]) -> signals.Sample:
        said = mace_model.evaluate(loaded, frames)
        return signals.Sample(frames, said.node_energy, said.descriptors, said.forces)

    train = data.train[: model.labels]
    lengths = np.mean([frame.get_all_distances() for frame in train], axis=0)
    name = train[0].info["structure"]
    return signals.fit_domain(
        train=sample(train),
        teacher=sample(data.teacher if model.group == "pre-trained" else []),
        held_out=sample(data.validation),
        check=sample(data.test[plan.temperatures_K[0]]),
        classes={name: data.classes},
        bonds={name: [(i, j, float(lengths[i, j])) for i, j in data.bonds]},
        settings=settings,
        seed=derived_seed("domain", model.name),
        committee=mace_model.load_committee(settings, device="cpu"),
    )


def described(plan: Plan, model: Model, data: Data, loaded: Any, domain: Any) -> dict[str, Any]:
    """What a model is: errors by temperature, thresholds and how well they are kept."""
    from halcyon import mace_model

    errors = {
        f"{kelvin:g}": mace_model.errors(mace_model.evaluate(loaded, frames), frames)
        for kelvin, frames in data.test.items()
    }
    return {
        "schema": SCHEMA,
        "kind": "model",
        "plan": plan.digest,
        "model": model.name,
        "group": model.group,
        "labels": model.labels,
        "seed": model.seed,
        "force_mae_meV_per_A": {
            kelvin: round(found["forces_mae_meV_per_A"], 2) for kelvin, found in errors.items()
        },
        "energy_mae_meV_per_atom": {
            kelvin: round(found["energy_mae_meV_per_atom"], 3) for kelvin, found in errors.items()
        },
        "test_frames": {f"{kelvin:g}": len(frames) for kelvin, frames in data.test.items()},
        "domain": {
            "margin": asdict(domain.margin),
            "exceedance": domain.report["exceedance_with_margin"],
            "mean_width_eV": {
                tier: domain.report[f"mean_width_{tier}_eV"] for tier in ("label", "guard")
            },
        },
        "signals": {
            name: {"threshold": asdict(found.threshold), "exceedance": found.exceedance}
            for name, found in domain.signals.items()
        },
        "versions": {name: version(name) for name in ("torch", "mace-torch", "tblite", "openmm")},
        "machine": platform.machine(),
    }


def weights_hash(model: Any) -> str:
    """Hash of all weights of a model."""
    digest = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        digest.update(name.encode() + values.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


# The three kinds of cells


def starts(plan: Plan, data: Data, number: int, seed: int) -> list[Atoms]:
    """Start frames, from those that all models were trained on."""
    from halcyon.frames import structure_only

    common = data.train[: min(plan.labels)]
    random = np.random.default_rng(seed)
    return [structure_only(common[random.integers(len(common))]) for _ in range(number)]


def run_replicas(
    plan: Plan, cell: Cell, ready: Ready, data: Data, folder: Path, *, device: str, say: Any
) -> dict[str, Any]:
    """A `dynamics` or `extension` cell: replicas with every signal watched."""
    from halcyon.domain import Domain
    from halcyon.explore import Progress, Replica, explore
    from halcyon.mace_model import BatchedMace, load, load_committee

    time_ps, trace_fs = plan.time_ps, plan.trace_fs
    if cell.kind == "extension":
        time_ps, trace_fs = plan.extension * plan.time_ps, 1000 * plan.time_ps / 8
    settings = ExplorationSettings(
        temperatures_K=[cell.temperature_K],
        replicas=plan.replicas,
        time_ps=time_ps,
        timestep_fs=plan.timestep_fs,
        trace_points_per_ps=round(1000 / trace_fs),
    )
    begun = told = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_EVERY_S:
            told = time.monotonic()
            left = f"{progress.seconds_left:.0f} s left"
            say("  " + ", ".join([f"{progress.done:.0%}", f"{progress.failed} failed", left]))

    frames = starts(plan, data, plan.replicas, cell.seed)
    found = explore(
        BatchedMace(load(ready.file, device=device)),
        Domain.read(ready.domain),
        [Replica(number, cell.temperature_K, frame) for number, frame in enumerate(frames)],
        settings,
        ready.settings,
        kind="molecule",
        work=folder,
        identity=ready.entry["weights"] + hashlib.sha256(ready.domain.read_bytes()).hexdigest(),
        seed=cell.seed,
        committee=load_committee(ready.settings, device=device),
        report=report,
    )
    return {
        "atoms": len(frames[0]),
        "time_ps": time_ps,
        "timestep_fs": plan.timestep_fs,
        "trace_fs": trace_fs,
        "judged_ps": plan.time_ps,
        "seconds": round(time.monotonic() - begun, 1),
        "replicas": condensed(
            found.traces,
            found.replicas,
            timestep_ps=plan.timestep_fs / 1000,
            trace_ps=trace_fs / 1000,
        ),
    }


def condensed(
    traces: pd.DataFrame,
    replicas: Sequence[dict[str, Any]],
    *,
    timestep_ps: float,
    trace_ps: float,
) -> list[dict[str, Any]]:
    """What a cell keeps of each replica: when it ended, and whole numbers, which are exact.

    Args:
        traces: as `explore` makes them, with the hard indicator.
        replicas: how each replica ended, as `explore` says.
        timestep_ps: time step, ps.
        trace_ps: length of the intervals, ps.

    Returns:
        Per replica: replica, end_ps, failure; and per signal, for each interval (the last one ends
        with the failure): `outside`, steps outside summed over atoms, and `worst_atom`, by how many
        steps the greatest Λ_i grew.
    """
    signals = [name.removeprefix("rate_") for name in traces.columns if name.startswith("rate_")]
    step = (traces["time"] / timestep_ps).round().astype(int)
    # A failure puts a point into the traces of all replicas: only its own replica needs it.
    last = ~traces["replica"].duplicated(keep="last")
    kept = traces[(step % round(trace_ps / timestep_ps) == 0) | last]

    def steps(mine: pd.DataFrame, column: str, atoms: int) -> list[int]:
        grown = np.diff(mine[column].to_numpy(), prepend=0.0) * atoms / timestep_ps
        return np.rint(grown).astype(int).tolist()

    rows = []
    for entry in replicas:
        mine = kept[kept["replica"] == entry["replica"]]
        rows.append(
            {
                "replica": entry["replica"],
                "end_ps": round(float(entry["time_ps"]), 6),
                "failure": entry["failure"],
                "outside": {s: steps(mine, f"cli_{s}", entry["atoms"]) for s in signals},
                "worst_atom": {s: steps(mine, f"cli_{s}_max", 1) for s in signals},
            }
        )
    return rows


def run_nve(
    plan: Plan, cell: Cell, ready: Ready, data: Data, *, device: str, dtype: str = "float64"
) -> dict[str, Any]:
    """An `nve` cell: how fast the total energy drifts without a thermostat.

    In double precision: what is measured is the potential at this time step, not rounding. A
    replica whose bond breaks is left out from there on.
    """
    import torch
    import torch_sim as ts
    from torch_sim.integrators import nve, nvt_langevin

    from halcyon.domain import Domain
    from halcyon.failures import FailureMonitor
    from halcyon.mace_model import BatchedMace, load

    begun = time.monotonic()
    model = BatchedMace(load(ready.file, device=device, dtype=dtype))
    frames = starts(plan, data, plan.nve_replicas, cell.seed)
    exploration = ExplorationSettings()
    monitor = FailureMonitor(
        frames,
        Domain.read(ready.domain).bonds,
        kind="molecule",
        bond_stretch_A=exploration.bond_stretch_A,
        min_distance_A=exploration.min_distance_A,
        device=model.device,
    )
    options = {"device": model.device, "dtype": model.dtype}
    time_unit = float(ts.units.MetalUnits.time)
    kelvin = torch.full((len(frames),), cell.temperature_K, **options)
    kT = kelvin * float(ts.units.MetalUnits.temperature)
    dt = torch.tensor(plan.timestep_fs / 1000 * time_unit, **options)
    gamma = torch.tensor(exploration.friction_per_ps / time_unit, **options)
    torch.manual_seed(cell.seed)
    init, heated = nvt_langevin(model, dt=dt, kT=kT, gamma=gamma)
    _, free = nve(model, dt=dt, kT=kT)
    state = init(ts.io.atoms_to_state(frames, model.device, model.dtype), seed=cell.seed)
    failures: dict[int, str] = {}
    energies: list[Any] = []
    steps = round(1000 * plan.nve_ps / plan.timestep_fs)
    for step in range(-steps // 4, steps):
        state = heated(state, kT=kT) if step < 0 else free(state)
        failures = monitor.check(state.positions, state.energy, state.forces) | failures
        if step >= 0:
            energies.append(total_energy(state))
            for number in failures:
                energies[-1][number] = torch.nan
    table = torch.stack(energies).cpu().numpy()
    times_ps = plan.timestep_fs / 1000 * np.arange(steps)
    return {
        "atoms": len(frames[0]),
        "time_ps": plan.nve_ps,
        "timestep_fs": plan.timestep_fs,
        "dtype": dtype,
        "seconds": round(time.monotonic() - begun, 1),
        "replicas": [
            {
                "replica": number,
                "failure": failures.get(number),
                "drift_meV_per_atom_ps": drift(times_ps, table[:, number], len(frames[0])),
            }
            for number in range(len(frames))
        ],
    }


def total_energy(state: Any) -> Any:
    """Potential and kinetic energy of each replica, shape (R,), eV."""
    from torch_sim.quantities import calc_kinetic_energy

    return state.energy + calc_kinetic_energy(
        masses=state.masses, momenta=state.momenta, system_idx=state.system_idx
    )


def drift(times_ps: np.ndarray, energy_eV: np.ndarray, atoms: int) -> float | None:
    """Slope of the total energy, meV per atom and ps, over its finite part; None under half."""
    known = np.isfinite(energy_eV)
    if known.sum() < len(energy_eV) / 2:
        return None
    slope = stats.linregress(times_ps[known], energy_eV[known]).slope
    return float(f"{1000 * slope / atoms:.4g}")


def extension_temperature(
    plan: Plan, model: Model, cells: Iterable[dict[str, Any]]
) -> float | None:
    """Temperature at which a model's replicas are run on; None before all its cells are there.

    Where the replicas that are through differ most in whether Λ stopped growing, of the label and
    the guard domain together; of equal ones the highest that at least half of them survive.
    """
    mine = [c for c in cells if c["kind"] == "dynamics" and c["model"] == model.name]
    if len(mine) < len(plan.temperatures_K):
        return None

    def rank(cell: dict[str, Any]) -> tuple[int, bool, float]:
        through = [row for row in cell["replicas"] if row["failure"] is None]
        mixed = 0
        for name in ("label", "guard"):
            calm = sum(late_outside(cell, row, name) == 0 for row in through)
            mixed += min(calm, len(through) - calm)
        return mixed, 2 * len(through) >= len(cell["replicas"]), cell["temperature_K"]

    return float(max(mine, key=rank)["temperature_K"])


# The command


@dataclass
class Bench:
    """The command's plan, folders and voice."""

    plan: Plan
    cells: Path
    work: Path
    console: Console
    device: str
    wanted: list[tuple[str, float | None]]
    ms: dict[str, float] = field(default_factory=lambda: dict(COST_MS))
    data: Data | None = None
    ready: dict[str, Ready] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Print a line with the time of day."""
        self.console.print(f"{time.strftime('%H:%M:%S')} {text}", highlight=False, soft_wrap=True)

    def path(self, cell: Cell) -> Path:
        """File of a cell."""
        return self.cells / f"{cell.name}.json"

    def done(self, cell: Cell) -> dict[str, Any] | None:
        """Content of a cell, if it was computed."""
        return read_cell(self.path(cell), self.plan)

    def chosen(self, cell: Cell) -> bool:
        """Whether `--only` asks for it."""
        return not self.wanted or any(
            cell.model.name == model and kelvin in (None, cell.temperature_K)
            for model, kelvin in self.wanted
        )

    def all_cells(self) -> Iterator[Cell]:
        """Every cell of the plan, in the order of work; extensions once they can be chosen."""
        for kind in ("dynamics", "nve"):
            for model in self.plan.models():
                for kelvin in self.plan.temperatures_K:
                    yield Cell(kind, model, kelvin)
        for model in self.plan.models():
            runs = [Cell("dynamics", model, kelvin) for kelvin in self.plan.temperatures_K]
            known = [found for cell in runs if (found := self.done(cell)) is not None]
            kelvin = extension_temperature(self.plan, model, known)
            if kelvin is not None:
                yield Cell("extension", model, kelvin)

    def seconds_left(self) -> float:
        """Estimated wall time of what is missing, s."""
        missing = [c for c in self.all_cells() if self.chosen(c) and not self.path(c).exists()]
        cells = sum(cell.cost_s(self.plan, self.ms) for cell in missing)
        chosen = {c.model for c in self.all_cells() if self.chosen(c)}
        waiting = chosen - {c.model for c in self.all_cells() if c.kind == "extension"}
        longest = self.plan.temperatures_K[-1]
        cells += sum(
            Cell("extension", model, longest).cost_s(self.plan, self.ms)
            for model in waiting
            if not self.wanted
        )
        untrained = [m for m in chosen if not (self.cells / f"model_{m.name}.json").exists()]
        return cells + MODEL_COST_S * len(untrained)

    def model(self, model: Model) -> Ready:
        """The trained model; other runs wait meanwhile."""
        if model.name not in self.ready:
            with files.only_one(self.work, wait_s=7200), contextlib.redirect_stdout(sys.stderr):
                self.data = self.data or prepared_data(self.plan, self.work, self.say)
                self.ready[model.name] = prepared_model(
                    self.plan, model, self.data, work=self.work, cells=self.cells, say=self.say
                )
            errors = self.ready[model.name].entry["force_mae_meV_per_A"]
            known = ", ".join(f"{error:.0f} at {kelvin} K" for kelvin, error in errors.items())
            self.say(f"{model.name}: force MAE {known} (meV/Å)")
        return self.ready[model.name]

    def compute(self) -> None:
        """Compute what is missing."""
        busy = 0
        for cell in self.all_cells():
            if not self.chosen(cell) or self.done(cell) is not None:
                continue
            folder = self.work / cell.name
            with contextlib.ExitStack() as held:
                try:
                    held.enter_context(files.only_one(folder))
                except InputError:
                    busy += 1  # another run has it
                    continue
                if self.done(cell) is None:
                    self.compute_cell(cell, folder)
        if busy:
            self.say(f"{busy} cells are left to another run")

    def compute_cell(self, cell: Cell, folder: Path) -> None:
        """Compute one cell, write it, and forget its checkpoint."""
        ready = self.model(cell.model)
        assert self.data is not None  # noqa: S101  # `model` has set it
        self.say(f"{cell.name}: about {cell.cost_s(self.plan, self.ms):.0f} s")
        resumed = any(folder.glob("*.checkpoint"))
        if cell.kind == "nve":
            found = run_nve(self.plan, cell, ready, self.data, device=self.device)
        else:
            found = run_replicas(
                self.plan, cell, ready, self.data, folder, device=self.device, say=self.say
            )
        head = {
            "schema": SCHEMA,
            "kind": cell.kind,
            "plan": self.plan.digest,
            "model": cell.model.name,
            "group": cell.model.group,
            "temperature_K": cell.temperature_K,
            "seed": cell.seed,
            "weights": ready.entry["weights"],
            "device": self.device,
        }
        write_cell(self.path(cell), head | found)
        for checkpoint in folder.glob("*.checkpoint"):
            checkpoint.unlink()
        failed = sum(row["failure"] is not None for row in found["replicas"])
        if not resumed and cell.kind == "nve":
            self.ms["nve"] *= found["seconds"] / cell.cost_s(self.plan, self.ms)
        elif not resumed:
            simulated_fs = 1000 * sum(row["end_ps"] for row in found["replicas"])
            measured = 1000 * found["seconds"] * self.plan.timestep_fs / simulated_fs
            self.ms["dynamics"] = self.ms["extension"] = measured
        self.say(
            f"{cell.name}: {failed} of {len(found['replicas'])} failed, {found['seconds']:.0f} s; "
            f"all the rest about {self.seconds_left() / 60:.0f} min"
        )

    def show_list(self) -> None:
        """Print what there is to do."""
        for cell in self.all_cells():
            if self.chosen(cell):
                missing = f"about {cell.cost_s(self.plan, self.ms):.0f} s"
                state = "done" if self.path(cell).exists() else missing
                self.console.print(f"{cell.name:40} {state}", highlight=False)
        self.console.print(
            "An extension of each model follows when its temperatures are done. Left: about "
            f"{self.seconds_left() / 60:.0f} min on one free core",
            highlight=False,
        )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="say what is done and what is missing")
    what.add_argument("--summary", action="store_true", help="compute nothing: read the cells")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw figures")
    parser.add_argument(
        "--cells",
        type=Path,
        metavar="DIR",
        help="folder of the cells (default: benchmarks/results/cli_validity)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="MODEL[,KELVIN]",
        help="compute only these, e.g. scratch-25-1 or scratch-25-1,900",
    )
    parser.add_argument("--seeds", type=int, default=1, help="models of each kind (default: 1)")
    parser.add_argument(
        "--committee",
        type=int,
        default=0,
        metavar="K",
        help="also watch the disagreement with K more models, each at the price of a run",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of dynamics")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap samples")
    parser.add_argument("--smoke", action="store_true", help="tiny models and runs, elsewhere")
    return parser.parse_args(arguments)


def made_bench(args: argparse.Namespace) -> Bench:
    """Plan and folders that the command line asks for."""
    plan = replace(SMOKE if args.smoke else Plan(), seeds=args.seeds, committee=args.committee)
    work = WORK / plan.digest
    default = work / "cells" if args.smoke else RESULTS
    if args.committee and not args.smoke:
        default = RESULTS.with_name("cli_validity_committee")
    names = {model.name for model in plan.models()}
    wanted: list[tuple[str, float | None]] = []
    for text in args.only:
        model, _, kelvin = text.partition(",")
        if model not in names:
            raise InputError(f"--only {text}: expected one of {', '.join(sorted(names))}")
        wanted.append((model, float(kelvin) if kelvin else None))
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    return Bench(plan, args.cells or default, work, console, args.device, wanted)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing; summarise, print, write."""
    warnings.simplefilter("ignore")
    args = parsed(arguments)
    try:
        bench = made_bench(args)
        if args.list:
            bench.show_list()
            return
        if not args.summary:
            import torch

            torch.set_num_threads(args.threads)
            bench.compute()
        cells, models = read_all(bench.cells)
        summary = summarised(cells, models, resamples=args.resamples)
    except InputError as error:
        sys.exit(str(error))
    for table in tables(summary):
        bench.console.print(table)
    bench.console.print(footnote(summary))
    if args.json:
        files.write_json(args.json, summary)
    if args.plots:
        for path in draw(summary, cells, args.plots):
            bench.console.print(f"{path}", highlight=False)


if __name__ == "__main__":
    main()
