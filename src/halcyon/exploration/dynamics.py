"""Molecular dynamics of a batch of replicas, on torch-sim's states and steps.

BAOAB Langevin (B. Leimkuhler and C. Matthews, Appl. Math. Res. Express 2013, 34), velocity Verlet,
and at constant pressure the isotropic stochastic cell rescaling of M. Bernetti and G. Bussi
(J. Chem. Phys. 153, 114107, 2020).

A replica's random numbers follow from the seed, its number and the step, and from nothing else. So
a trajectory does not depend on which others are in the batch or on when a run was stopped, and a
checkpoint needs no state of a generator. torch-sim's own `nvt_langevin` draws for the whole batch;
its integrators at constant pressure take two forward passes, or one chain for all replicas.

    from halcyon.exploration.dynamics import Dynamics
    from halcyon.models.batched import BatchedMace
    from halcyon.models.mace import load

    dynamics = Dynamics(BatchedMace(load("m.model")), settings, seed=1)
    state = dynamics.begin(replicas)
    dynamics.lay_out(state, replicas, began=[0] * len(replicas))
    state = dynamics.step(state, step=0)

Not for: watching (see `explore`), or forces (see `models.batched`, `bias`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch_sim as ts
from ase import Atoms
from torch_sim.integrators.md import MDState, momentum_step, position_step
from torch_sim.models.interface import ModelInterface

from halcyon.config import ExplorationSettings, RampBias
from halcyon.exploration.bias import ramped
from halcyon.exploration.momenta import KELVIN, start_momenta
from halcyon.frames import near_origin

NOISE_STEPS = 50
"""Steps whose random numbers are drawn at once."""
MOVING = ("positions", "momenta", "forces", "energy", "cell")
"""Tensors of a state that change from step to step; all else follows from the start frames."""
PICOSECOND = float(ts.units.MetalUnits.time)
BAR = float(ts.units.MetalUnits.pressure)
COMPRESSIBILITY_PER_BAR = 4.6e-5
"""Of water. It only sets, with the barostat's time, how fast the volume relaxes."""


@dataclass(frozen=True)
class Replica:
    """One trajectory to run: its number, thermostat temperature in K, and start frame."""

    number: int
    temperature_K: float
    start: Atoms


@dataclass
class _Thermostat:
    """What the thermostat and the barostat need to know of the R replicas that run, N atoms in all.

    Attributes:
        numbers: number of each replica.
        temperatures_K: temperature that each began with.
        pressure: that of the barostat of each, shape (R,), eV/Å³.
        began: step from which the time of each counts; without a thermostat it has one before.
        sizes: number of atoms of each.
        masses: shape (N, 1), u.
        free: 1 for an atom that may move and 0 for a fixed one, shape (N, 1); None: all may.
        kT: at present, shape (R,), eV.
        damping: of the momenta in a step, shape (N, 1); 1 where no thermostat acts.
        kick: standard deviation of the momenta's random kicks, shape (N, 1).
        noise: standard normal numbers of the steps of one chunk, shape (NOISE_STEPS, N, 3).
        volume_noise: the barostat's, shape (NOISE_STEPS, R).
        prepared: what these were prepared for: number of the chunk, and replicas that are
            thermostatted; None: nothing is drawn yet.
    """

    numbers: list[int]
    temperatures_K: list[float]
    pressure: torch.Tensor
    began: list[int]
    sizes: list[int]
    masses: torch.Tensor
    free: torch.Tensor | None
    kT: torch.Tensor
    damping: torch.Tensor
    kick: torch.Tensor
    noise: torch.Tensor
    volume_noise: torch.Tensor
    prepared: tuple[int, tuple[bool, ...]] | None = None


