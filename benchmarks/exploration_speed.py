"""How fast exploration is: replica-steps per second and core, against the loop that peers run.

Three loops integrate the same molecule with the same model, precision, time step and threads:

- ase: ASE's Langevin dynamics with MACE's own `MACECalculator`, one trajectory at a time;
- bare: torch-sim's Langevin dynamics with our batched MACE, nothing watched;
- halcyon: `halcyon.explore`, which is the bare loop with the CLI, the failure criteria, candidate
  frames and traces at every step.

`ratio_vs_ase` is halcyon over ase in replica-steps per second; `monitor_overhead` is the time that
halcyon takes longer than bare, as a fraction of bare. Blocks of the three alternate, and each
quotient is taken within one round, so that a machine whose speed drifts or that others use cancels;
given are the median over rounds, the least and the greatest, and the median of CPU times.

    python benchmarks/exploration_speed.py --quick              a minute or two
    python benchmarks/exploration_speed.py --json speed.json    all of it, a quarter of an hour
    python benchmarks/exploration_speed.py --profile            and where the time goes

The model has the default size. It is fitted on the spot to MMFF94 energies of displaced frames,
just well enough that the atoms stay together for the few hundred steps that are timed. Its
domain is chosen such that about 2 % of the atomic energies of ordinary motion lie outside: so the
monitors have work to do.

Not for: accuracy, or how long a campaign takes. A block does not time what happens once per
trajectory (start, final checkpoint, tables).
"""

import argparse
import contextlib
import logging
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ase.units
import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers
from rdkit.Geometry import Point3D
from rich.console import Console
from rich.table import Table
from torch_sim.integrators import nvt_langevin

import halcyon.explore
from halcyon import files, mace_model
from halcyon.config import (
    DomainSettings,
    ExplorationSettings,
    ModelSettings,
    StructureSettings,
    TrainingSettings,
)
from halcyon.domain import Domain, Margin
from halcyon.mace_model import BatchedMace
from halcyon.systems import atom_classes, bonds, start_structure

SEED = 20261121
TEMPERATURE_K = 300.0
TIMESTEP_FS = 0.5
FRICTION_PER_PS = 5.0
SMILES = {"ethanol": "CCO", "aspirin": "CC(=O)Oc1ccccc1C(=O)O"}
WATERS, WATER_VOLUME_A3 = 64, 29.9  # of one molecule, at 1 g/cm³
SYSTEMS = (*SMILES, "water64")
BATCHES = (1, 8, 64)
LOOPS = ("ase", "bare", "halcyon")
SETTLING_STEPS = 1
"""Not timed at the start of each block: the other loops' data are still in the caches."""
OUTSIDE = 0.02
"""Fraction of atomic energies outside the domain that is made up here."""
DOMAIN_STEPS = 20
FRAMES_PER_SYSTEM = 40
TABLE_WIDTH = 150
CLUSTER = 8  # waters in each of the frames that teach water


@dataclass
class Case:
    """One line of the table."""

    system: str
    dtype: str
    batch: int
    start: Atoms
    model: BatchedMace
    calculator: Any
    device: str
    domain: Domain | None = None

    def starts(self) -> list[Atoms]:
        """The batch's start frames, all a little different."""
        random = np.random.default_rng(SEED)
        frames = []
        for _ in range(self.batch):
            frame = self.start.copy()
            frame.positions += random.normal(scale=0.01, size=frame.positions.shape)
            frames.append(frame)
        return frames


