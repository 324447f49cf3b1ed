"""How fast exploration is: replica-steps per second and core, against the loop that peers run.

Three loops integrate the same molecule with the same model, precision, time step and threads:

- ase: ASE's Langevin dynamics with MACE's own `MACECalculator`, one trajectory at a time;
- bare: torch-sim's Langevin dynamics with our batched MACE, nothing watched;
- halcyon: `halcyon.exploration.explore`, which is the bare loop with the CLI, the failure
  criteria, candidate frames and traces at every step.

`ratio_vs_ase` is halcyon over ase in replica-steps per second; `monitor_overhead` is the time that
halcyon takes longer than bare, as a fraction of bare. Blocks of the three alternate, and each
quotient is taken within one round, so that a machine whose speed drifts or that others use cancels;
given are the median over rounds, the least and the greatest, and the median of CPU times. Of the
monitors there is, besides, `by_stopwatch`: within one run of halcyon, the time of all that is not
the integration of a step, as a fraction of the whole.

    python benchmarks/exploration_speed.py --quick              a minute or two
    python benchmarks/exploration_speed.py --json speed.json    all of it, a quarter of an hour
    python benchmarks/exploration_speed.py --profile            and where the time goes

Systems, model and domain are those of `speed_systems.py`. About 2 % of the atomic energies lie
outside the domain: so the monitors have work to do.

Not for: accuracy, or how long a campaign takes. A block does not time what happens once per
trajectory (start, final checkpoint, tables).
"""

import argparse
import itertools
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import ase.units
import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from torch_sim.integrators import nvt_langevin
from torch_sim.models.interface import ModelInterface

import halcyon.exploration.explore
import halcyon.exploration.replicas
from halcyon import files
from halcyon.config import DomainSettings, ExplorationSettings
from halcyon.domain.intervals import Domain
from halcyon.exploration.dynamics import Dynamics
from halcyon.exploration.explore import Monitoring, RunControl
from halcyon.models import mace
from halcyon.models.batched import BatchedMace
from speed_systems import SEED, SYSTEMS, USUAL, fitted_model, made_domain, made_start

