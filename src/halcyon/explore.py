"""Molecular dynamics of many replicas in one batch, every step watched by the CLI.

torch-sim integrates (BAOAB Langevin); this module looks at the atomic energies of the same forward
pass, stops replicas that fail, keeps candidate frames, thins the traces, and saves itself so that
a killed run goes on as the same trajectory.

    model = BatchedMace(load(path))
    result = explore(model, domain, replicas, settings, kind="molecule", work=work, seed=1)

Not for: integrators (torch-sim), choosing frames (`select`), or long production runs.
"""

import hashlib
import io
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
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

FRAMES_BEFORE_FAILURE = 4
"""Frames kept before a failure, one every fifth of a candidate interval."""
PROGRESS_EVERY_S = 10.0
TIERS = ("label", "guard")
TRACES_VERSION = 1

TRACE_COLUMNS = {
    "replica": ("", "replica number"),
    "structure": ("", "start structure"),
    "target_temperature": ("K", "thermostat temperature"),
    "time": ("ps", "simulated time"),
    "cli_label": ("ps", "mean over atoms of the CLI against the label domain"),
    "cli_label_max": ("ps", "greatest atomic CLI against the label domain"),
    "rate_label": ("", "dΛ/dt since the last point: fraction of predictions outside"),
    "excursions_label": ("", "excursions begun so far, summed over atoms"),
    "cli_guard": ("ps", "as cli_label, against the guard domain"),
    "cli_guard_max": ("ps", "as cli_label_max, against the guard domain"),
    "rate_guard": ("", "as rate_label, against the guard domain"),
    "excursions_guard": ("", "as excursions_label, against the guard domain"),
    "potential_energy": ("eV", "potential energy"),
    "temperature": ("K", "kinetic temperature"),
}
_MEASURED = [
    "cli_label",
    "cli_label_max",
    "excursions_label",
    "cli_guard",
    "cli_guard_max",
    "excursions_guard",
    "potential_energy",
    "temperature",
]


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
        traces: one row per replica and trace point, columns as `TRACE_COLUMNS`.
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
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda _: None,
) -> Exploration:
    """Run all replicas to their end or failure, or go on where a killed run stopped.

    Args:
        model: returns energy, forces and `node_energy` (interaction energies, eV).
        domain: both tiers.
        replicas: what to run. Periodic and other replicas go into separate batches.
        settings: time, time step, friction, what counts as failure.
        indicator: which h(s) the index uses.
        kind: of system, see `config.System`.
        work: folder of this run's checkpoints.
        identity: of model and domain (their hashes): a checkpoint of another is not continued.
        seed: of momenta and thermostat.
        seconds: wall time after which the run saves itself and stops.
        stop: asked at every step; true: save and stop (SIGTERM).
        report: called every few seconds.

    Raises:
        Interrupted: stopped in good order; the same call goes on.
    """
    deadline = time.monotonic() + seconds
    groups = [[r for r in replicas if r.start.pbc.all() == periodic] for periodic in (False, True)]
    runs = []
    for number, group in enumerate(group for group in groups if group):
        run = _Run(model, domain, group, settings, indicator, kind=kind, seed=seed + number)
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
    fields = [
        table.schema.field(name).with_metadata({"unit": unit, "meaning": meaning})
        for name, (unit, meaning) in TRACE_COLUMNS.items()
    ]
    schema = pa.schema(fields, metadata={"halcyon.traces": str(TRACES_VERSION)})
    with files.replacing(path) as temporary:
        pq.write_table(table.cast(schema), temporary, compression="zstd")


class _Watched(ModelInterface):
    """Passes calls on and keeps the atomic energies of the last one, free of charge."""

    def __init__(self, model: ModelInterface) -> None:
        super().__init__()
        self._model = model
        self._device, self._dtype = model.device, model.dtype
        self._compute_forces, self._compute_stress = True, False
        self.node_energy = torch.empty(0)

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        output = self._model(state)
        self.node_energy = output["node_energy"]
        return output