@dataclass
class Clock:
    """Wall and CPU time of each step of a block."""

    device: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def tick(self) -> bool:
        """End of a step. Returns False, as `explore` asks whether to stop."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())
        return False

    def per_step(self) -> tuple[float, float]:
        """Mean wall and CPU time of a step after the first ones, s."""
        steps = len(self.wall) - SETTLING_STEPS
        wall, cpu = (
            (stamps[-1] - stamps[SETTLING_STEPS - 1]) / steps for stamps in (self.wall, self.cpu)
        )
        return wall, cpu


# The three loops: each integrates `steps` steps and ticks the clock after every one.


def run_ase(case: Case, steps: int, clock: Clock) -> None:
    """The peers' loop: one replica."""
    atoms = case.starts()[0]
    atoms.calc = case.calculator
    MaxwellBoltzmannDistribution(
        atoms, temperature_K=TEMPERATURE_K, rng=np.random.default_rng(SEED)
    )
    dynamics = Langevin(
        atoms,
        timestep=TIMESTEP_FS * ase.units.fs,
        temperature_K=TEMPERATURE_K,
        friction=FRICTION_PER_PS / (1000 * ase.units.fs),
        rng=np.random.default_rng(SEED),
    )
    for _ in dynamics.irun(steps):
        clock.tick()


def run_bare(case: Case, steps: int, clock: Clock) -> list[torch.Tensor]:
    """torch-sim's loop with our model, nothing watched. Returns the atomic energies, eV."""
    node_energies = []

    class Kept(BatchedMace):
        def forward(self, state: Any, **options: Any) -> dict[str, torch.Tensor]:
            output = super().forward(state, **options)
            node_energies.append(output["node_energy"])
            return output

    model = Kept(case.model.model)
    device, dtype = model.device, model.dtype
    torch.manual_seed(SEED)
    state = ts.io.atoms_to_state(case.starts(), device, dtype)
    unit = ts.units.MetalUnits
    kT = torch.full((case.batch,), TEMPERATURE_K, device=device, dtype=dtype)
    kT = kT * float(unit.temperature)
    init, update = nvt_langevin(
        model,
        dt=torch.tensor(TIMESTEP_FS / 1000 * float(unit.time), device=device, dtype=dtype),
        kT=kT,
        gamma=torch.tensor(FRICTION_PER_PS / float(unit.time), device=device, dtype=dtype),
    )
    state = init(state, seed=SEED)
    for _ in range(steps):
        state = update(state, kT=kT)
        clock.tick()
    return node_energies


def run_halcyon(case: Case, steps: int, clock: Clock) -> None:
    """Our loop, through its public function, as a campaign calls it."""
    replicas = [
        halcyon.explore.Replica(number, TEMPERATURE_K, start)
        for number, start in enumerate(case.starts())
    ]
    settings = ExplorationSettings(
        time_ps=steps * TIMESTEP_FS / 1000,
        timestep_fs=TIMESTEP_FS,
        friction_per_ps=FRICTION_PER_PS,
        # The same work as with the defaults; but no replica may leave while it is timed.
        bond_stretch_A=1e3,
        min_distance_A=1e-3,
    )
    with tempfile.TemporaryDirectory() as work:
        found = halcyon.explore.explore(
            case.model,
            case.domain,
            replicas,
            settings,
            DomainSettings(),
            kind="liquid" if case.start.pbc.all() else "molecule",
            work=Path(work),
            identity="benchmark",
            seed=SEED,
            stop=clock.tick,
        )
    if failed := [entry["failure"] for entry in found.replicas if entry["failure"]]:
        sys.exit(
            f"{case.system}: {len(failed)} replicas failed ({failed[0]}): their absence would look "
            "like speed. Fit a better model: --epochs"
        )


RUN: dict[str, Callable[[Case, int, Clock], Any]] = {
    "ase": run_ase,
    "bare": run_bare,
    "halcyon": run_halcyon,
}


# What is simulated, and the model


def made_start(system: str) -> Atoms:
    """Start frame of a system, with bonds in `info["bonds"]`."""
    if system in SMILES:
        settings = StructureSettings(name=system, smiles=SMILES[system], file=None, box_A=None)
        atoms = start_structure(settings)
        pairs = bonds(settings, atoms)
    else:
        atoms = waters(WATERS, np.random.default_rng(SEED))
        atoms.info = {"charge": 0, "multiplicity": 1, "structure": system}
        pairs = [(3 * i, 3 * i + k) for i in range(WATERS) for k in (1, 2)]
    atoms.info["bonds"] = pairs
    return atoms


