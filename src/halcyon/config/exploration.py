"""Settings of exploration: domain and signals, dynamics, bias, and which frames are selected."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from halcyon.config.section import AtomIndex, Count, Name, Section, Temperatures

SignalName = Literal[
    "node_energy",
    "guard",
    "latent",
    "latent_guard",
    "committee",
    "potential_energy",
    "bond_stretch",
]


class DomainSettings(Section):
    """Natural interpolation domain: the interval of atomic energies that counts as known."""

    alpha: float = Field(
        1e-4,
        gt=0,
        lt=0.5,
        description="Probability that an atom of an in-distribution frame counts as outside.",
    )
    classes: Literal["auto", "symmetry", "element", "environment"] = Field(
        "auto",
        description="Which atoms share an interval. symmetry: equivalent atoms of a molecule; "
        "element: all atoms of an element; environment: atoms of an element in similar "
        "surroundings (clusters of the model's descriptors, assigned at every step). auto: "
        "symmetry for `kind: molecule`, else element.",
    )
    signals: list[SignalName] = Field(
        ["node_energy", "guard"],
        description="What is watched at every step; each costs (see docs/science.md). node_energy: "
        "atomic energies against the label domain; guard: against the guard domain; these two are "
        "always on. latent: distance of an atom's descriptor to those of the labelled frames; "
        "latent_guard: to those of the labelled or the teacher's frames; committee: disagreement "
        "of the force with other models; potential_energy, bond_stretch: simple monitors for "
        "comparison.",
    )
    committee: list[Path] = Field(
        [],
        description="MACE models that the signal `committee` compares the model with, e.g. trained "
        "with other seeds. Relative to the working folder.",
    )
    indicator: Literal["hard", "smooth"] = Field(
        "hard",
        description="What a score s > 0 counts at each step. hard: 1; smooth: 1 - "
        "exp(-(s/kappa)²).",
    )
    kappa: float = Field(
        0.1,
        gt=0,
        description="Scale of the smooth indicator, in widths of the interval, or, for other "
        "signals, in their thresholds.",
    )

    @property
    def watched_committee(self) -> list[Path]:
        """Files of the committee; none where the signal `committee` is not watched."""
        return self.committee if "committee" in self.signals else []

    @model_validator(mode="after")
    def _has_models(self) -> "DomainSettings":
        if len(set(self.signals)) < len(self.signals):
            raise ValueError(f"signals: each may be named once, got {self.signals}")
        if "committee" in self.signals and not self.committee:
            raise ValueError("committee: the signal `committee` needs the files of other models")
        return self


class Variable(Section, ABC):
    """What all collective variables have."""

    structure: Name | None = Field(
        None,
        description="Start structure that it is used for; by default all structures of the system.",
    )

    @property
    @abstractmethod
    def all_atoms(self) -> list[int]:
        """Indices of its atoms, in the order given."""

    @property
    @abstractmethod
    def width(self) -> float:
        """Width of a hill, in the variable's unit."""

    @model_validator(mode="after")
    def _distinct_atoms(self) -> "Variable":
        if len(set(self.all_atoms)) < len(self.all_atoms):
            raise ValueError(f"atoms: each may be named once, got {self.all_atoms}")
        return self


class DistanceVariable(Variable):
    """Distance between two atoms."""

    kind: Literal["distance"] = Field(description="Distance between two atoms, Å.")
    atoms: tuple[AtomIndex, AtomIndex] = Field(
        description="The two atoms, numbered from 0 as in the start structure."
    )
    sigma_A: float = Field(
        gt=0,
        description="Width of a hill, Å: about a third of the fluctuation of the distance in one "
        "basin.",
    )

    @property
    def all_atoms(self) -> list[int]:
        """Indices of its atoms, in the order given."""
        return list(self.atoms)

    @property
    def width(self) -> float:
        """Width of a hill, in the variable's unit."""
        return self.sigma_A


