"""Dynamics of a few replicas, cut into segments that any machine may go on from.

A segment begins where the one before ended: positions, momenta, cell and hills are in its JSON, in
full precision, and random numbers follow from seed, replica and step. So the trajectory is the same
wherever and whenever its segments were computed.

    from exams.segments import Segment, integrate

    parts = integrate(potential, Segment(run, 0), replicas, criteria=criteria, bias=bias, before=[])
    parts[0].positions  # of the first replica, shape (frames, N, 3)

Not for: what is computed from the frames (see `observables`), or watching (see `explore`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch_sim as ts
from ase import Atoms
from torch_sim.models.interface import ModelInterface

from exams.potentials import Biased
from halcyon.config import ExplorationSettings, MetadynamicsBias, NoBias
from halcyon.domain.failures import FailureMonitor
from halcyon.exploration.bias import Metadynamics
from halcyon.exploration.dynamics import Dynamics, Replica
from halcyon.exploration.momenta import kinetic_energies, temperatures

HILLS = ("centers", "heights")
"""Keys of `bias.State`."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of one structure by one potential.

    Attributes:
        name: of its cells.
        who: whose forces: reference or model.
        structure: name of the start structure.
        temperature_K: of the thermostat.
        replicas: number of them.
        batch: replicas of one cell, integrated together.
        segments: cells of each batch, one after another.
        segment_ps: length of each.
        first_ps: with a thermostat at the start of the run (ensemble nve).
        later_ps: with a thermostat at the start of each later segment (ensemble nve).
        ensemble: nve, nvt or npt.
        timestep_fs: time step.
        every_fs: between the frames that are analysed.
        seed: of starts, momenta and thermostat.
    """

    name: str
    who: str
    structure: str
    temperature_K: float
    replicas: int
    batch: int
    segments: int
    segment_ps: float
    first_ps: float = 0.0
    later_ps: float = 0.0
    ensemble: str = "nve"
    timestep_fs: float = 0.5
    every_fs: float = 2.0
    seed: int = 20261129

    @property
    def steps(self) -> int:
        """Of a segment."""
        return round(1000 * self.segment_ps / self.timestep_fs)

    def settings(self, bias: MetadynamicsBias | NoBias) -> ExplorationSettings:
        """As the dynamics take them."""
        return ExplorationSettings(
            temperatures_K=[self.temperature_K],
            ensemble=self.ensemble,
            replicas=self.replicas,
            time_ps=self.segments * self.segment_ps,
            timestep_fs=self.timestep_fs,
            bias=bias,
        )


@dataclass(frozen=True)
class Segment:
    """A segment of a run, by its number from 0."""

    run: Run
    number: int

    @property
    def begin(self) -> int:
        """Its first step."""
        return self.number * self.run.steps

    @property
    def released(self) -> int:
        """Step from which frames count: no thermostat acts where the ensemble has none."""
        per_ps = 1000 / self.run.timestep_fs
        later = self.begin + round(self.run.later_ps * per_ps) if self.number else 0
        return max(round(self.run.first_ps * per_ps), later, self.begin)


@dataclass
class Part:
    """What one replica did in a segment, every `every_fs` from the segment's release on.

    Attributes:
        replica: its number.
        positions: shape (N, 3) each, Å.
        velocities: shape (N, 3) each, in torch-sim's unit.
        forces: of the potential without the bias, shape (N, 3) each, eV/Å.
        cells: shape (3, 3) each, Å.
        energies: total energy without the bias, eV.
        temperatures: K.
        variables: the first collective variable.
        ps: simulated in this segment, a thermostat's time included.
        failure: why it failed; None: it did not.
        end: what the next segment begins with; None after a failure.
    """

    replica: int
    positions: list[np.ndarray] = field(default_factory=list)
    velocities: list[np.ndarray] = field(default_factory=list)
    forces: list[np.ndarray] = field(default_factory=list)
    cells: list[np.ndarray] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    variables: list[float] = field(default_factory=list)
    ps: float = 0.0
    failure: str | None = None
    end: dict[str, Any] | None = None


@dataclass(frozen=True)
class Criteria:
    """What counts as a failure: kind of system, bonds by structure, and the campaign's limits."""

    kind: str
    bonds: Mapping[str, list[tuple[int, int, float]]]
    bond_stretch_A: float
    min_distance_A: float


def integrate(
    potential: ModelInterface,
    segment: Segment,
    members: Sequence[Replica],
    *,
    criteria: Criteria,
    bias: MetadynamicsBias | NoBias,
    before: Sequence[Mapping[str, Any]],
) -> list[Part]:
    """Integrate replicas through a segment.

    Args:
        potential: gives forces.
        segment: which.
        members: the replicas, in the order of the parts.
        criteria: what counts as a failure.
        bias: hills of metadynamics, or none.
        before: `Part.end` of the segment before for each member; empty for the first segment.

    Returns:
        A part for each member.
    """
    batch = _Batch(potential, segment, members, criteria=criteria, bias=bias, before=before)
    run, every = segment.run, max(1, round(segment.run.every_fs / segment.run.timestep_fs))
    for step in range(segment.begin, segment.begin + run.steps):
        if not batch.replicas:
            break
        batch.advance(step)
        if (step + 1) % every == 0:
            batch.look(step + 1)
    batch.close()
    return batch.parts


