"""Molecular dynamics of many replicas in one batch, every step watched by the CLI.

torch-sim integrates (BAOAB Langevin); this module hands each forward pass to the signals, stops
replicas that fail, keeps candidate frames, thins the traces, and saves itself so that a killed run
goes on as the same trajectory. A step waits for the device once: to learn if anything happened.

    model = BatchedMace(load(path))
    result = explore(model, domain, replicas, settings, kind="molecule", work=work, seed=1)

Not for: integrators (torch-sim), choosing frames (`select`), or long production runs.
"""

import hashlib
import io
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch_sim as ts
from ase import Atoms
from torch_sim.integrators import nvt_langevin
from torch_sim.integrators.md import MDState
from torch_sim.models.interface import ModelInterface
from torch_sim.quantities import calc_kT

from halcyon import files
from halcyon.cli_index import CliIndex, per_replica
from halcyon.config import DomainSettings, ExplorationSettings
from halcyon.domain import Domain
from halcyon.errors import Interrupted
from halcyon.failures import FailureMonitor
from halcyon.frames import structure_only
from halcyon.signals import Signal, make_signals

FRAMES_BEFORE_FAILURE = 4
"""Frames kept before a failure, one every fifth of a candidate interval."""
PROGRESS_EVERY_S = 10.0
TRACES_VERSION = 1
LABEL = 0
"""Row of the label domain among the signals: candidates rest on it."""


