"""The replicas that are running: one state, moved together and looked at together.

Replicas enter and leave between blocks of steps. All that is kept of a replica (its index, hills,
stress, and the energy that it began with) enters and leaves with it.

Not for: what a run does with failures and scores (see `explore`).
"""

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch_sim as ts
from torch_sim.integrators.md import MDState
from torch_sim.models.interface import ModelInterface

from halcyon.config import VARIABLES_AT_MOST, ExplorationSettings, MetadynamicsBias
from halcyon.domain.index import CliIndex, per_replica
from halcyon.domain.signals import Scorer
from halcyon.domain.states import State
from halcyon.exploration.bias import Metadynamics
from halcyon.exploration.blocks import BlockMonitor, Judged, Step
from halcyon.exploration.candidates import Slot
from halcyon.exploration.dynamics import MOVING, Dynamics, Replica
from halcyon.exploration.momenta import kinetic_energies, temperatures
from halcyon.exploration.monitoring import Monitoring

BLOCK_STEPS = 50
BLOCK_ATOMS = 25_000
"""Most atoms of all steps of a block: what the model returns for them is kept until it is judged,
100 MB with 256 features an atom."""


def keep_freed_memory() -> None:
    """Ask glibc not to give freed memory back to the system after every step.

    It would, since the steps of a block are kept until the block is judged: each forward pass of a
    large batch then faults its memory in anew and takes twice as long (64 aspirins: 10,000 page
    faults a step instead of none). Without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: the greatest that glibc takes
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def variables(settings: ExplorationSettings) -> int:
    """Columns of collective variables in the traces."""
    return VARIABLES_AT_MOST if isinstance(settings.bias, MetadynamicsBias) else 0


class BiasedModel(ModelInterface):
    """A model whose forces include those of a bias, once there is one.

    Attributes:
        output: of the last call, as the model itself returned it, without the bias.
        bias: added to the forces; None: none yet.
    """

    def __init__(self, model: ModelInterface) -> None:
        """Wrap a model; without a bias at first."""
        super().__init__()
        self._model = model
        self._device, self._dtype = model.device, model.dtype
        self._compute_forces, self._compute_stress = True, model.compute_stress
        self.output: dict[str, torch.Tensor] = {}
        self.bias: Metadynamics | None = None

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        """The model's output, its forces with those of the bias."""
        self.output = self._model(state)
        if self.bias is None:
            return self.output
        push = self.bias.forces(state.positions)[1]
        return self.output | {"forces": self.output["forces"] + push}


