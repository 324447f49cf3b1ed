"""Molecular dynamics of a batch of replicas, on torch-sim's states and steps.

BAOAB Langevin (B. Leimkuhler and C. Matthews, Appl. Math. Res. Express 2013, 34), velocity Verlet,
and at constant pressure the isotropic stochastic cell rescaling of M. Bernetti and G. Bussi
(J. Chem. Phys. 153, 114107, 2020).

A replica's random numbers follow from the seed, its number and the step, and from nothing else. So
a trajectory does not depend on which others are in the batch or on when a run was stopped, and a
checkpoint needs no state of a generator. torch-sim's own `nvt_langevin` draws for the whole batch;
its integrators at constant pressure take two forward passes, or one chain for all replicas.

    dynamics = Dynamics(model, settings, seed=1)
    state = dynamics.begin(replicas, step=0)
    state = dynamics.step(state, step=0)

Not for: watching (see `explore`), or forces (see `batched_mace`, `bias`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch_sim as ts
from ase import Atoms
from torch_sim.integrators.md import MDState, calculate_momenta, momentum_step, position_step
from torch_sim.models.interface import ModelInterface

from halcyon.config import ExplorationSettings, RampBias
from halcyon.exploration.bias import ramped

NOISE_STEPS = 50
"""Steps whose random numbers are drawn at once."""
KELVIN = float(ts.units.MetalUnits.temperature)
"""k_B, eV/K."""
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
class _Batch:
    """What follows from which replicas are in the batch.

    Attributes:
        numbers: of the replicas.
        kelvin: temperature each began with, K.
        began: step at which each began.
        sizes: atoms of each.
        masses: shape (N, 1).
        kT: now, shape (R,), eV.
        spread: of the thermostat's kicks, shape (N, 1).
        noise: random numbers of the steps of one chunk, shape (NOISE_STEPS, N, 3).
        volume_noise: the barostat's, shape (NOISE_STEPS, R).
        chunk: number of that chunk.
    """

    numbers: list[int]
    kelvin: list[float]
    began: list[int]
    sizes: list[int]
    masses: torch.Tensor
    kT: torch.Tensor
    spread: torch.Tensor
    noise: torch.Tensor
    volume_noise: torch.Tensor
    chunk: int = -1


class Dynamics:
    """Integrates replicas; which of them are in the batch may change between steps."""

    def __init__(self, model: ModelInterface, settings: ExplorationSettings, *, seed: int) -> None:
        """Take the model, and from the settings ensemble, time step, friction and pressure.

        Args:
            model: gives forces and, at constant pressure, stress.
            settings: how to move.
            seed: of momenta and thermostat.
        """
        self.model, self.settings, self.seed = model, settings, seed
        self.timestep_ps = settings.timestep_fs / 1000
        options = {"device": model.device, "dtype": model.dtype}
        self.dt = torch.tensor(self.timestep_ps * PICOSECOND, **options)
        damping = settings.friction_per_ps * self.timestep_ps
        self.damping = torch.exp(torch.tensor(-damping, **options))
        self._batch: _Batch | None = None

    def begin(self, replicas: Sequence[Replica]) -> MDState:
        """State of replicas at their start, with momenta of their temperature and forces."""
        device, dtype = self.model.device, self.model.dtype
        plain = ts.io.atoms_to_state([r.start for r in replicas], device, dtype)
        output = self.model(plain)
        atoms = [len(r.start) for r in replicas]
        momenta = [
            calculate_momenta(
                positions,
                masses,
                torch.zeros(len(masses), dtype=torch.long, device=device),
                torch.tensor([r.temperature_K * KELVIN], device=device, dtype=dtype),
                seed=self._seed(r.number, "momenta"),
            )
            for r, positions, masses in zip(
                replicas, plain.positions.split(atoms), plain.masses.split(atoms), strict=True
            )
        ]
        return MDState(
            positions=plain.positions,
            momenta=torch.cat(momenta),
            energy=output["energy"],
            forces=output["forces"],
            masses=plain.masses,
            cell=plain.cell,
            pbc=plain.pbc,
            system_idx=plain.system_idx,
            atomic_numbers=plain.atomic_numbers,
        )

    def lay_out(self, state: MDState, replicas: Sequence[Replica], began: Sequence[int]) -> None:
        """Say which replicas are in the batch from now on.

        Args:
            state: of the batch.
            replicas: in the batch's order.
            began: step at which each began.
        """
        masses = state.masses.unsqueeze(-1)
        nothing = torch.empty(0, device=masses.device)
        self._batch = _Batch(
            numbers=[replica.number for replica in replicas],
            kelvin=[replica.temperature_K for replica in replicas],
            began=list(began),
            sizes=[len(replica.start) for replica in replicas],
            masses=masses,
            kT=nothing,
            spread=nothing,
            noise=nothing,
            volume_noise=nothing,
        )

    def step(self, state: MDState, step: int, stress: torch.Tensor | None = None) -> MDState:
        """One time step.

        Args:
            state: positions, momenta, forces; changed.
            step: of the run, from 0: the random numbers are this step's.
            stress: of the last step, shape (R, 3, 3), eV/Å³; at constant pressure only.

        Returns:
            The state after it, with energy (R,) and forces (N, 3) of the new positions.
        """
        batch = self._prepared(state, step)
        half = self.dt / 2
        state = momentum_step(state, half)
        if self.settings.ensemble == "nve":
            state = position_step(state, self.dt)
        else:
            state = position_step(state, half)
            noise = batch.noise[step % NOISE_STEPS]
            state.momenta = torch.addcmul(self.damping * state.momenta, batch.spread, noise)
            if stress is not None:
                self._rescale(state, batch, stress, batch.volume_noise[step % NOISE_STEPS])
            state = position_step(state, half)
        output = self.model(state)
        state.energy, state.forces = output["energy"], output["forces"]
        return momentum_step(state, half)

    def _rescale(
        self, state: MDState, batch: _Batch, stress: torch.Tensor, noise: torch.Tensor
    ) -> None:
        """Let the volume relax towards the asked pressure; ε = ln V moves as a diffusion."""
        volume = torch.linalg.det(state.cell).abs()
        square = (state.momenta * state.momenta).sum(dim=1) / state.masses
        kinetic = torch.zeros_like(volume).index_add_(0, state.system_idx, square) / 2
        virial = torch.diagonal(stress, dim1=1, dim2=2).sum(dim=1) / 3
        pressure = 2 * kinetic / (3 * volume) - virial
        rate = COMPRESSIBILITY_PER_BAR / BAR * self.timestep_ps / self.settings.barostat_ps
        drift = -rate * (self.settings.pressure_bar * BAR - pressure)
        kick = torch.sqrt(2 * batch.kT * rate / volume) * noise
        scale = torch.exp((drift + kick) / 3)
        of_atom = scale[state.system_idx].unsqueeze(-1)
        state.positions = state.positions * of_atom
        state.momenta = state.momenta / of_atom
        state.cell = state.cell * scale[:, None, None]

    def _prepared(self, state: MDState, step: int) -> _Batch:
        """The batch, with temperatures and random numbers of this step's chunk."""
        batch = self._batch
        assert batch is not None  # noqa: S101  # `lay_out` came first
        chunk = step // NOISE_STEPS
        if chunk == batch.chunk or self.settings.ensemble == "nve":
            return batch
        options = {"device": self.model.device, "dtype": self.model.dtype}
        kelvin = torch.tensor(batch.kelvin, **options)
        if isinstance(self.settings.bias, RampBias):
            elapsed = chunk * NOISE_STEPS - torch.tensor(batch.began, **options)
            kelvin = ramped(
                self.settings.bias,
                kelvin,
                elapsed * self.timestep_ps,
                run_ps=self.settings.time_ps,
            )
        batch.kT = kelvin * KELVIN
        variance = batch.kT[state.system_idx].unsqueeze(-1) * batch.masses
        batch.spread = torch.sqrt(variance * (1 - self.damping**2))
        generator = torch.Generator(device=self.model.device)
        noise, volume_noise = [], []
        for number, size in zip(batch.numbers, batch.sizes, strict=True):
            generator.manual_seed(self._seed(number, f"chunk {chunk}"))
            noise.append(torch.randn(NOISE_STEPS, size, 3, generator=generator, **options))
            volume_noise.append(torch.randn(NOISE_STEPS, generator=generator, **options))
        batch.noise, batch.volume_noise = torch.cat(noise, 1), torch.stack(volume_noise, 1)
        batch.chunk = chunk
        return batch

    def _seed(self, number: int, what: str) -> int:
        digest = hashlib.sha256(f"{self.seed} {number} {what}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1