def waters(number: int, random: np.random.Generator) -> Atoms:
    """Molecules of water on a cubic grid of the liquid's density, turned at random."""
    edge = WATER_VOLUME_A3 ** (1 / 3)
    side = round(number ** (1 / 3))
    atoms = Atoms(cell=[side * edge] * 3, pbc=True)
    for i in range(number):
        one = molecule("H2O")
        one.euler_rotate(*random.uniform(0, 360, size=3), center="COM")
        one.translate(edge * (np.array([i % side, i // side % side, i // side**2]) + 0.5))
        atoms += one
    return atoms


def teaching_frames(system: str, number: int, random: np.random.Generator) -> list[Atoms]:
    """Displaced frames with energies and forces of MMFF94."""
    if system in SMILES:
        base = made_start(system)
        mol = Chem.AddHs(Chem.MolFromSmiles(SMILES[system]))
    else:
        base = waters(CLUSTER, random)
        mol = Chem.AddHs(Chem.MolFromSmiles(".".join("O" * CLUSTER)))
        # RDKit lists the hydrogens after all oxygens.
        hydrogens = [3 * i + k for i in range(CLUSTER) for k in (1, 2)]
        base = base[[*range(0, 3 * CLUSTER, 3), *hydrogens]]
    mol.AddConformer(Chem.Conformer(len(base)))
    terms = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    frames = []
    for _ in range(number):
        scale = random.uniform(0.01, 0.1)
        positions = base.positions + random.normal(scale=scale, size=base.positions.shape)
        for i, xyz in enumerate(positions):
            mol.GetConformer().SetAtomPosition(i, Point3D(*map(float, xyz)))
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(
            mol, terms, ignoreInterfragInteractions=False
        )
        unit = ase.units.kcal / ase.units.mol
        frame = Atoms(base.numbers, positions=positions)
        frame.info["energy"] = field.CalcEnergy() * unit
        frame.arrays["forces"] = -np.array(field.CalcGrad()).reshape(-1, 3) * unit
        frames.append(frame)
    return frames


def fitted_model(out: Path, *, systems: Sequence[str], epochs: int, device: str) -> dict[str, Any]:
    """Fit a model of the default size to all systems at once."""
    random = np.random.default_rng(SEED)
    frames = [
        frame for name in systems for frame in teaching_frames(name, FRAMES_PER_SYSTEM, random)
    ]
    held_out = frames[::8]
    with contextlib.redirect_stdout(sys.stderr):
        summary = mace_model.train(
            [frame for i, frame in enumerate(frames) if i % 8],
            held_out,
            elements=[1, 6, 8],
            model=ModelSettings(),
            fit=TrainingSettings(epochs=epochs, batch_size=8, learning_rate=0.03),
            start=None,
            out=out,
            work=out.parent,
            seed=SEED,
            device=device,
        )
    best = summary.epochs[summary.best_epoch - 1]
    return {
        "fitted_to": "MMFF94, displaced frames",
        "epochs": epochs,
        "frames": len(frames),
        "forces_mae_meV_per_A": round(best.forces_mae_meV_per_A, 1),
    }


def made_domain(case_start: Atoms, node_energies: Sequence[torch.Tensor]) -> Domain:
    """A domain that ordinary motion leaves now and then: its quantiles, as bounds."""
    pairs, name = case_start.info["bonds"], case_start.info["structure"]
    mode = "element" if case_start.pbc.all() else "symmetry"
    classes = atom_classes(case_start, pairs, mode)
    # steps × replicas × atoms
    energies = torch.stack(list(node_energies)).cpu().numpy().reshape(-1, len(case_start))
    label, guard = {}, {}
    for kind in sorted(set(classes)):
        values = energies[:, [k == kind for k in classes]]
        low, high = np.quantile(values, [OUTSIDE / 2, 1 - OUTSIDE / 2])
        label[kind] = (float(low), float(high))
        guard[kind] = (float(values.min()), float(values.max()))
    return Domain(
        classes={name: classes},
        label=label,
        guard=guard,
        margin=Margin(value=0, low=0, high=0, method="conformal", alpha=OUTSIDE, n=0),
        bonds={name: [(i, j, case_start.get_distance(i, j, mic=True)) for i, j in pairs]},
        report={},
    )


def made_case(system: str, dtype: str, batch: int, model_file: Path, device: str) -> Case:
    """Load the model for both loops, and find the domain from the bare one's motion."""
    from mace.calculators import MACECalculator

    case = Case(
        system=system,
        dtype=dtype,
        batch=batch,
        start=made_start(system),
        model=BatchedMace(mace_model.load(model_file, device=device, dtype=dtype)),
        calculator=MACECalculator(model_paths=str(model_file), device=device, default_dtype=dtype),
        device=device,
    )
    few = replace(case, batch=min(batch, 8))
    case.domain = made_domain(case.start, run_bare(few, DOMAIN_STEPS, Clock(device)))
    return case


# Timing


def timed(case: Case, loop: str, steps: int) -> tuple[float, float]:
    """Wall and CPU time of one step of the whole batch, s."""
    clock = Clock(case.device)
    RUN[loop](case, SETTLING_STEPS + steps, clock)
    return clock.per_step()


def measured(
    case: Case, *, rounds: int, block_s: float, case_s: float, steps: int | None
) -> dict[str, Any]:
    """Rounds of the three loops, in turns.

    Args:
        case: what to run.
        rounds: at most.
        block_s: wished wall time of one block, s.
        case_s: wall time after which there are fewer rounds, but at least 3, s.
        steps: of each block, instead of `block_s`.
    """
    blocks = {}
    for loop in LOOPS:
        wall, _ = timed(case, loop, 1)  # warms up, too
        blocks[loop] = steps or int(np.clip(block_s / wall, 1, 400))
    wall: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    begun = time.monotonic()
    for number in range(rounds):
        if number >= 3 and time.monotonic() - begun > case_s:
            break
        first = number % len(LOOPS)
        for loop in (*LOOPS[first:], *LOOPS[:first]):
            took = timed(case, loop, blocks[loop])
            wall[loop].append(took[0])
            cpu[loop].append(took[1])

    def quotients(times: dict[str, list[float]], above: str, below: str) -> np.ndarray:
        return np.array(times[above]) / np.array(times[below])

    replicas = {"ase": 1, "bare": case.batch, "halcyon": case.batch}
    cores = torch.get_num_threads()
    return {
        "system": case.system,
        "atoms": len(case.start),
        "dtype": case.dtype,
        "batch": case.batch,
        "rounds": len(wall["ase"]),
        "steps_per_block": blocks,
        "replica_steps_per_s_per_core": {
            loop: replicas[loop] / statistics.median(wall[loop]) / cores for loop in LOOPS
        },
        "ratio_vs_ase": spread(
            case.batch * quotients(wall, "ase", "halcyon"),
            case.batch * quotients(cpu, "ase", "halcyon"),
        ),
        "monitor_overhead": spread(
            quotients(wall, "halcyon", "bare") - 1, quotients(cpu, "halcyon", "bare") - 1
        ),
    }


def spread(values: np.ndarray, of_cpu_times: np.ndarray) -> dict[str, float]:
    """Median with range, and the median of the same from CPU times."""
    return {
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
        "cpu_median": float(np.median(of_cpu_times)),
    }


# Where the time goes


@contextlib.contextmanager
def stopwatch(owner: Any, name: str, totals: dict[str, float], key: str) -> Iterator[None]:
    """Add the wall time of all calls of `owner.name` to `totals[key]`, s."""
    original = getattr(owner, name)

    def watched(*args: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return original(*args, **options)
        finally:
            totals[key] += time.perf_counter() - begun

    setattr(owner, name, watched)
    try:
        yield
    finally:
        setattr(owner, name, original)


def profiled(case: Case, steps: int) -> dict[str, float]:
    """Milliseconds per step of the whole batch that each part of exploration takes.

    Wall time of one run, with a stopwatch around each part: for shares, not for comparisons.
    """
    totals: dict[str, float] = defaultdict(float)
    clock = Clock(case.device)

    def watched_integrator(*args: Any, **options: Any) -> Any:
        init, update = nvt_langevin(*args, **options)
        watch = SimpleNamespace(update=update)

        def updated(*args: Any, **options: Any) -> Any:
            if len(clock.wall) == SETTLING_STEPS:
                totals.clear()
            with stopwatch(watch, "update", totals, "update"):
                return watch.update(*args, **options)

        return init, updated

    with contextlib.ExitStack() as stack:
        for owner, name, key in (
            (case.model, "forward", "model"),
            (case.model, "_edges", "edges"),
            (torch.autograd, "grad", "backward"),
            (case.model.model, "forward", "mace"),
        ):
            stack.enter_context(stopwatch(owner, name, totals, key))
        original = halcyon.explore.nvt_langevin
        halcyon.explore.nvt_langevin = watched_integrator
        stack.callback(setattr, halcyon.explore, "nvt_langevin", original)
        run_halcyon(case, SETTLING_STEPS + steps, clock)
    whole, _ = clock.per_step()
    part = {key: value / steps for key, value in totals.items()}
    seconds = {
        "neighbours": part["edges"],
        "forward": part["mace"] - part["backward"],
        "backward": part["backward"],
        "around MACE": part["model"] - part["mace"] - part["edges"],
        "integrator": part["update"] - part["model"],
        "monitors": whole - part["update"],
        "step": whole,
    }
    return {key: 1e3 * value for key, value in seconds.items()}


# What is printed and written


def machine(device: str, load_before: tuple[float, float, float]) -> dict[str, Any]:
    """What the numbers depend on."""
    names = [
        line.split(":")[1].strip()
        for line in files_lines(Path("/proc/cpuinfo"))
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": None if device == "cpu" else torch.cuda.get_device_name(),
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {
            name: version(name)
            for name in ("halcyon-ml", "torch", "torch-sim-atomistic", "mace-torch", "ase")
        },
    }


def files_lines(path: Path) -> list[str]:
    """Lines of a file; none where the system does not have it."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def nested(cases: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """One quantity as system → dtype → batch."""
    tree: dict[str, Any] = {}
    for case in cases:
        tree.setdefault(case["system"], {}).setdefault(case["dtype"], {})[str(case["batch"])] = (
            case[key]
        )
    return tree


def speed_table(cases: Sequence[dict[str, Any]]) -> Table:
    """The result for people."""
    table = Table(title="Replica-steps per second and core", title_justify="left")
    for name in ("system", "precision", "batch", "ASE", "bare", "Halcyon"):
        table.add_column(name, justify="left" if name in ("system", "precision") else "right")
    table.add_column("Halcyon / ASE", justify="right")
    table.add_column("monitors", justify="right")
    table.add_column("by CPU time", justify="right")
    table.add_column("rounds × steps", justify="right")
    for case in cases:
        rates, ratio = case["replica_steps_per_s_per_core"], case["ratio_vs_ase"]
        monitors, steps = case["monitor_overhead"], case["steps_per_block"]
        table.add_row(
            f"{case['system']} ({case['atoms']} atoms)",
            case["dtype"],
            str(case["batch"]),
            *(f"{rates[loop]:.1f}" for loop in LOOPS),
            f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})",
            f"{monitors['median']:.1%} ({monitors['min']:.1%}–{monitors['max']:.1%})",
            f"{ratio['cpu_median']:.2f}, {monitors['cpu_median']:.1%}",
            f"{case['rounds']} × {'/'.join(str(steps[loop]) for loop in LOOPS)}",
        )
    return table


def profile_table(profiles: Sequence[dict[str, Any]]) -> Table:
    """Shares of a step."""
    table = Table(title="Where a step of exploration goes", title_justify="left")
    parts = [name for name in profiles[0]["ms_per_step"] if name != "step"]
    for name in ("system", "precision", "batch", "ms/step", *parts):
        table.add_column(name, justify="left" if name in ("system", "precision") else "right")
    for entry in profiles:
        ms = entry["ms_per_step"]
        table.add_row(
            entry["system"],
            entry["dtype"],
            str(entry["batch"]),
            f"{ms['step']:.1f}",
            *(f"{ms[part] / ms['step']:.1%}" for part in parts),
        )
    return table


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter blocks; float32")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 8 64")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"))
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", type=Path, help="a MACE model for H, C, O, instead of fitting")
    parser.add_argument("--epochs", type=int, help="of the fit")
    parser.add_argument("--rounds", type=int, help="blocks of each loop")
    parser.add_argument("--steps", type=int, help="of each block (default: as many as fill it)")
    args = parser.parse_args(arguments)
    if min(args.batches or [1]) < 1 or args.threads < 1:
        parser.error("--batches and --threads: expected 1 or more")
    args.dtypes = args.dtypes or (["float32"] if args.quick else ["float32", "float64"])
    args.rounds = args.rounds or (3 if args.quick else 5)
    args.epochs = args.epochs or (10 if args.quick else 20)
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)  # MACE notes every conversion to float64
    args, console = parsed(arguments), Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    load_before = os.getloadavg()
    torch.set_num_threads(args.threads)
    cases, profiles = [], []
    with tempfile.TemporaryDirectory() as folder:
        model_file, fitted = args.model, {}
        if model_file is None:
            console.print("Fitting a model …")
            model_file = Path(folder) / "fitted.model"
            fitted = fitted_model(
                model_file, systems=args.systems, epochs=args.epochs, device=args.device
            )
            console.print(f"MMFF94 forces within {fitted['forces_mae_meV_per_A']} meV/Å")
        for system in args.systems:
            # A step of 64 boxes of water takes seconds: not for a quick look.
            most = 8 if args.quick and system == "water64" else max(BATCHES)
            for dtype in args.dtypes:
                for batch in args.batches or [b for b in BATCHES if b <= most]:
                    case = made_case(system, dtype, batch, model_file, args.device)
                    found = measured(
                        case,
                        rounds=args.rounds,
                        block_s=0.3 if args.quick else 1.0,
                        case_s=10 if args.quick else 40,
                        steps=args.steps,
                    )
                    cases.append(found)
                    ratio = found["ratio_vs_ase"]["median"]
                    console.print(f"{system}, {dtype}, {batch} replicas: {ratio:.2f} × ASE")
                    if args.profile:
                        steps = found["steps_per_block"]["halcyon"]
                        label = {"system": system, "dtype": dtype, "batch": batch}
                        profiles.append(label | {"ms_per_step": profiled(case, steps)})
    console.print(speed_table(cases))
    if profiles:
        console.print(profile_table(profiles))
    info = machine(args.device, load_before)
    console.print(
        f"{info['processor']}, {info['cores']} cores, {info['threads']} threads used; load "
        f"{load_before[0]:.1f} before, {info['load_after'][0]:.1f} after. Median over rounds "
        "(least–greatest)."
    )
    if args.json:
        content = {
            "ratio_vs_ase": nested(cases, "ratio_vs_ase"),
            "monitor_overhead": nested(cases, "monitor_overhead"),
            "cases": cases,
            "profile": profiles,
            "model": fitted or {"file": args.model.name},
            "settings": {
                "temperature_K": TEMPERATURE_K,
                "timestep_fs": TIMESTEP_FS,
                "friction_per_ps": FRICTION_PER_PS,
                "outside_fraction": OUTSIDE,
                "seed": SEED,
                "quick": args.quick,
            },
            "machine": info,
        }
        files.write_json(args.json, content)


if __name__ == "__main__":
    main()