class ReplicaBatch:
    """The replicas of equal periodicity that are running: R of them, N atoms in all.

    Attributes:
        slots: what is remembered of each replica, in the order of the batch.
        atoms_of: where the atoms of each are in the batch, in the same order.
        index: the CLI of all atoms, against all signals.
    """

    def __init__(
        self,
        model: ModelInterface,
        settings: ExplorationSettings,
        monitoring: Monitoring,
        *,
        seed: int,
    ) -> None:
        """Begin without replicas; see `explore.explore` for the arguments.

        Raises:
            InputError: a signal is not calibrated.
        """
        self.model = BiasedModel(model)
        self.settings, self.monitoring = settings, monitoring
        self.signals = monitoring.signals()
        self._expected_error: Scorer | None = None
        self.dynamics = Dynamics(self.model, settings, seed=seed, fixed=monitoring.fixed)
        if isinstance(settings.bias, MetadynamicsBias):
            self.hill_every = max(1, round(settings.bias.pace_fs / settings.timestep_fs))
        self.slots: list[Slot] = []
        self.replicas: list[Replica] = []
        self.atoms_of: list[slice] = []
        self.index = CliIndex(
            len(self.signals),
            0,
            timestep_ps=settings.timestep_fs / 1000,
            device=model.device,
            indicator=monitoring.settings.indicator,
            kappa=monitoring.settings.kappa,
        )
        self._state: MDState | None = None
        self._stress: torch.Tensor | None = None
        self._energy_at_start = torch.empty(0)
        self._monitors: dict[int, BlockMonitor] = {}
        self._free: torch.Tensor | None = None

    @property
    def state(self) -> MDState:
        """torch-sim's state of all running replicas; there is none where none runs."""
        assert self._state is not None, "no replica is running"  # noqa: S101
        return self._state

    def __len__(self) -> int:
        return len(self.slots)

    def enter(self, members: Sequence[int], replicas: Sequence[Replica], *, began: int) -> None:
        """Add replicas, at their start.

        Args:
            members: index of each among all replicas of the run.
            replicas: the replicas themselves.
            began: step of the run from which their time counts; before it they are equilibrated.
        """
        hills: list[Any] = self.model.bias.state() if self.model.bias else []
        self.model.bias = None  # new replicas have no hills yet
        new = self.dynamics.begin(replicas)
        stress = self.model.output.get("stress")
        energy = _total_energy(new)
        self.index.join(new.n_atoms)
        if self.slots:
            if stress is not None and self._stress is not None:
                stress = torch.cat([self._stress, stress])
            energy = torch.cat([self._energy_at_start, energy])
            new = ts.concatenate_states([self.state, new])
        self._state = new
        self._stress = stress if self.settings.ensemble == "npt" else None
        self._energy_at_start = energy
        for member, replica in zip(members, replicas, strict=True):
            zero = torch.zeros(len(replica.start), dtype=torch.float64, device=self.model.device)
            self.slots.append(Slot(member, began, zero))
        self._lay_out([*self.replicas, *replicas], hills + [None] * len(members))

    def release(self, places: Sequence[int]) -> None:
        """Let the time of replicas count from now on: they are equilibrated.

        Their index begins at zero, and their energy is what later drift is measured from.
        """
        energy = _total_energy(self.state)
        self._energy_at_start = self._energy_at_start.clone()
        for i in places:
            self._energy_at_start[i] = energy[i]
            self.index.restart(self.atoms_of[i])
            self.slots[i].cli_before = torch.zeros_like(self.slots[i].cli_before)

    def keep(self, places: Sequence[int]) -> None:
        """Let all replicas leave but those at these places."""
        places = list(places)
        atoms = torch.isin(self.state.system_idx, torch.tensor(places, device=self.model.device))
        self.index.keep(atoms)
        self.slots = [self.slots[i] for i in places]
        hills = [self.model.bias.take(i) for i in places] if self.model.bias else []
        if places:
            self._state = self.state[places]
            self._energy_at_start = self._energy_at_start[places]
            self._stress = None if self._stress is None else self._stress[places]
        else:
            self._state = self._stress = None
            self._energy_at_start = self._energy_at_start[:0]
        self._lay_out([self.replicas[i] for i in places], hills)

    def _lay_out(self, replicas: list[Replica], hills: Sequence[Any]) -> None:
        """Prepare what depends on which replicas run: their places, thermostat, and bias."""
        self.replicas = replicas
        ends = list(itertools.accumulate((len(r.start) for r in replicas), initial=0))
        self.atoms_of = [slice(*pair) for pair in itertools.pairwise(ends)]
        self._monitors = {}
        self._free = None
        if replicas:
            self._free = self.dynamics.free(replicas, self.model.device)
            starts = [replica.start for replica in replicas]
            error = next(iter(self.signals.values()))
            self._expected_error = error.distance(starts, self.model.device)
            self.dynamics.lay_out(self.state, replicas, [slot.began for slot in self.slots])
        if isinstance(self.settings.bias, MetadynamicsBias):
            self.model.bias = Metadynamics(
                [replica.start for replica in replicas],
                [replica.temperature_K for replica in replicas],
                self.settings.bias,
                device=self.model.device,
                states=hills,
            )

    @property
    def most_steps(self) -> int:
        """Steps of a block at most."""
        atoms = self.atoms_of[-1].stop if self.atoms_of else 1
        return max(1, min(BLOCK_STEPS, BLOCK_ATOMS // atoms))

    def make(self, number: int, *, step: int) -> list[Step]:
        """Integrate so many steps, the first of which is this one of the run."""
        made = []
        state = self.state
        for now in range(step, step + number):
            state = self._state = self.dynamics.step(state, now, self._stress)
            if self._stress is not None:
                self._stress = self.model.output["stress"]
            if self.model.bias and (now + 1) % self.hill_every == 0:
                self.model.bias.deposit(state.positions)
            moved = state.positions, state.momenta, state.energy, state.forces, state.cell
            made.append(Step(*moved, self.model.output))
        return made

    def judge(self, steps: list[Step], *, step: int) -> Judged:
        """Judge a block and add it to the index, without what replicas did after their failure.

        Args:
            steps: as `make` returned them; no replica's equilibration ends within them.
            step: of the run, before them.
        """
        n = len(steps)
        if n not in self._monitors:
            self._monitors[n] = BlockMonitor(
                [replica.start for replica in self.replicas],
                self.state,
                n,
                signals=self.signals.values(),
                monitoring=self.monitoring,
                settings=self.settings,
            )
        block = self._monitors[n].judge(steps)
        if self.settings.ensemble == "nve":
            self._check_drift(block, [step >= slot.began for slot in self.slots])
        for i, (k, _) in block.failed.items():
            block.scores[:, k + 1 :, self.atoms_of[i]] = 0.0
        self.index.update(block.scores)
        return block

    def _check_drift(self, block: Judged, free: Sequence[bool]) -> None:
        """Add replicas whose total energy has drifted too far to the failed ones of a block.

        Without a thermostat the total energy is conserved. Every step is looked at, so that a
        failure is the same whatever the length of blocks.

        Args:
            block: K steps; its failures change.
            free: which replicas have no thermostat.
        """
        state = self.state
        momenta = torch.stack([made.momenta for made in block.steps])
        total = torch.stack([made.energy for made in block.steps]).double()
        total = total + kinetic_energies(momenta, state.masses, state.system_idx, len(self))
        drift = (total - self._energy_at_start).abs() / state.n_atoms_per_system
        beyond = ~(drift <= self.settings.energy_drift_eV_per_atom)  # NaN, too
        first = torch.where(beyond.any(dim=0), beyond.int().argmax(dim=0), len(block.steps))
        for i, k in enumerate(first.tolist()):
            if free[i] and k < block.failed.get(i, (len(block.steps), ""))[0]:
                block.failed[i] = k, "total energy not conserved"

    def trace_rows(self, made: Step) -> torch.Tensor:
        """A row of the traces per replica at a step, columns from `traces.CUMULATIVE` on."""
        state, n, index = self.state, len(self.slots), self.index
        replica, cli = state.system_idx, index.cli
        assert self._expected_error is not None  # noqa: S101  # `_lay_out` came first
        expected = self._expected_error(self._state_of(made), made.output)
        moving = made.momenta, state.masses, replica, n
        rows = [
            per_replica(cli, replica, n, "mean"),
            per_replica(cli, replica, n, "amax"),
            per_replica(index.excursions, replica, n, "sum").double(),
            per_replica(expected, replica, n, "mean").unsqueeze(0),
            per_replica(expected, replica, n, "amax").unsqueeze(0),
            made.output["energy"].double().unsqueeze(0),
            temperatures(*moving, free=self._free).unsqueeze(0),
            kinetic_energies(*moving).unsqueeze(0),
        ]
        if self.model.bias:
            energy, _ = self.model.bias.forces(made.positions)
            values = self.model.bias.values(made.positions).T
            missing = variables(self.settings) - len(values)
            rows += [energy.unsqueeze(0), values, values.new_full((missing, n), torch.nan)]
        return torch.cat(rows).T.cpu()

    def _state_of(self, made: Step) -> State:
        """A step as signals read it."""
        return State(
            positions=made.positions,
            atomic_numbers=self.state.atomic_numbers,
            system_idx=self.state.system_idx,
            cell=made.cell,
            moving_cell=made.cell if self.settings.ensemble == "npt" else None,
            pbc=self.state.pbc,
        )

    def checkpoint(self) -> dict[str, Any]:
        """What a checkpoint must hold; `state` is empty where no replica runs."""
        moving = MOVING if self.slots else ()
        return {
            "slots": [slot.state() for slot in self.slots],
            "state": {name: getattr(self.state, name) for name in moving},
            "stress": self._stress,
            "energy_at_start": self._energy_at_start,
            "hills": self.model.bias.state() if self.model.bias else [],
            "index": self.index.state(),
        }

    def restore(self, saved: dict[str, Any], members: Sequence[Replica]) -> None:
        """Go on from a `checkpoint`; `members` are all replicas of the run."""
        self.slots = [Slot.restored(slot) for slot in saved["slots"]]
        replicas = [members[slot.member] for slot in self.slots]
        self._state = self.dynamics.restored(replicas, saved["state"]) if replicas else None
        self._stress, self._energy_at_start = saved["stress"], saved["energy_at_start"]
        self.index.restore(saved["index"])
        self._lay_out(replicas, saved["hills"])


def _total_energy(state: MDState) -> torch.Tensor:
    """Potential and kinetic energy of each replica, shape (R,), eV, float64."""
    kinetic = kinetic_energies(state.momenta, state.masses, state.system_idx, state.n_systems)
    return state.energy.double() + kinetic