@dataclass
class _Best:
    """The worst-scored frame of each replica in the running candidate interval."""

    score: torch.Tensor
    positions: torch.Tensor
    force: torch.Tensor
    atom: torch.Tensor
    step: torch.Tensor
    cli: torch.Tensor
    cli_atom: torch.Tensor


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
        kind: str,
        seed: int,
    ) -> None:
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
        self._monitor_active()
        self.ring: deque[tuple[int, torch.Tensor]] = deque(maxlen=FRAMES_BEFORE_FAILURE)
        self.at_interval_start = self.index["label"].cli.clone()

    def _monitor_active(self) -> None:
        """Indices, monitors and scratch tensors for the replicas that are still running."""
        structures = [self.replicas[i].start.info["structure"] for i in self.active]
        self.index = {
            tier: CliIndex(
                torch.as_tensor(self.domain.intervals(tier, structures), device=self.model.device),
                timestep_ps=self.timestep_ps,
                indicator=self.indicator.indicator,
                kappa=self.indicator.kappa,
            )
            for tier in TIERS
        }
        self.failure = FailureMonitor(
            [self.replicas[i].start for i in self.active],
            self.domain.bonds,
            kind=self.kind,
            bond_stretch_A=self.settings.bond_stretch_A,
            min_distance_A=self.settings.min_distance_A,
            device=self.model.device,
        )
        self.best = self._empty_best()

    def _empty_best(self) -> _Best:
        n, device = len(self.active), self.model.device
        zeros = torch.zeros(n, dtype=torch.float64, device=device)
        return _Best(
            score=zeros.clone(),
            positions=self.state.positions.clone(),
            force=zeros.clone(),
            atom=torch.zeros(n, dtype=torch.int64, device=device),
            step=torch.zeros(n, dtype=torch.int64, device=device),
            cli=zeros.clone(),
            cli_atom=zeros.clone(),
        )

    def _advance(self) -> None:
        self.state = self.update(self.state, kT=self.kT)
        self.step += 1
        self.replica_steps += len(self.active)
        scores = {tier: self.index[tier].update(self.model.node_energy) for tier in TIERS}
        reasons = self.failure.check(self.state.positions, self.state.energy, self.state.forces)
        self._note_worst(scores["label"], reasons)
        if self.step % self.trace_every == 0 or reasons:
            self._trace()
        if reasons:
            self._retire(reasons)
        if self.active and self.step % self.interval == 0:
            self._close_interval()
        if self.step % self.ring_every == 0:
            self.ring.append((self.step, self.state.positions.clone()))

    def _note_worst(self, score: torch.Tensor, failed: dict[int, str]) -> None:
        """Keep the frame where an atom is furthest outside its label domain."""
        replica, n = self.state.system_idx, len(self.active)
        worst = per_replica(score, replica, n, "amax")
        for i in failed:
            worst[i] = 0.0  # the failed frame itself is no candidate
        better = worst > self.best.score
        if not bool(better.any()):
            return
        cli = self.index["label"].cli
        is_worst = score == worst[replica]
        position = torch.arange(len(score), device=score.device)
        atom = per_replica(torch.where(is_worst, position, -1), replica, n, "amax").clamp(min=0)
        force = per_replica(self.state.forces.double().norm(dim=1), replica, n, "amax")
        best = self.best
        best.score = torch.where(better, worst, best.score)
        best.atom = torch.where(better, atom, best.atom)
        best.force = torch.where(better, force, best.force)
        best.step = torch.where(better, self.step, best.step)
        best.cli = torch.where(better, per_replica(cli, replica, n, "mean"), best.cli)
        best.cli_atom = torch.where(better, cli[atom], best.cli_atom)
        best.positions = torch.where(
            better[replica].unsqueeze(1), self.state.positions, best.positions
        )

    def _close_interval(self) -> None:
        """Turn the worst frames of the interval into candidates and begin a new one."""
        for i in range(len(self.active)):
            self._propose_worst(i)
        self.best = self._empty_best()
        self.at_interval_start = self.index["label"].cli.clone()

    def _propose_worst(self, i: int) -> None:
        if self.best.score[i] <= 0:
            return
        mine = self._atoms_of(i)
        self._propose(
            i,
            self.best.positions,
            step=int(self.best.step[i]),
            reason="excursion",
            atom=int(self.best.atom[i]) - mine.start,
            score=float(self.best.score[i]),
            cli=float(self.best.cli[i]),
            cli_atom=float(self.best.cli_atom[i]),
            cli_gain=self._gained(mine),
            force_max=float(self.best.force[i]),
        )

    def _gained(self, atoms: slice) -> float:
        """Largest atomic CLI gained since the interval began, ps."""
        return float((self.index["label"].cli - self.at_interval_start)[atoms].max())

    def _propose(self, i: int, positions: torch.Tensor, *, step: int, **info: Any) -> None:
        self.book.candidates.append(
            {
                "member": self.active[i],
                "positions": positions[self._atoms_of(i)].double().cpu().clone(),
                "time": step * self.timestep_ps,
                **info,
            }
        )

    def _atoms_of(self, i: int) -> slice:
        """Where the atoms of the i-th running replica stand in the batch."""
        sizes = [len(self.replicas[member].start) for member in self.active]
        return slice(sum(sizes[:i]), sum(sizes[: i + 1]))

    def _trace(self) -> None:
        replica, n = self.state.system_idx, len(self.active)
        columns = [
            torch.tensor(self.active, dtype=torch.float64),
            torch.full((n,), self.step * self.timestep_ps, dtype=torch.float64),
        ]
        for tier in TIERS:
            index = self.index[tier]
            columns += [
                per_replica(index.cli, replica, n, "mean"),
                per_replica(index.cli, replica, n, "amax"),
                per_replica(index.excursions, replica, n, "sum").double(),
            ]
        kT = calc_kT(
            masses=self.state.masses, momenta=self.state.momenta, system_idx=replica
        ).double()
        columns += [self.state.energy.double(), kT / float(ts.units.MetalUnits.temperature)]
        self.book.points.append(torch.stack([column.cpu() for column in columns], dim=1))

    def _retire(self, reasons: dict[int, str]) -> None:
        """Record failed replicas, propose the frames before, and take them out of the batch."""
        for i, reason in reasons.items():
            self.book.failures[self.active[i]] = (self.step * self.timestep_ps, reason)
            self._propose_worst(i)
            mine = self._atoms_of(i)
            cli = self.index["label"].cli[mine]
            for step, positions in self.ring:
                self._propose(
                    i,
                    positions,
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
        index, start, best = self.index, self.at_interval_start, self.best
        self.active = [self.active[i] for i in kept]
        if not kept:
            return
        self.state = self.state[kept]
        self.kT = self.kT[kept]
        self._monitor_active()
        for tier in TIERS:
            index[tier].keep(atoms)
            self.index[tier].restore(index[tier].state())
        self.at_interval_start = start[atoms]
        # Atom numbers of the batch have moved: shift them to where the replicas now begin.
        shift = torch.cumsum((~atoms).long(), 0)
        for name, value in vars(best).items():
            setattr(self.best, name, value[atoms] if name == "positions" else value[kept])
        self.best.atom = self.best.atom - shift[self.best.atom]
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
            "index": {tier: self.index[tier].state() for tier in TIERS},
            "interval": self.at_interval_start,
            "best": vars(self.best),
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
            for tier in TIERS:
                self.index[tier].restore(saved["index"][tier])
            self.at_interval_start = saved["interval"]
            self.best = _Best(**saved["best"])
            self.ring = deque(saved["ring"], maxlen=FRAMES_BEFORE_FAILURE)
        self.book = _Book(**saved["book"])
        torch.set_rng_state(saved["rng"].cpu())
        if saved["rng_cuda"]:
            torch.cuda.set_rng_state_all([state.cpu() for state in saved["rng_cuda"]])

    def traces(self) -> pd.DataFrame:
        """All trace points so far, rates included."""
        rows = torch.cat(self.book.points).numpy() if self.book.points else np.empty((0, 10))
        table = pd.DataFrame(rows, columns=["member", "time", *_MEASURED])
        members = table.pop("member").astype(int)
        table["replica"] = [self.replicas[i].number for i in members]
        table["structure"] = [self.replicas[i].start.info["structure"] for i in members]
        table["target_temperature"] = [self.replicas[i].temperature_K for i in members]
        table = table.sort_values(["replica", "time"], ignore_index=True)
        by_replica = table.groupby("replica")
        elapsed = by_replica["time"].diff().fillna(table["time"])
        for tier in TIERS:
            cli = table[f"cli_{tier}"]
            gained = by_replica[f"cli_{tier}"].diff().fillna(cli)
            table[f"rate_{tier}"] = gained / elapsed
            table[f"excursions_{tier}"] = table[f"excursions_{tier}"].astype(int)
        return table[list(TRACE_COLUMNS)]

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