class _Batch:
    """Replicas that still run."""

    def __init__(
        self,
        potential: ModelInterface,
        segment: Segment,
        members: Sequence[Replica],
        *,
        criteria: Criteria,
        bias: MetadynamicsBias | NoBias,
        before: Sequence[Mapping[str, Any]],
    ) -> None:
        self.segment, self.criteria, self.bias = segment, criteria, bias
        self.replicas = list(members)
        self.parts = [Part(replica.number) for replica in members]
        self.running = list(self.parts)
        self.model = Biased(potential)
        self.settings = segment.run.settings(bias)
        self.dynamics = Dynamics(self.model, self.settings, seed=segment.run.seed)
        self.pace = 0
        hills: list[Any] = [None] * len(members)
        if isinstance(bias, MetadynamicsBias):
            self.pace = max(1, round(bias.pace_fs / segment.run.timestep_fs))
            if before:
                hills = [
                    {key: torch.tensor(end[key], dtype=torch.float64) for key in HILLS}
                    for end in before
                ]
            self._put_bias(hills)
        if before:
            self.state = self._restored(before)
        else:
            self.state = self.dynamics.begin(members)
        self.stress = self.model.output.get("stress") if self.settings.ensemble == "npt" else None
        self._lay_out()

    def _restored(self, before: Sequence[Mapping[str, Any]]) -> Any:
        """The state that the segment before ended with; forces follow from the positions."""
        options = {"device": self.model.device, "dtype": self.model.dtype}

        def joined(key: str) -> torch.Tensor:
            return torch.cat([torch.tensor(end[key], **options) for end in before])

        starts = [replica.start for replica in self.replicas]
        plain = ts.io.atoms_to_state(starts, **options)
        plain.positions = joined("positions")
        plain.cell = torch.stack([torch.tensor(end["cell"], **options) for end in before])
        output = self.model(plain)
        moving = {
            "positions": plain.positions,
            "momenta": joined("momenta"),
            "forces": output["forces"],
            "energy": output["energy"],
            "cell": plain.cell,
        }
        return self.dynamics.restored(self.replicas, moving)

    def _put_bias(self, hills: Sequence[Any]) -> None:
        assert isinstance(self.bias, MetadynamicsBias)  # noqa: S101
        self.model.bias = Metadynamics(
            [replica.start for replica in self.replicas],
            [replica.temperature_K for replica in self.replicas],
            self.bias,
            device=self.model.device,
            states=hills,
        )

    def _lay_out(self) -> None:
        """Prepare what depends on which replicas run."""
        began = [self.segment.released] * len(self.replicas)
        self.dynamics.lay_out(self.state, self.replicas, began)
        self.atoms = np.cumsum([0, *(len(r.start) for r in self.replicas)])
        self.monitor = FailureMonitor(
            [replica.start for replica in self.replicas],
            dict(self.criteria.bonds),
            kind=self.criteria.kind,
            bond_stretch_A=self.criteria.bond_stretch_A,
            min_distance_A=self.criteria.min_distance_A,
            device=self.model.device,
        )

    def advance(self, step: int) -> None:
        """A step, and a hill where one is due."""
        self.state = self.dynamics.step(self.state, step, self.stress)
        if self.stress is not None:
            self.stress = self.model.output["stress"]
        if self.model.bias is not None and (step + 1) % self.pace == 0:
            self.model.bias.deposit(self.state.positions)

    def look(self, step: int) -> None:
        """Remember a frame of each replica, and let the failed ones leave."""
        state, number = self.state, len(self.replicas)
        forces = self.model.output["forces"]
        moving = state.momenta, state.masses, state.system_idx, number
        total = (state.energy.double() + kinetic_energies(*moving)).tolist()
        kelvin = temperatures(*moving).tolist()
        values = None
        if self.model.bias is not None:
            values = self.model.bias.values(state.positions)[:, 0].tolist()
        cells = state.cell if self.settings.ensemble == "npt" else None
        failed = self.monitor.check(state.positions, state.energy, forces, cells)
        for i, part in enumerate(self.running):
            part.ps = (step - self.segment.begin) * self.segment.run.timestep_fs / 1000
            part.failure = failed.get(i)
            if step <= self.segment.released or part.failure:
                continue
            atoms = slice(self.atoms[i], self.atoms[i + 1])
            part.positions.append(state.positions[atoms].double().numpy().copy())
            velocities = state.momenta[atoms] / state.masses[atoms, None]
            part.velocities.append(velocities.double().numpy())
            part.forces.append(forces[atoms].double().numpy().copy())
            # torch-sim keeps cell vectors in columns.
            part.cells.append(state.cell[i].double().numpy().T.copy())
            part.energies.append(total[i])
            part.temperatures.append(kelvin[i])
            if values is not None:
                part.variables.append(values[i])
        if failed:
            self._keep([i for i in range(number) if i not in failed])

    def _keep(self, places: list[int]) -> None:
        hills = [self.model.bias.take(i) for i in places] if self.model.bias else []
        self.replicas = [self.replicas[i] for i in places]
        self.running = [self.running[i] for i in places]
        if not places:
            return
        self.state = self.state[places]
        self.stress = None if self.stress is None else self.stress[places]
        if self.model.bias is not None:
            self._put_bias(hills)
        self._lay_out()

    def close(self) -> None:
        """Write down what the next segment begins with."""
        for i, part in enumerate(self.running):
            atoms = slice(self.atoms[i], self.atoms[i + 1])
            part.end = {
                "positions": self.state.positions[atoms].tolist(),
                "momenta": self.state.momenta[atoms].tolist(),
                "cell": self.state.cell[i].tolist(),
            }
            if self.model.bias is not None:
                hills = self.model.bias.take(i)
                part.end |= {key: value.tolist() for key, value in hills.items()}


def frames_of(part: Part, start: Atoms, *, every: int = 1) -> list[Atoms]:
    """Frames of a part with their cells and potential's forces, one in so many."""
    frames = []
    for i in range(0, len(part.positions), every):
        frame = start.copy()
        frame.set_cell(part.cells[i])
        frame.positions = part.positions[i]
        frame.arrays["forces"] = part.forces[i]
        frames.append(frame)
    return frames
