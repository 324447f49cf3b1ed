"""The replicas that are running: one state, moved together and looked at together.

Replicas enter and leave between blocks of steps; whatever is kept of each (index, hills, stress,
the energy it began with) enters and leaves with it.

Not for: what a run does with what it sees (see `explore`).
"""

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch_sim as ts
from torch_sim.integrators.md import MDState
from torch_sim.models.interface import ModelInterface
from torch_sim.quantities import calc_kinetic_energy, calc_kT

from halcyon.config import VARIABLES_AT_MOST, DomainSettings, ExplorationSettings, MetadynamicsBias
from halcyon.domain.index import CliIndex, per_replica
from halcyon.domain.intervals import Domain
from halcyon.domain.signals import Signal
from halcyon.exploration.bias import Metadynamics
from halcyon.exploration.blocks import Judged, Layout, Step
from halcyon.exploration.candidates import Slot
from halcyon.exploration.dynamics import KELVIN, Dynamics, Replica

BLOCK_STEPS = 50
BLOCK_PAIRS = 250_000
"""Pairs of atoms that a block's failure monitor looks at, at most: what bounds its memory."""
_STATE = ("positions", "momenta", "forces", "energy", "cell")


def keep_freed_memory() -> None:
    """Ask glibc not to give freed memory back to the system after every step.

    Steps that are kept for a block make it do so: each forward pass of a large batch then faults
    its memory in anew, and took twice as long (64 aspirins: 10,000 page faults a step, now none).
    Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: the greatest that it takes
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def variables(settings: ExplorationSettings) -> int:
    """Columns of collective variables in the traces."""
    return VARIABLES_AT_MOST if isinstance(settings.bias, MetadynamicsBias) else 0


class Watched(ModelInterface):
    """Passes calls on and keeps the output of the last one; a bias is added to what it returns."""

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


class Batch:
    """Replicas of equal periodicity that are running.

    Attributes:
        slots: each one's place, in the batch's order.
        atoms_of: atoms of each, in the batch.
        state: torch-sim's state of all.
        index: the CLI of all, all signals.
    """

    def __init__(
        self,
        model: ModelInterface,
        domain: Domain,
        settings: ExplorationSettings,
        indicator: DomainSettings,
        *,
        signals: dict[str, Signal],
        kind: str,
        seed: int,
    ) -> None:
        """Empty; see `explore.explore` for the arguments."""
        self.model = Watched(model)
        self.domain, self.settings, self.signals, self.kind = domain, settings, signals, kind
        self.dynamics = Dynamics(self.model, settings, seed=seed)
        if isinstance(settings.bias, MetadynamicsBias):
            self.hill_every = max(1, round(settings.bias.pace_fs / settings.timestep_fs))
        self.slots: list[Slot] = []
        self.replicas: list[Replica] = []
        self.atoms_of: list[slice] = []
        self.index = CliIndex(
            len(signals),
            0,
            timestep_ps=settings.timestep_fs / 1000,
            device=model.device,
            indicator=indicator.indicator,
            kappa=indicator.kappa,
        )
        self.state: MDState
        self._stress: torch.Tensor | None = None
        self._energy_at_start = torch.empty(0)
        self._layouts: dict[int, Layout] = {}

    def __len__(self) -> int:
        return len(self.slots)

    def enter(self, members: Sequence[int], replicas: Sequence[Replica], *, step: int) -> None:
        """Add replicas, at their start.

        Args:
            members: index of each among all that ran.
            replicas: they.
            step: of the run.
        """
        hills: list[Any] = self.model.bias.state() if self.model.bias else []
        self.model.bias = None  # new replicas have no hills yet
        new = self.dynamics.begin(replicas)
        stress = self.model.output.get("stress")
        energy = _total_energy(new)
        if self.slots:
            self.state = ts.concatenate_states([self.state, new])
            if stress is not None and self._stress is not None:
                stress = torch.cat([self._stress, stress])
            energy = torch.cat([self._energy_at_start, energy])
        else:
            self.state = new
        self._stress = stress if self.settings.ensemble == "npt" else None
        self._energy_at_start = energy
        self.index.join(new.n_atoms)
        for member, replica in zip(members, replicas, strict=True):
            none = torch.zeros(len(replica.start), dtype=torch.float64, device=self.model.device)
            self.slots.append(Slot(member, step, none))
        self._lay_out([*self.replicas, *replicas], hills + [None] * len(members))

    def keep(self, kept: Sequence[int]) -> None:
        """Let all leave but those at these places."""
        kept = list(kept)
        atoms = torch.isin(self.state.system_idx, torch.tensor(kept, device=self.model.device))
        self.index.keep(atoms)
        self.slots = [self.slots[i] for i in kept]
        if kept:
            self.state = self.state[kept]
            self._energy_at_start = self._energy_at_start[kept]
            self._stress = None if self._stress is None else self._stress[kept]
        hills = [self.model.bias.take(i) for i in kept] if self.model.bias else []
        self._lay_out([self.replicas[i] for i in kept], hills)

    def _lay_out(self, replicas: list[Replica], hills: Sequence[Any]) -> None:
        """Places in the batch, and what pushes the replicas."""
        self.replicas = replicas
        ends = list(itertools.accumulate((len(r.start) for r in replicas), initial=0))
        self.atoms_of = [slice(*pair) for pair in itertools.pairwise(ends)]
        self._layouts = {}
        if replicas:
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
        pairs = sum((atoms.stop - atoms.start) ** 2 for atoms in self.atoms_of) // 2
        return max(1, min(BLOCK_STEPS, BLOCK_PAIRS // max(1, pairs)))

    def make(self, number: int, *, step: int) -> list[Step]:
        """Integrate so many steps from a step of the run on."""
        made = []
        for now in range(step, step + number):
            state = self.state = self.dynamics.step(self.state, now, self._stress)
            if self._stress is not None:
                self._stress = self.model.output["stress"]
            if self.model.bias and (now + 1) % self.hill_every == 0:
                self.model.bias.deposit(state.positions)
            moved = state.positions, state.momenta, state.energy, state.forces, state.cell
            made.append(Step(*moved, self.model.output))
        return made

    def judge(self, made: list[Step]) -> Judged:
        """Look at steps, and add them to the index; what failed replicas did later is forgotten."""
        n = len(made)
        if n not in self._layouts:
            self._layouts[n] = Layout(
                [replica.start for replica in self.replicas],
                self.state,
                n,
                signals=self.signals.values(),
                domain=self.domain,
                kind=self.kind,
                settings=self.settings,
            )
        block = self._layouts[n].judge(made)
        if self.settings.ensemble == "nve":
            self._check_drift(block)
        for i, (k, _) in block.failed.items():
            block.scores[:, k + 1 :, self.atoms_of[i]] = 0.0
        self.index.update(block.scores)
        return block

    def _check_drift(self, block: Judged) -> None:
        """Without a thermostat the total energy stays; a replica that gains or loses it failed."""
        gone = _total_energy(self.state) - self._energy_at_start
        limit = self.settings.energy_drift_eV_per_atom
        for i, per_atom in enumerate((gone.abs() / self.state.n_atoms_per_system).tolist()):
            if not per_atom <= limit:  # NaN, too
                block.failed.setdefault(i, (len(block.made) - 1, "total energy not conserved"))

    def trace_rows(self, made: Step) -> torch.Tensor:
        """What traces tell of a step: columns from `traces.CUMULATIVE` on, a row per replica."""
        state, n, index = self.state, len(self.slots), self.index
        replica, cli = state.system_idx, index.cli
        kT = calc_kT(masses=state.masses, momenta=made.momenta, system_idx=replica).double()
        rows = [
            per_replica(cli, replica, n, "mean"),
            per_replica(cli, replica, n, "amax"),
            per_replica(index.excursions, replica, n, "sum").double(),
            made.output["energy"].double().unsqueeze(0),
            (kT / KELVIN).unsqueeze(0),
        ]
        if self.model.bias:
            energy, _ = self.model.bias.forces(made.positions)
            values = self.model.bias.values(made.positions).T
            missing = variables(self.settings) - len(values)
            rows += [energy.unsqueeze(0), values, values.new_full((missing, n), torch.nan)]
        return torch.cat(rows).T.cpu()

    def checkpoint(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {
            "slots": [slot.state() for slot in self.slots],
            "state": {name: getattr(self.state, name) for name in _STATE},
            "stress": self._stress,
            "energy_at_start": self._energy_at_start,
            "hills": self.model.bias.state() if self.model.bias else [],
            "index": self.index.state(),
        }

    def restore(self, saved: dict[str, Any], members: Sequence[Replica]) -> None:
        """Go on from a `checkpoint`; `members` are all that ran."""
        self.slots = [Slot.restored(slot) for slot in saved["slots"]]
        replicas = [members[slot.member] for slot in self.slots]
        if replicas:
            starts = [replica.start for replica in replicas]
            plain = ts.io.atoms_to_state(starts, self.model.device, self.model.dtype)
            self.state = MDState(
                **saved["state"],
                masses=plain.masses,
                pbc=plain.pbc,
                system_idx=plain.system_idx,
                atomic_numbers=plain.atomic_numbers,
            )
        self._stress, self._energy_at_start = saved["stress"], saved["energy_at_start"]
        self.index.restore(saved["index"])
        self._lay_out(replicas, saved["hills"])


def _total_energy(state: MDState) -> torch.Tensor:
    """Shape (R,), eV, float64."""
    kinetic = calc_kinetic_energy(
        masses=state.masses, momenta=state.momenta, system_idx=state.system_idx
    )
    return state.energy.double() + kinetic.double()