class CoordinationVariable(Variable):
    """Coordination number: how many of one group are near those of another."""

    kind: Literal["coordination"] = Field(
        description="Sum over pairs between two groups of (1 - x⁶)/(1 - x¹²), x = r/r0: about 1 "
        "for a near pair, 0 for a far one."
    )
    group_a: list[AtomIndex] = Field(
        min_length=1, description="One group of atoms, numbered from 0 as in the start structure."
    )
    group_b: list[AtomIndex] = Field(
        min_length=1, description="The other group, numbered from 0; no atom is in both."
    )
    r0_A: float = Field(gt=0, description="Distance at which a pair counts half, Å.")
    sigma: float = Field(gt=0, description="Width of a hill, in units of the coordination number.")

    @property
    def all_atoms(self) -> list[int]:
        """Indices of its atoms, in the order given."""
        return [*self.group_a, *self.group_b]

    @property
    def width(self) -> float:
        """Width of a hill, in the variable's unit."""
        return self.sigma


class TorsionVariable(Variable):
    """Torsion angle of four atoms."""

    kind: Literal["torsion"] = Field(
        description="Torsion angle of four atoms, degrees; periodic. Three in a row must not "
        "become collinear."
    )
    atoms: tuple[AtomIndex, AtomIndex, AtomIndex, AtomIndex] = Field(
        description="The four atoms along the chain, numbered from 0 as in the start structure."
    )
    sigma_deg: float = Field(
        gt=0, le=45, description="Width of a hill, degrees; 15 to 25 suit most bonds."
    )

    @property
    def all_atoms(self) -> list[int]:
        """Indices of its atoms, in the order given."""
        return list(self.atoms)

    @property
    def width(self) -> float:
        """Width of a hill, in the variable's unit."""
        return self.sigma_deg


VariableSettings = Annotated[
    DistanceVariable | CoordinationVariable | TorsionVariable, Field(discriminator="kind")
]
VARIABLES_AT_MOST = 2
"""Variables of one structure: hills fill a space whose size grows with its dimensions."""


FRICTION_TIMES = 5
"""Of equilibration, unless it is set: energy relaxes at the rate of the friction at the slowest,
and exp(-5) is 0.7 %."""


class NoBias(Section):
    """Plain molecular dynamics."""

    kind: Literal["none"] = Field(description="No bias.")


class RampBias(Section):
    """The thermostat is heated (or cooled) during the run."""

    kind: Literal["ramp"] = Field(
        description="The thermostat's temperature changes linearly with time."
    )
    to_K: float = Field(
        gt=0,
        le=10_000,
        description="Temperature at the end of the ramp, K; each replica starts at its own of "
        "`temperatures_K`.",
    )
    time_ps: float | None = Field(
        None,
        gt=0,
        description="Duration of the ramp, ps; the temperature is constant afterwards. By default "
        "the whole run.",
    )


class MetadynamicsBias(Section):
    """Well-tempered metadynamics: hills push a replica out of where it has been."""

    kind: Literal["metadynamics"] = Field(
        description="Well-tempered metadynamics; each replica has hills of its own."
    )
    variables: list[VariableSettings] = Field(
        min_length=1,
        description="Collective variables, one or two for a structure. A structure without any is "
        "not biased.",
    )
    height_eV: float = Field(
        0.05, gt=0, le=10, description="Height of the first hill, eV; later ones shrink."
    )
    pace_fs: float = Field(50.0, gt=0, description="Time between two hills, fs.")
    bias_factor: float = Field(
        10.0,
        gt=1,
        description="γ: the variables are sampled as if γ times as hot. Barriers up to about γ "
        "times the thermostat's kT are levelled.",
    )

    @model_validator(mode="after")
    def _few_per_structure(self) -> "MetadynamicsBias":
        names = [variable.structure for variable in self.variables]
        for name in dict.fromkeys(names):
            number = len([other for other in names if other in (name, None)])
            if number > VARIABLES_AT_MOST:
                of = f"structure {name}" if name else "every structure"
                raise ValueError(
                    f"variables: at most {VARIABLES_AT_MOST} for a structure, got {number} for {of}"
                )
        return self