def trace_columns(signals: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Columns of traces: unit and meaning by name.

    Args:
        signals: what their columns end in, e.g. `label`, `guard`, `latent`.
    """
    watched: dict[str, tuple[str, str]] = {}
    for name in signals:
        domain = f"the {name} domain" if name in ("label", "guard") else f"the signal {name}"
        watched |= {
            f"cli_{name}": ("ps", f"mean over atoms of the CLI against {domain}"),
            f"cli_{name}_max": ("ps", f"greatest atomic CLI against {domain}"),
            f"rate_{name}": ("", "dΛ/dt since the last point: fraction of predictions outside"),
            f"excursions_{name}": ("", "excursions begun so far, summed over atoms"),
        }
    return _BEFORE | watched | _AFTER


_BEFORE = {
    "replica": ("", "replica number"),
    "structure": ("", "start structure"),
    "target_temperature": ("K", "thermostat temperature"),
    "time": ("ps", "simulated time"),
}
_AFTER = {
    "potential_energy": ("eV", "potential energy"),
    "temperature": ("K", "kinetic temperature"),
}
TRACE_COLUMNS = trace_columns(["label", "guard"])
"""Columns that traces have always; more signals add theirs."""


@dataclass(frozen=True)
class Replica:
    """One trajectory to run: its number, thermostat temperature in K, and start frame."""

    number: int
    temperature_K: float
    start: Atoms


@dataclass(frozen=True)
class Progress:
    """How far a run is: simulated ps of all, ns per day of all replicas together, seconds left."""

    done: float
    ns_per_day: float
    seconds_left: float
    failed: int


@dataclass
class Exploration:
    """What a run found.

    Attributes:
        traces: one row per replica and trace point, columns as `trace_columns`.
        candidates: frames outside the label domain or shortly before a failure.
        replicas: per replica: number, structure, temperature, time_ps, atoms, failure (or null).
        steps: replica-steps integrated.
    """

    traces: pd.DataFrame
    candidates: list[Atoms]
    replicas: list[dict[str, Any]]
    steps: int


def explore(
    model: ModelInterface,
    domain: Domain,
    replicas: Sequence[Replica],
    settings: ExplorationSettings,
    indicator: DomainSettings,
    *,
    kind: str,
    work: Path,
    identity: str,
    seed: int,
    seconds: float = float("inf"),
    committee: Sequence[ModelInterface] = (),
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda _: None,
) -> Exploration:
    """Run all replicas to their end or failure, or go on where a killed run stopped.

    Args:
        model: returns energy, forces, `node_energy` (interaction energies, eV) and, where a signal
            reads them, `descriptors`.
        domain: both tiers, and the calibration of the other signals.
        replicas: what to run. Periodic and other replicas go into separate batches.
        settings: time, time step, friction, what counts as failure.
        indicator: which signals, and which h(s) the index uses.
        kind: of system, see `config.System`.
        work: folder of this run's checkpoints.
        identity: of models and domain (their hashes): a checkpoint of another is not continued.
        seed: of momenta and thermostat.
        seconds: wall time after which the run saves itself and stops.
        committee: the other models of the signal `committee`.
        stop: asked at every step; true: save and stop (SIGTERM).
        report: called every few seconds.

    Raises:
        InputError: a signal is not calibrated.
        Interrupted: stopped in good order; the same call goes on.
    """
    signals = make_signals(domain, indicator.signals, committee)
    deadline = time.monotonic() + seconds
    groups = [[r for r in replicas if r.start.pbc.all() == periodic] for periodic in (False, True)]
    runs = []
    for number, group in enumerate(group for group in groups if group):
        run = _Run(
            model,
            domain,
            group,
            settings,
            indicator,
            signals=signals,
            kind=kind,
            seed=seed + number,
        )
        checkpoint = work / f"{run.fingerprint(identity)}.checkpoint"
        run.go(checkpoint, deadline=deadline, stop=stop, report=report)
        runs.append(run)
    return Exploration(
        traces=pd.concat([run.traces() for run in runs], ignore_index=True),
        candidates=[frame for run in runs for frame in run.candidates()],
        replicas=sorted(
            (entry for run in runs for entry in run.replica_reports()), key=lambda r: r["replica"]
        ),
        steps=sum(run.replica_steps for run in runs),
    )


def write_traces(path: Path, traces: pd.DataFrame) -> None:
    """Write traces as Parquet with units and meanings in the columns' metadata, atomically."""
    table = pa.Table.from_pandas(traces, preserve_index=False)
    signals = [name.removeprefix("rate_") for name in traces.columns if name.startswith("rate_")]
    fields = [
        table.schema.field(name).with_metadata({"unit": unit, "meaning": meaning})
        for name, (unit, meaning) in trace_columns(signals).items()
    ]
    schema = pa.schema(fields, metadata={"halcyon.traces": str(TRACES_VERSION)})
    with files.replacing(path) as temporary:
        pq.write_table(table.cast(schema), temporary, compression="zstd")


class _Watched(ModelInterface):
    """Passes calls on and keeps the output of the last one, free of charge."""

    def __init__(self, model: ModelInterface) -> None:
        super().__init__()
        self._model = model
        self._device, self._dtype = model.device, model.dtype
        self._compute_forces, self._compute_stress = True, False
        self.output: dict[str, torch.Tensor] = {}

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        self.output = self._model(state)
        return self.output


@dataclass
class _Worst:
    """The worst-scored frame of a replica in the running candidate interval, as it was."""

    score: float
    step: int
    positions: torch.Tensor
    forces: torch.Tensor
    scores: torch.Tensor
    cli: torch.Tensor


@dataclass
class _Book:
    """What has been written down so far; plain values, so that a checkpoint can hold them."""

    points: list[torch.Tensor] = field(default_factory=list)
    candidates: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[int, tuple[float, str]] = field(default_factory=dict)


class _Run:
    """One batch of replicas of equal periodicity."""

    def __init__(
        self,
        model: ModelInterface,
        domain: Domain,
        replicas: Sequence[Replica],
        settings: ExplorationSettings,
        indicator: DomainSettings,
        *,
        signals: dict[str, Signal],
        kind: str,
        seed: int,
    ) -> None:
        self.signals = signals
        self.model = _Watched(model)
        self.domain, self.replicas, self.settings = domain, replicas, settings
        self.indicator, self.kind, self.seed = indicator, kind, seed
        self.timestep_ps = settings.timestep_fs / 1000
        self.steps = max(1, round(settings.time_ps / self.timestep_ps))
        self.trace_every = max(1, round(1 / (settings.trace_points_per_ps * self.timestep_ps)))
        self.interval = max(1, round(settings.candidate_interval_fs / settings.timestep_fs))
        self.ring_every = max(1, self.interval // 5)
        self.step = 0
        self.replica_steps = 0
        self.book = _Book()

    def fingerprint(self, identity: str) -> str:
        """Hash of all that determines the trajectory."""
        digest = hashlib.sha256(identity.encode())
        digest.update(self.settings.model_dump_json(exclude={"checkpoint_s"}).encode())
        digest.update(self.indicator.model_dump_json().encode())
        digest.update(json.dumps([self.kind, self.seed, str(self.model.dtype)]).encode())
        for replica in self.replicas:
            digest.update(f"{replica.number} {replica.temperature_K}".encode())
            digest.update(replica.start.numbers.tobytes() + replica.start.positions.tobytes())
        return digest.hexdigest()[:16]

    def go(
        self,
        checkpoint: Path,
        *,
        deadline: float,
        stop: Callable[[], bool],
        report: Callable[[Progress], None],
    ) -> None:
        """Integrate to the end, saving to `checkpoint` now and then."""
        self._start()
        if checkpoint.exists():
            self._restore(checkpoint)
        saved = reported = begun = time.monotonic()
        steps_before = self.replica_steps
        while self.step < self.steps and len(self.active):
            self._advance()
            now = time.monotonic()
            if stop() or now > deadline:
                self._save(checkpoint)
                raise Interrupted(f"stopped at {self.step} of {self.steps} steps; saved")
            if now - saved > self.settings.checkpoint_s:
                self._save(checkpoint)
                saved = now
            if now - reported > PROGRESS_EVERY_S:
                reported = now
                report(self._progress(now - begun, self.replica_steps - steps_before))
        self._close_interval()
        self._save(checkpoint)

    def _progress(self, elapsed: float, replica_steps: int) -> Progress:
        rate = replica_steps / elapsed
        left = (self.steps - self.step) * len(self.active)
        return Progress(
            done=self.step / self.steps,
            ns_per_day=rate * self.timestep_ps / 1000 * 86400,
            seconds_left=left / rate,
            failed=len(self.book.failures),
        )

    def _start(self) -> None:
        device, dtype = self.model.device, self.model.dtype
        torch.manual_seed(self.seed)
        state = ts.io.atoms_to_state([r.start for r in self.replicas], device, dtype)
        kelvin = torch.tensor([r.temperature_K for r in self.replicas], device=device, dtype=dtype)
        self.kT = kelvin * float(ts.units.MetalUnits.temperature)
        time_unit = float(ts.units.MetalUnits.time)
        init, self.update = nvt_langevin(
            self.model,
            dt=torch.tensor(self.timestep_ps * time_unit, device=device, dtype=dtype),
            kT=self.kT,
            gamma=torch.tensor(
                self.settings.friction_per_ps / time_unit, device=device, dtype=dtype
            ),
        )
        self.state: MDState = init(state, seed=self.seed)
        self.active = list(range(len(self.replicas)))
        self.index = CliIndex(
            len(self.signals),
            self.state.n_atoms,
            timestep_ps=self.timestep_ps,
            device=device,
            indicator=self.indicator.indicator,
            kappa=self.indicator.kappa,
        )
        self._monitor_active()
        self.worst: list[_Worst | None] = [None] * len(self.active)
        self.ring: deque[tuple[int, torch.Tensor]] = deque(maxlen=FRAMES_BEFORE_FAILURE)
        self.at_interval_start = self.index.cli[LABEL].clone()

    def _monitor_active(self) -> None:
        """Scorers, monitors and places in the batch of the replicas that are still running."""
        starts = [self.replicas[i].start for i in self.active]
        device = self.model.device
        self.scorers = [signal.for_batch(starts, device) for signal in self.signals.values()]
        self.failure = FailureMonitor(
            starts,
            self.domain.bonds,
            kind=self.kind,
            bond_stretch_A=self.settings.bond_stretch_A,
            min_distance_A=self.settings.min_distance_A,
            device=device,
        )
        ends = list(itertools.accumulate((len(start) for start in starts), initial=0))
        self.atoms_of = [slice(*pair) for pair in itertools.pairwise(ends)]
        # Each replica's atoms in one row, filled up with its last: cheaper than `per_replica`.
        most = max(len(start) for start in starts)
        rows = [
            min(begin + i, end - 1) for begin, end in itertools.pairwise(ends) for i in range(most)
        ]
        self.rows = torch.tensor(rows, device=device)

    def _advance(self) -> None:
        self.state = self.update(self.state, kT=self.kT)
        self.step += 1
        self.replica_steps += len(self.active)
        state = self.state
        scores = [score(state, self.model.output) for score in self.scorers]
        self.index.update(torch.stack(scores))
        room = self.failure.room(state.positions, state.energy, state.forces)
        highest = scores[LABEL].index_select(0, self.rows).view(len(self.active), -1).amax(dim=1)
        # The one wait for the device; looking closely is for the steps that need it.
        least, *worst = torch.cat([room.unsqueeze(0), highest]).tolist()
        reasons = {}
        if not least > 0:  # NaN, too
            reasons = self.failure.check(state.positions, state.energy, state.forces)
        for i, score in enumerate(worst):
            if score > 0 and i not in reasons:  # the failed frame itself is no candidate
                self._note_worst(i, score, scores[LABEL])
        if self.step % self.trace_every == 0 or reasons:
            self._trace()
        if reasons:
            self._retire(reasons)
        if self.active and self.step % self.interval == 0:
            self._close_interval()
        if self.step % self.ring_every == 0:
            self.ring.append((self.step, self.state.positions.clone()))

    def _note_worst(self, i: int, score: float, scores: torch.Tensor) -> None:
        """Keep the frame where an atom of a replica is furthest outside its label domain."""
        before = self.worst[i]
        if before is None or score > before.score:
            mine, state = self.atoms_of[i], self.state
            self.worst[i] = _Worst(
                score,
                self.step,
                positions=state.positions[mine].clone(),
                forces=state.forces[mine].clone(),
                scores=scores[mine].clone(),
                cli=self.index.cli[LABEL, mine].clone(),
            )

    def _close_interval(self) -> None:
        """Turn the worst frames of the interval into candidates and begin a new one."""
        for i in range(len(self.active)):
            self._propose_worst(i)
        self.worst = [None] * len(self.active)
        self.at_interval_start = self.index.cli[LABEL].clone()

    def _propose_worst(self, i: int) -> None:
        worst = self.worst[i]
        if worst is None:
            return
        atom = int(worst.scores.argmax())
        self._propose(
            i,
            worst.positions,
            step=worst.step,
            reason="excursion",
            atom=atom,
            score=worst.score,
            cli=float(worst.cli.mean()),
            cli_atom=float(worst.cli[atom]),
            cli_gain=self._gained(self.atoms_of[i]),
            force_max=float(worst.forces.double().norm(dim=1).max()),
        )

    def _gained(self, atoms: slice) -> float:
        """Largest atomic CLI gained since the interval began, ps."""
        return float((self.index.cli[LABEL] - self.at_interval_start)[atoms].max())

    def _propose(self, i: int, positions: torch.Tensor, *, step: int, **info: Any) -> None:
        self.book.candidates.append(
            {
                "member": self.active[i],
                "positions": positions.double().cpu().clone(),
                "time": step * self.timestep_ps,
                **info,
            }
        )

    def _trace(self) -> None:
        state, n, index = self.state, len(self.active), self.index
        replica = state.system_idx
        kT = calc_kT(masses=state.masses, momenta=state.momenta, system_idx=replica).double()
        rows = torch.cat(
            [
                per_replica(index.cli, replica, n, "mean"),
                per_replica(index.cli, replica, n, "amax"),
                per_replica(index.excursions, replica, n, "sum").double(),
                state.energy.double().unsqueeze(0),
                (kT / float(ts.units.MetalUnits.temperature)).unsqueeze(0),
            ]
        )
        members = torch.tensor(self.active, dtype=torch.float64)
        time_ps = torch.full((n,), self.step * self.timestep_ps, dtype=torch.float64)
        known = torch.stack([members, time_ps], dim=1)
        self.book.points.append(torch.cat([known, rows.T.cpu()], dim=1))

    def _retire(self, reasons: dict[int, str]) -> None:
        """Record failed replicas, propose the frames before, and take them out of the batch."""
        for i, reason in reasons.items():
            self.book.failures[self.active[i]] = (self.step * self.timestep_ps, reason)
            self._propose_worst(i)
            mine = self.atoms_of[i]
            cli = self.index.cli[LABEL, mine]
            for step, positions in self.ring:
                self._propose(
                    i,
                    positions[mine],
                    step=step,
                    reason="before failure",
                    atom=int(cli.argmax()),
                    cli=float(cli.mean()),
                    cli_atom=float(cli.max()),
                    cli_gain=self._gained(mine),
                )
        kept = [i for i in range(len(self.active)) if i not in reasons]
        self._keep(kept)

    def _keep(self, kept: list[int]) -> None:
        atoms = torch.isin(self.state.system_idx, torch.tensor(kept, device=self.model.device))
        self.active = [self.active[i] for i in kept]
        if not kept:
            return
        self.state = self.state[kept]
        self.kT = self.kT[kept]
        self._monitor_active()
        self.index.keep(atoms)
        self.at_interval_start = self.at_interval_start[atoms]
        self.worst = [self.worst[i] for i in kept]
        self.ring = deque(
            ((step, positions[atoms]) for step, positions in self.ring),
            maxlen=FRAMES_BEFORE_FAILURE,
        )

    def _save(self, path: Path) -> None:
        content = {
            "step": self.step,
            "replica_steps": self.replica_steps,
            "active": self.active,
            "positions": self.state.positions,
            "momenta": self.state.momenta,
            "forces": self.state.forces,
            "energy": self.state.energy,
            "index": self.index.state(),
            "interval": self.at_interval_start,
            "worst": [worst and vars(worst) for worst in self.worst],
            "ring": list(self.ring),
            "book": vars(self.book),
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with files.replacing(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def _restore(self, path: Path) -> None:
        saved = torch.load(path, map_location=self.model.device, weights_only=True)
        if saved["active"] and saved["active"] != self.active:
            self._keep([self.active.index(i) for i in saved["active"]])
        self.active = saved["active"]
        self.step, self.replica_steps = saved["step"], saved["replica_steps"]
        if self.active:
            for name in ("positions", "momenta", "forces", "energy"):
                setattr(self.state, name, saved[name])
            self.index.restore(saved["index"])
            self.at_interval_start = saved["interval"]
            self.worst = [worst and _Worst(**worst) for worst in saved["worst"]]
            self.ring = deque(saved["ring"], maxlen=FRAMES_BEFORE_FAILURE)
        self.book = _Book(**saved["book"])
        torch.set_rng_state(saved["rng"].cpu())
        if saved["rng_cuda"]:
            torch.cuda.set_rng_state_all([state.cpu() for state in saved["rng_cuda"]])

    def traces(self) -> pd.DataFrame:
        """All trace points so far, rates included."""
        columns = ["member", "time"]
        for ending in ("cli_{}", "cli_{}_max", "excursions_{}"):
            columns += [ending.format(name) for name in self.signals]
        columns += _AFTER
        none = torch.empty(0, len(columns))
        rows = torch.cat(self.book.points) if self.book.points else none
        table = pd.DataFrame(rows.numpy(), columns=columns)
        members = table.pop("member").astype(int)
        table["replica"] = [self.replicas[i].number for i in members]
        table["structure"] = [self.replicas[i].start.info["structure"] for i in members]
        table["target_temperature"] = [self.replicas[i].temperature_K for i in members]
        table = table.sort_values(["replica", "time"], ignore_index=True)
        by_replica = table.groupby("replica")
        elapsed = by_replica["time"].diff().fillna(table["time"])
        for name in self.signals:
            cli = table[f"cli_{name}"]
            gained = by_replica[f"cli_{name}"].diff().fillna(cli)
            table[f"rate_{name}"] = gained / elapsed
            table[f"excursions_{name}"] = table[f"excursions_{name}"].astype(int)
        return table[list(trace_columns(list(self.signals)))]

    def candidates(self) -> list[Atoms]:
        """Candidate frames with their scores."""
        frames = []
        for entry in self.book.candidates:
            replica = self.replicas[entry["member"]]
            frame = structure_only(replica.start)
            frame.positions = entry["positions"].numpy()
            frame.info |= {"replica": replica.number, "temperature": replica.temperature_K}
            frame.info |= {k: v for k, v in entry.items() if k not in ("member", "positions")}
            frames.append(frame)
        return frames

    def replica_reports(self) -> list[dict[str, Any]]:
        """How each replica ended."""
        reports = []
        for i, replica in enumerate(self.replicas):
            failed_at, reason = self.book.failures.get(i, (None, None))
            reports.append(
                {
                    "replica": replica.number,
                    "structure": replica.start.info["structure"],
                    "temperature_K": replica.temperature_K,
                    "atoms": len(replica.start),
                    "time_ps": self.steps * self.timestep_ps if failed_at is None else failed_at,
                    "failure": reason,
                }
            )
        return reports