TEMPERATURE_K = 300.0
TIMESTEP_FS = 0.5
FRICTION_PER_PS = 5.0
BATCHES = (1, 8, 64)
LOOPS = ("ase", "bare", "halcyon")
SETTLING_STEPS = {"ase": 1, "bare": 1, "halcyon": halcyon.exploration.replicas.BLOCK_STEPS}
"""Not timed, up to the first tick: the other loops' data are still in the caches."""
DOMAIN_STEPS = 20
HEAD = "replica-steps/s and core: ASE, bare, Halcyon; Halcyon / ASE, by CPU time; monitors, watched"


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
    """Wall and CPU time, and the steps done by then; each loop ticks now and then."""

    device: str
    stamps: list[tuple[float, float, int]] = field(default_factory=list)

    def tick(self, steps: int) -> bool:
        """So many steps are done. Returns False, as `explore` asks whether to stop."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        self.stamps.append((time.perf_counter(), time.process_time(), steps))
        return False

    def per_step(self) -> tuple[float, float]:
        """Mean wall and CPU time of a step between the first tick and the last, s."""
        (wall, cpu, steps), (wall_end, cpu_end, steps_end) = self.stamps[0], self.stamps[-1]
        done = steps_end - steps
        return (wall_end - wall) / done, (cpu_end - cpu) / done


class Counted(ModelInterface):
    """A model that counts its calls: `explore` does not tell each step."""

    def __init__(self, model: BatchedMace) -> None:
        """Wrap a model."""
        super().__init__()
        self.model, self.calls = model, 0
        self._device, self._dtype = model.device, model.dtype
        self._compute_forces, self._compute_stress = True, False

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        """As the model."""
        self.calls += 1
        return self.model(state)


# The three loops: each integrates `steps` steps and ticks the clock after every one, or few.


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
    for step, _ in enumerate(dynamics.irun(steps)):
        clock.tick(step)


def run_bare(case: Case, steps: int, clock: Clock) -> list[dict[str, torch.Tensor]]:
    """torch-sim's loop with our model, nothing watched. Returns the model's output by step."""
    model = case.model
    outputs: list[dict[str, torch.Tensor]] = []
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

    def kept(*args: Any, **options: Any) -> dict[str, torch.Tensor]:
        output = forward(*args, **options)
        outputs.append(output)
        return output

    forward = model.forward
    with mock.patch.object(model, "forward", kept):
        state = init(state, seed=SEED)
        for step in range(steps):
            state = update(state, kT=kT)
            clock.tick(step)
    return outputs


def run_halcyon(case: Case, steps: int, clock: Clock) -> None:
    """Our loop, through its public function, as a campaign calls it."""
    replicas = [
        halcyon.exploration.explore.Replica(number, TEMPERATURE_K, start)
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
    model = Counted(case.model)
    assert case.domain is not None  # noqa: S101  # `made_case` finds it
    with tempfile.TemporaryDirectory() as work:
        found = halcyon.exploration.explore.explore(
            model,
            replicas,
            settings,
            Monitoring(
                domain=case.domain,
                settings=DomainSettings(),
                system_kind="liquid" if case.start.pbc.all() else "molecule",
            ),
            RunControl(work=Path(work), identity="benchmark", stop=lambda: clock.tick(model.calls)),
            seed=SEED,
        )
    if failed := [end.failure for end in found.replicas if end.failure]:
        sys.exit(
            f"{case.system}: {len(failed)} replicas failed ({failed[0]}): their absence would look "
            "like speed. Fit a better model: --epochs"
        )


RUN: dict[str, Callable[[Case, int, Clock], Any]] = {
    "ase": run_ase,
    "bare": run_bare,
    "halcyon": run_halcyon,
}


def made_case(system: str, dtype: str, batch: int, model_file: Path, device: str) -> Case:
    """Load the model for both loops, and find the domain from the bare one's motion."""
    from mace.calculators import MACECalculator

    case = Case(
        system=system,
        dtype=dtype,
        batch=batch,
        start=made_start(system),
        model=BatchedMace(mace.load(model_file, device=device, dtype=dtype)),
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
    RUN[loop](case, SETTLING_STEPS[loop] + steps, clock)
    return clock.per_step()


def measured(
    case: Case, *, rounds: int, block_s: float, case_s: float, steps: int | None
) -> dict[str, Any]:
    """Rounds of the three loops, in turns: `rounds` or, after `case_s` seconds, 3 of them.

    A block has `steps` steps, or as many as fill `block_s` seconds.
    """
    blocks = {}
    for loop in LOOPS:
        timed(case, loop, 1)  # the first steps compile
        took_s, _ = timed(case, loop, 3)
        blocks[loop] = steps or int(np.clip(block_s / took_s, 1, 400))
    # Whole blocks of `explore`: a shorter one at the end would be laid out for itself.
    whole = halcyon.exploration.replicas.BLOCK_STEPS
    blocks["halcyon"] = -(-blocks["halcyon"] // whole) * whole
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
    return {
        "system": case.system,
        "atoms": len(case.start),
        "dtype": case.dtype,
        "batch": case.batch,
        "rounds": len(wall["ase"]),
        "steps_per_block": blocks,
        "replica_steps_per_s_per_core": {
            loop: replicas[loop] / statistics.median(wall[loop]) for loop in LOOPS
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


def profiled(case: Case, steps: int) -> dict[str, float]:
    """Milliseconds per step of the whole batch that each part of exploration takes.

    The time of one run with a stopwatch around each part: for shares, not for comparisons. On a
    processor it is processor time: by wall time, what else ran there went into the difference.
    """
    totals: dict[str, float] = defaultdict(float)
    clock = Clock(case.device)
    on_cpu = case.device == "cpu"
    now = time.process_time if on_cpu else time.perf_counter

    def timed_as(key: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            begun = now()
            result = function(*args, **options)
            totals[key] += now() - begun
            return result

        return watched

    update = timed_as("update", Dynamics.step)

    def settled(dynamics: Dynamics, state: Any, number: int, *rest: Any) -> Any:
        if number == SETTLING_STEPS["halcyon"]:
            totals.clear()
        return update(dynamics, state, number, *rest)

    with (
        mock.patch.multiple(
            case.model,
            forward=timed_as("model", case.model.forward),
            _neighbours=timed_as("neighbours", case.model._neighbours),  # noqa: SLF001
            _edges=timed_as("edges", case.model._edges),  # noqa: SLF001
        ),
        mock.patch.object(Dynamics, "step", settled),
    ):
        run_halcyon(case, SETTLING_STEPS["halcyon"] + steps, clock)
    whole = clock.per_step()[on_cpu]
    part = {key: value / steps for key, value in totals.items()}
    neighbours = part.get("neighbours", part.get("edges", 0.0))
    seconds = {
        "neighbours": neighbours,
        "model": part["model"] - neighbours,
        "integrator": part["update"] - part["model"],
        "monitors": whole - part["update"],
        "step": whole,
    }
    return {key: 1e3 * value for key, value in seconds.items()}


# What is printed and written


def machine(device: str, load_before: tuple[float, float, float]) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": None if device == "cpu" else torch.cuda.get_device_name(),
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "system": platform.platform(),
        "versions": {
            name: version(name)
            for name in ("halcyon-ml", "torch", "torch-sim-atomistic", "mace-torch", "ase")
        },
    }


def nested(cases: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """One quantity as system → dtype → batch."""
    tree: dict[str, Any] = {}
    for case in cases:
        by_batch = tree.setdefault(case["system"], {}).setdefault(case["dtype"], {})
        by_batch[str(case["batch"])] = case[key]
    return tree


def row(case: dict[str, Any]) -> str:
    """One line of the table under `HEAD`."""
    rates, ratio = case["replica_steps_per_s_per_core"], case["ratio_vs_ase"]
    return (
        f"{case['system']:8} {case['dtype']} {case['batch']:5}"
        + "".join(f"{rates[loop]:9.1f}" for loop in LOOPS)
        + f"  {ratio['median']:7.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"
        + f"{ratio['cpu_median']:8.2f}"
        + f"{case['monitor_overhead']['median']:10.1%}"
        + f"{case['monitor_overhead']['by_stopwatch']:7.1%}"
    )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter blocks; float32")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(USUAL))
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 8 64")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", type=Path, help="a MACE model for H, C, O, instead of fitting")
    parser.add_argument("--epochs", type=int, help="of the fit")
    parser.add_argument("--rounds", type=int, help="blocks of each loop")
    parser.add_argument("--steps", type=int, help="of each block (default: as many as fill it)")
    args = parser.parse_args(arguments)
    if min(args.batches or [1]) < 1:
        parser.error("--batches: expected 1 or more")
    args.dtypes = args.dtypes or (["float32"] if args.quick else ["float32", "float64"])
    args.rounds = args.rounds or (3 if args.quick else 5)
    args.epochs = args.epochs or (10 if args.quick else 20)
    # A step of 64 boxes of water takes a second: not for a quick look.
    args.batches = args.batches or list(BATCHES[:2] if args.quick else BATCHES)
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)  # MACE notes every conversion to float64
    args = parsed(arguments)
    load_before = os.getloadavg()
    torch.set_num_threads(1)
    cases, profiles = [], []
    with tempfile.TemporaryDirectory() as folder:
        model_file, fitted = args.model, {}
        if model_file is None:
            model_file = Path(folder) / "fitted.model"
            fitted = fitted_model(
                model_file, systems=args.systems, epochs=args.epochs, device=args.device
            )
            print(f"fitted to MMFF94 forces: {fitted['forces_mae_meV_per_A']} meV/Å")
        print(HEAD)
        for system, dtype, batch in itertools.product(args.systems, args.dtypes, args.batches):
            case = made_case(system, dtype, batch, model_file, args.device)
            block_s, case_s = (0.3, 10) if args.quick else (1.0, 40)
            found = measured(
                case, rounds=args.rounds, block_s=block_s, case_s=case_s, steps=args.steps
            )
            ms = profiled(case, found["steps_per_block"]["halcyon"])
            found["monitor_overhead"]["by_stopwatch"] = ms["monitors"] / ms["step"]
            cases.append(found)
            print(row(found), flush=True)
            if args.profile:
                label = {"system": system, "dtype": dtype, "batch": batch}
                profiles.append(label | {"ms_per_step": ms})
                shares = (f"{name} {part / ms['step']:.1%}" for name, part in ms.items())
                print(f"    {ms['step']:.2f} ms: {', '.join(list(shares)[:-1])}")
    if args.json:
        content = {
            "ratio_vs_ase": nested(cases, "ratio_vs_ase"),
            "monitor_overhead": nested(cases, "monitor_overhead"),
            "cases": cases,
            "profile": profiles,
            "model": fitted or {"file": args.model.name},
            "machine": machine(args.device, load_before),
        }
        files.write_json(args.json, content)


if __name__ == "__main__":
    main()