BiasSettings = Annotated[NoBias | RampBias | MetadynamicsBias, Field(discriminator="kind")]


class ExplorationSettings(Section):
    """Molecular dynamics with the current model, watched by the CLI at every step."""

    temperatures_K: Temperatures = Field([500.0], description="Thermostat temperatures, K.")
    ensemble: Literal["nvt", "nve", "npt"] = Field(
        "nvt",
        description="nvt: Langevin; nve: no thermostat, after a short run with one "
        "(`equilibration_ps`); npt: Langevin and a barostat, periodic systems only. The volume "
        "follows the model's stress, so npt is refused where the model does not learn stress.",
    )
    equilibration_ps: float | None = Field(
        None,
        ge=0,
        description="Without a thermostat (nve): time with one before, ps, in addition to "
        "`time_ps`. It is watched, and a failure in it is a failure, but CLI, traces and the drift "
        "of the energy count from its end. By default 5/`friction_per_ps`, after which less than "
        "1 % of a start's strain is left.",
    )
    pressure_bar: float | list[float] = Field(
        1.0,
        description="Pressure of the ensemble npt, bar: one for all replicas, or a list with one "
        "for each of `temperatures_K`, in their order.",
    )
    barostat_ps: float = Field(1.0, gt=0, description="Relaxation time of the volume, npt, ps.")
    replicas: Count = Field(
        8,
        description="Number of replicas, integrated in one batch and distributed in turn over "
        "structures and temperatures.",
    )
    time_ps: float = Field(30.0, gt=0, description="Simulated time of each replica, ps.")
    extended_at_most: float = Field(
        4.0,
        ge=1,
        description="Where a generation saw fewer events than the limits of `saturation`, but for "
        "too short a time to bound them so, the next one explores longer: as much as that needs, "
        "at most so many times `time_ps`. 1: never.",
    )
    early_end: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Part of `time_ps` after which a run ends where it will hardly be calm: a "
        "replica has failed, some atom was unreliable all the time in each, or the lower bound of "
        "events or of unreliable predictions is ten times over its limit of `saturation`. The "
        "verdict and the next labels then rest on that part. null: every run goes to its end.",
    )
    replacements: int = Field(
        8,
        ge=0,
        description="Greatest number of new replicas that replace failed ones until `time_ps` is "
        "over.",
    )
    timestep_fs: float = Field(0.5, gt=0, le=5, description="Time step, fs.")
    friction_per_ps: float = Field(5.0, gt=0, description="Langevin friction, 1/ps.")
    trace_points_per_ps: int = Field(
        40, ge=1, le=2000, description="Points kept of each replica's traces, 1/ps."
    )
    candidate_interval_fs: float = Field(
        50.0, gt=0, description="At most one candidate frame per replica in such an interval, fs."
    )
    candidates_per_replica: int = Field(
        200,
        ge=1,
        description="Greatest number of candidates kept of each replica, those that gained the "
        "most CLI; it bounds the memory of long runs.",
    )
    trajectory_every_fs: float | None = Field(
        None,
        gt=0,
        description="Write a frame of each replica every so many fs to `trajectory.parquet`; by "
        "default no trajectory is written.",
    )
    bond_stretch_A: float = Field(
        0.5,
        gt=0,
        description="A replica of a molecule has failed when a bond is further than this from its "
        "training mean, Å. What the reference does as well is no failure: soft bonds, as those of "
        "metals, want 1 Å.",
    )
    min_distance_A: float = Field(
        0.5, gt=0, description="A replica has failed when two atoms are closer than this, Å."
    )
    site_distance_A: float | None = Field(
        None,
        gt=0,
        description="With `kind: solid` or `slab`: a replica has failed when an atom is further "
        "than this from its site, that of the start structure, Å; null: atoms may go anywhere, and "
        "melting is remarked, not failed. The drift of the whole crystal does not count, nor do "
        "molecules on a slab. Set it where nothing should melt or diffuse: half the distance of "
        "nearest neighbours is a good limit.",
    )
    energy_drift_eV_per_atom: float = Field(
        0.1,
        gt=0,
        description="Without a thermostat, a replica has failed when its total energy is further "
        "than this from that at the end of its equilibration, eV/atom; looked at at every step.",
    )
    checkpoint_s: float = Field(
        20.0, gt=0, description="Wall time between two checkpoints, s; a kill loses at most this."
    )
    bias: BiasSettings = Field(
        NoBias(kind="none"),
        description="What drives replicas over barriers. Under a bias, the CLI's numbers are about "
        "the biased dynamics (see docs/science.md).",
    )

    @property
    def thermostatted_ps(self) -> float:
        """Time with a thermostat before one without, ps; 0 in other ensembles."""
        if self.ensemble != "nve":
            return 0.0
        if self.equilibration_ps is not None:
            return self.equilibration_ps
        return FRICTION_TIMES / self.friction_per_ps

    def pressure_at(self, temperature_K: float) -> float:
        """Pressure, bar, of a replica: that of the nearest of `temperatures_K`."""
        if not isinstance(self.pressure_bar, list):
            return self.pressure_bar
        pairs = zip(self.temperatures_K, self.pressure_bar, strict=False)
        return min(pairs, key=lambda pair: abs(pair[0] - temperature_K))[1]

    @model_validator(mode="after")
    def _has_a_pressure_for_each_temperature(self) -> "ExplorationSettings":
        if not isinstance(self.pressure_bar, list):
            return self
        expected = len(self.temperatures_K)
        if len(self.pressure_bar) != expected:
            raise ValueError(
                f"pressure_bar: expected a number, or a list of {expected}: one for each of "
                f"temperatures_K; got {len(self.pressure_bar)}"
            )
        if len(set(self.temperatures_K)) != expected:
            raise ValueError(
                "pressure_bar: with a list, expected different temperatures_K: results are given "
                f"by temperature; got {self.temperatures_K}"
            )
        return self

    @model_validator(mode="after")
    def _can_be_biased(self) -> "ExplorationSettings":
        if self.bias.kind == "ramp" and self.ensemble == "nve":
            raise ValueError("bias: a ramp needs a thermostat; ensemble = 'nve' has none")
        if self.bias.kind == "metadynamics" and self.ensemble != "nvt":
            raise ValueError(
                f"bias: metadynamics needs the ensemble 'nvt', got {self.ensemble!r}: hills change "
                "the energy, and distances are taken in the cell of the start"
            )
        return self


class SelectionSettings(Section):
    """Which candidate frames are worth a label."""

    by: Literal["index", "random"] = Field(
        "index",
        description="index: frames where the index saw trouble. random: physical frames drawn at "
        "random from the same dynamics, to see what the index is worth.",
    )
    frames: Count = Field(20, description="Frames labelled in each generation.")
    validation_every: int = Field(
        5,
        ge=2,
        description="One in so many of them joins the validation set instead of the training set.",
    )
    shortlist: Count = Field(
        3,
        description="Of this many times as many best-ranked candidates, those are labelled whose "
        "descriptors are farthest apart; 1: rank alone decides.",
    )
    min_difference_A: float = Field(
        0.05,
        ge=0,
        description="Root-mean-square difference of interatomic distances under which two frames "
        "count as the same, Å.",
    )
    force_cap_eV_per_A: float = Field(
        50.0,
        gt=0,
        description="Frames where the model predicts a larger force are unphysical: dropped, eV/Å.",
    )