class Dynamics:
    """Integrates replicas; which of them are in the batch may change between steps."""

    def __init__(
        self,
        model: ModelInterface,
        settings: ExplorationSettings,
        *,
        seed: int,
        fixed: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Take the model, and from the settings ensemble, time step, friction and pressure.

        Args:
            model: gives forces and, at constant pressure, stress.
            settings: how to move.
            seed: of momenta and thermostat.
            fixed: atoms that do not move, by the name of their structure; not at constant
                pressure.
        """
        self.fixed = fixed or {}
        self.model, self.settings, self.seed = model, settings, seed
        self.timestep_ps = settings.timestep_fs / 1000
        options = {"device": model.device, "dtype": model.dtype}
        self.dt = torch.tensor(self.timestep_ps * PICOSECOND, **options)
        damping = settings.friction_per_ps * self.timestep_ps
        self.damping = torch.exp(torch.tensor(-damping, **options))
        self._thermostat: _Thermostat | None = None

    def begin(self, replicas: Sequence[Replica]) -> MDState:
        """State of replicas at their start, with momenta of their temperature and with forces."""
        device, dtype = self.model.device, self.model.dtype
        plain = ts.io.atoms_to_state([near_origin(r.start) for r in replicas], device, dtype)
        output = self.model(plain)
        atoms = [len(r.start) for r in replicas]
        momenta = [
            start_momenta(
                masses,
                r.temperature_K,
                seed=self._seed(r.number, "momenta"),
                free=self.free([r], masses.device),
            )
            for r, masses in zip(replicas, plain.masses.split(atoms), strict=True)
        ]
        moving = {
            "positions": plain.positions,
            "momenta": torch.cat(momenta),
            "forces": output["forces"],
            "energy": output["energy"],
            "cell": plain.cell,
        }
        return _moving_state(plain, moving)

    def free(self, replicas: Sequence[Replica], device: torch.device) -> torch.Tensor | None:
        """Which atoms of replicas may move, shape (N,); None: all."""
        masks = []
        for replica in replicas:
            mask = torch.ones(len(replica.start), dtype=torch.bool)
            mask[list(self.fixed.get(replica.start.info.get("structure", ""), ()))] = False
            masks.append(mask)
        mask = torch.cat(masks)
        return None if mask.all() else mask.to(device)

    def restored(self, replicas: Sequence[Replica], moving: Mapping[str, torch.Tensor]) -> MDState:
        """State of replicas whose `MOVING` tensors a checkpoint has kept."""
        starts = [replica.start for replica in replicas]
        plain = ts.io.atoms_to_state(starts, self.model.device, self.model.dtype)
        return _moving_state(plain, moving)

    def lay_out(self, state: MDState, replicas: Sequence[Replica], began: Sequence[int]) -> None:
        """Take note of which replicas run from now on.

        Args:
            state: of these replicas.
            replicas: in the state's order.
            began: step from which the time of each counts. In the ensemble `nve` a replica has a
                thermostat before this step, and none from it on.
        """
        masses = state.masses.unsqueeze(-1)
        nothing = torch.empty(0, device=masses.device)
        free = self.free(replicas, masses.device)
        self._thermostat = _Thermostat(
            numbers=[replica.number for replica in replicas],
            temperatures_K=[replica.temperature_K for replica in replicas],
            pressure=torch.tensor(
                [BAR * self.settings.pressure_at(replica.temperature_K) for replica in replicas],
                device=masses.device,
                dtype=masses.dtype,
            ),
            began=list(began),
            sizes=[len(replica.start) for replica in replicas],
            masses=masses,
            free=None if free is None else free.unsqueeze(-1).to(masses.dtype),
            kT=nothing,
            damping=nothing,
            kick=nothing,
            noise=nothing,
            volume_noise=nothing,
        )

    def step(self, state: MDState, step: int, stress: torch.Tensor | None = None) -> MDState:
        """One time step of length dt.

        With a thermostat it is B A O A B:

        1. B: momenta, half a step: p ← p + F dt/2.
        2. A: positions, half a step: r ← r + p/m dt/2.
        3. O: friction γ and random kicks: p ← c p + sqrt((1 - c²) m kT) ξ, c = exp(-γ dt), ξ
           standard normal. At constant pressure the cell is rescaled here.
        4. A: positions, half a step.
        5. Forces at the new positions, then B: momenta, half a step.

        Without one (`nve`), step 3 changes nothing: velocity Verlet. Its two half steps of
        positions are kept apart, since their sum is rounded: a replica moves the same whether or
        not another in the batch has a thermostat still. A fixed atom has no momentum after 1, 3 and
        5, so that it stays where it is, bit for bit; its force is the model's.

        Args:
            state: of R replicas, N atoms in all: positions r (N, 3), momenta p (N, 3), forces F
                (N, 3), masses m (N,), cell (R, 3, 3); changed.
            step: of the run: the random numbers are this step's.
            stress: of the last step, shape (R, 3, 3), eV/Å³; at constant pressure only.

        Returns:
            The state after it, with energy (R,) and forces (N, 3) of the new positions.
        """
        thermostat = self._prepared(state, step)
        half = self.dt / 2
        state = self._kicked(state, half)  # 1
        state = self._moved(state, half)  # 2
        if thermostat is not None:
            noise = thermostat.noise[step % NOISE_STEPS]
            damped = thermostat.damping * state.momenta
            state.momenta = torch.addcmul(damped, thermostat.kick, noise)  # 3
            if stress is not None:
                self._rescale(state, thermostat, stress, step)
        state = self._moved(state, half)  # 4
        output = self.model(state)  # 5
        state.energy, state.forces = output["energy"], output["forces"]
        return self._kicked(state, half)

    def _kicked(self, state: MDState, time: torch.Tensor) -> MDState:
        """Let the forces act on the momenta of all atoms that are not fixed."""
        state = momentum_step(state, time)
        if self._thermostat is not None and self._thermostat.free is not None:
            state.momenta = state.momenta * self._thermostat.free
        return state

    def _moved(self, state: MDState, time: torch.Tensor) -> MDState:
        """Move all atoms that are not fixed; torch-sim wraps and so rounds the others, too."""
        before = state.positions
        state = position_step(state, time)
        if self._thermostat is not None and self._thermostat.free is not None:
            state.positions = torch.where(self._thermostat.free > 0, state.positions, before)
        return state

    def _rescale(
        self, state: MDState, thermostat: _Thermostat, stress: torch.Tensor, step: int
    ) -> None:
        """Let the volume V relax towards the replica's own pressure, in a step of ε = ln V.

        After Bernetti and Bussi, dε = -(β/τ) (P₀ - P) dt + sqrt(2 kT β dt / (V τ)) ξ, with β the
        compressibility, τ the barostat's time, P₀ the replica's pressure and ξ standard
        normal. Positions and cell grow by exp(dε/3), momenta shrink by it.

        Args:
            state: changed.
            thermostat: of the state's replicas.
            stress: shape (R, 3, 3), eV/Å³.
            step: of the run.
        """
        volume = torch.linalg.det(state.cell).abs()
        square = (state.momenta * state.momenta).sum(dim=1) / state.masses
        kinetic = torch.zeros_like(volume).index_add_(0, state.system_idx, square) / 2
        virial = torch.diagonal(stress, dim1=1, dim2=2).sum(dim=1) / 3
        pressure = 2 * kinetic / (3 * volume) - virial
        rate = COMPRESSIBILITY_PER_BAR / BAR * self.timestep_ps / self.settings.barostat_ps
        drift = -rate * (thermostat.pressure - pressure)
        noise = thermostat.volume_noise[step % NOISE_STEPS]
        kick = torch.sqrt(2 * thermostat.kT * rate / volume) * noise
        scale = torch.exp((drift + kick) / 3)
        scale_of_atom = scale[state.system_idx].unsqueeze(-1)
        state.positions = state.positions * scale_of_atom
        state.momenta = state.momenta / scale_of_atom
        state.cell = state.cell * scale[:, None, None]

    def _prepared(self, state: MDState, step: int) -> _Thermostat | None:
        """The thermostat, with temperatures and random numbers of this step's chunk.

        None where no replica has one at this step.
        """
        thermostat = self._thermostat
        assert thermostat is not None  # noqa: S101  # `lay_out` came first
        coupled = (True,) * len(thermostat.began)
        if self.settings.ensemble == "nve":
            coupled = tuple(step < began for began in thermostat.began)
        if not any(coupled):
            return None
        chunk = step // NOISE_STEPS
        if thermostat.prepared == (chunk, coupled):
            return thermostat
        options = {"device": self.model.device, "dtype": self.model.dtype}
        temperatures_K = torch.tensor(thermostat.temperatures_K, **options)
        if isinstance(self.settings.bias, RampBias):
            elapsed = chunk * NOISE_STEPS - torch.tensor(thermostat.began, **options)
            temperatures_K = ramped(
                self.settings.bias,
                temperatures_K,
                elapsed * self.timestep_ps,
                run_ps=self.settings.time_ps,
            )
        thermostat.kT = temperatures_K * KELVIN
        variance = thermostat.kT[state.system_idx].unsqueeze(-1) * thermostat.masses
        acts = torch.tensor(coupled, device=self.model.device)[state.system_idx].unsqueeze(-1)
        thermostat.damping = torch.where(acts, self.damping, 1.0)
        thermostat.kick = torch.sqrt(variance * (1 - thermostat.damping**2))
        if thermostat.free is not None:
            thermostat.kick = thermostat.kick * thermostat.free
        generator = torch.Generator(device=self.model.device)
        noise, volume_noise = [], []
        for number, size in zip(thermostat.numbers, thermostat.sizes, strict=True):
            generator.manual_seed(self._seed(number, f"chunk {chunk}"))
            noise.append(torch.randn(NOISE_STEPS, size, 3, generator=generator, **options))
            volume_noise.append(torch.randn(NOISE_STEPS, generator=generator, **options))
        thermostat.noise = torch.cat(noise, 1)
        thermostat.volume_noise = torch.stack(volume_noise, 1)
        thermostat.prepared = chunk, coupled
        return thermostat

    def _seed(self, number: int, purpose: str) -> int:
        digest = hashlib.sha256(f"{self.seed} {number} {purpose}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1


def _moving_state(plain: ts.SimState, moving: Mapping[str, torch.Tensor]) -> MDState:
    """A state with `MOVING` tensors, and all else as a plain state has it."""
    return MDState(
        **moving,
        masses=plain.masses,
        pbc=plain.pbc,
        system_idx=plain.system_idx,
        atomic_numbers=plain.atomic_numbers,
    )
