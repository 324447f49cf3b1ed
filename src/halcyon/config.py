"""What a user may set: declared once, here, with its unit, default and description.

The JSON schema (`config/schema/*.json`), the documented default (`config/config.yaml`) and
the reference page (`docs/configuration.md`) are generated from these models by
`scripts/generate_config_docs.py`; a test keeps them in sync. Units are part of the key's name.

Not for: checks that need more than the configuration itself; see `preflight`.
"""

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from halcyon.errors import InputError
from halcyon.faults import NAME, near, validated

M = TypeVar("M", bound=BaseModel)

Name = Annotated[str, Field(pattern=NAME, max_length=60)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
AtomIndex = Annotated[int, Field(ge=0)]
SignalName = Literal[
    "node_energy",
    "guard",
    "latent",
    "latent_guard",
    "committee",
    "potential_energy",
    "bond_stretch",
]
Temperatures = Annotated[list[Annotated[float, Field(gt=0, le=10_000)]], Field(min_length=1)]


class Section(BaseModel):
    """A part of the configuration. Unknown keys are errors; values cannot change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Cp2kReference(Section):
    """Labels from CP2K."""

    backend: Literal["cp2k"] = Field(description="Label with CP2K.")
    level: Path = Field(
        description="File with the level of theory: CP2K input as YAML (cp2k-input-tools) or "
        "plain, without the structure. Relative to the working folder."
    )
    command: str = Field(
        "cp2k.psmp",
        min_length=1,
        description="Command that starts CP2K, e.g. `cp2k.psmp` or `srun -n 4 cp2k.psmp`. It is "
        "split as a shell would, and run without a shell.",
    )
    data_dir: Path | None = Field(
        None,
        description="Folder with CP2K's basis sets and pseudopotentials; by default CP2K_DATA_DIR, "
        "else the usual places.",
    )
    frame_timeout_s: float = Field(
        3600, gt=0, description="Wall time after which one frame is given up, s."
    )


class XtbReference(Section):
    """Labels from tblite: semi-empirical, milliseconds a frame, nothing to install."""

    backend: Literal["xtb"] = Field(description="Label with tblite.")
    method: Literal["GFN2-xTB", "GFN1-xTB"] = Field("GFN2-xTB", description="Hamiltonian.")
    accuracy: float = Field(
        0.1, gt=0, le=1000, description="tblite's accuracy; smaller is tighter SCF convergence."
    )
    max_iterations: int = Field(250, ge=1, description="SCF steps before a frame is unconverged.")


EnergyUnit = Literal["eV", "meV", "Ha", "kcal/mol", "kJ/mol"]
LengthUnit = Literal["A", "bohr"]


class DatasetLayout(Section):
    """How a published set of labels is written: names of its arrays, and units."""

    numbers_key: str = Field(
        "Z",
        description="npz: array of atomic numbers, (atoms) or (frames, atoms), padded with 0.",
    )
    positions_key: str = Field("R", description="npz: array of positions, (frames, atoms, 3).")
    energy_key: str = Field(
        "", description="Array (npz) or comment entry (extxyz) of energies; by default E or energy."
    )
    forces_key: str = Field(
        "", description="Array (npz) or column (extxyz) of forces; by default F or forces."
    )
    energy_unit: EnergyUnit = Field("eV", description="Unit of the energies.")
    positions_unit: LengthUnit = Field("A", description="Unit of positions and cells.")
    forces_unit: tuple[EnergyUnit, LengthUnit] | None = Field(
        None,
        description="Unit of the forces, energy per length, e.g. [Ha, bohr]; by default those of "
        "energies and positions.",
    )
    charge: int = Field(
        0, description="Total charge of the frames that do not tell it (as `charge`), e."
    )
    multiplicity: Literal["lowest"] | Count = Field(
        "lowest",
        description="Spin multiplicity of the frames that do not tell it (as `multiplicity`); "
        "lowest: 1 or 2, as the number of electrons allows.",
    )


class DatasetReference(DatasetLayout):
    """Labels looked up in a published set: a campaign in retrospect, without any calculation."""

    backend: Literal["dataset"] = Field(description="Look labels up in files.")
    files: list[Path] = Field(
        min_length=1,
        description="Files of the set, extended XYZ or npz, all written alike. Relative to the "
        "working folder.",
    )
    max_difference_A: float = Field(
        1.0,
        gt=0,
        description="A selected frame is replaced by the most similar one of the set; where the "
        "root-mean-square difference of their interatomic distances is larger than this, it is "
        "left, and counted, Å.",
    )


class AseReference(Section):
    """Labels from any ASE calculator."""

    backend: Literal["ase"] = Field(description="Label with an ASE calculator.")
    calculator: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$",
        description="Import path of the calculator's class, or of a function that returns one, "
        "e.g. `ase.calculators.emt.EMT`. It is imported and run: name only what you trust.",
    )
    arguments: dict[str, Any] = Field(
        {},
        description="Keyword arguments of the calculator. Where a value is the path of a file, the "
        "file's content is part of the level of theory.",
    )


ReferenceSettings = Annotated[
    Cp2kReference | XtbReference | AseReference | DatasetReference, Field(discriminator="backend")
]


class TeacherSettings(Section):
    """Force-field sampling: what the model learns before it sees a reference label."""

    temperatures_K: Temperatures = Field(
        [300.0, 600.0, 1200.0], description="Temperatures of the Langevin runs, K."
    )
    md_frames: Count = Field(
        300, description="Frames from molecular dynamics per structure, over all temperatures."
    )
    md_interval_fs: float = Field(25.0, gt=0, description="Time between two such frames, fs.")
    displaced_frames: int = Field(
        110, ge=0, description="Frames with displaced atoms per structure: they teach the walls."
    )
    displacement_A: tuple[Positive, Positive] = Field(
        (0.05, 0.35),
        description="Range of the standard deviation of the displacements, Å; drawn per frame.",
    )
    stretched_frames: int = Field(
        25,
        ge=0,
        description="Frames with one bond at 0.7 to 1.5 times its length, per structure.",
    )
    contact_frames: int = Field(
        15,
        ge=0,
        description="Frames with two atoms that are not bonded pushed together, per structure.",
    )
    dissociated_frames: int = Field(
        0,
        ge=0,
        description="Frames with one bond at 1.5 to 2.5 times its length, the two parts pulled "
        "apart, per structure; for force fields whose bonds end on a plateau.",
    )
    force_cap_eV_per_A: float = Field(
        100.0, gt=0, description="Frames with a larger force are dropped and counted, eV/Å."
    )
    min_difference_A: float = Field(
        0.0005,
        ge=0,
        description="Root-mean-square difference of interatomic distances under which a frame "
        "repeats an earlier one: dropped and counted, Å.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "TeacherSettings":
        if self.displacement_A[0] > self.displacement_A[1]:
            raise ValueError(f"displacement_A: expected [low, high], got {self.displacement_A}")
        return self


class ModelSettings(Section):
    """Size of the MACE model."""

    channels: int = Field(16, ge=4, le=512, description="Channels per irreducible representation.")
    max_L: int = Field(0, ge=0, le=3, description="Highest order of the messages.")
    layers: int = Field(2, ge=1, le=4, description="Message-passing layers.")
    correlation: int = Field(2, ge=1, le=4, description="Body order minus one of each layer.")
    r_max_A: float = Field(4.0, gt=1.0, le=12.0, description="Cutoff radius, Å.")
    radial_basis: int = Field(8, ge=2, le=32, description="Bessel functions of the radial basis.")
    dtype: Literal["float32", "float64"] = Field(
        "float32", description="Precision of training and dynamics."
    )
    pair_repulsion: bool = Field(
        False,
        description="Add the screened repulsion of bare nuclei (Ziegler, Biersack, Littmark), with "
        "trained parameters. Its dynamics are slower: MACE's own forward runs.",
    )


class FitSettings(Section):
    """How a model is fitted."""

    epochs: Count = Field(description="Passes over the training set.")
    updates: tuple[Count, Count] | None = Field(
        None,
        description="Least and most optimiser steps: there are more or fewer epochs, so that their "
        "steps lie between. null: as many epochs as asked for.",
    )
    batch_size: Count = Field(8, description="Structures per optimiser step.")
    learning_rate: float = Field(gt=0, le=1, description="Initial learning rate.")
    energy_weight: float = Field(10.0, ge=0, description="Weight of the energy in the loss.")
    forces_weight: float = Field(10.0, ge=0, description="Weight of the forces in the loss.")

    @model_validator(mode="after")
    def _ordered(self) -> "FitSettings":
        if self.updates is not None and self.updates[0] > self.updates[1]:
            raise ValueError(f"updates: expected [least, most], got {list(self.updates)}")
        return self

    def epochs_of(self, frames: int) -> int:
        """Passes over so many frames."""
        if self.updates is None:
            return self.epochs
        batches = math.ceil(frames / self.batch_size)
        least, most = self.updates
        return max(1, min(max(self.epochs, math.ceil(least / batches)), most // batches))


class PretrainingSettings(FitSettings):
    """Pre-training on force-field labels."""

    enabled: bool = Field(True, description="Without it, training starts from random weights.")
    start: Path | None = Field(
        None,
        description="MACE model file to start from instead of pre-training on the force field: "
        "MACE-OFF, MACE-MP or one's own. It must know all elements of the system; of `model` only "
        "`dtype` counts then. The file is a pickle, which runs code when read: name only files "
        "that you trust. Relative to the working folder.",
    )
    start_head: str | None = Field(
        None, description="Which head of `start` to keep; needed where it has several."
    )
    epochs: Count = Field(25, description="Passes over the teacher's frames.")
    batch_size: Count = Field(8, description="Structures per optimiser step.")
    learning_rate: float = Field(0.03, gt=0, le=1, description="Initial learning rate.")
    validation_fraction: float = Field(
        0.1, gt=0, lt=0.5, description="Part of the teacher's frames held out."
    )

    @model_validator(mode="after")
    def _start_is_used(self) -> "PretrainingSettings":
        if self.start is not None and not self.enabled:
            raise ValueError("start: with `enabled: false` no model is started from")
        if self.start_head is not None and self.start is None:
            raise ValueError("start_head: it chooses a head of `start`, which is missing")
        return self


class TrainingSettings(FitSettings):
    """Fine-tuning on reference labels, once per generation."""

    epochs: Count = Field(90, description="Passes over the labels in each generation.")
    updates: tuple[Count, Count] | None = Field(
        (900, 4000),
        description="Least and most optimiser steps: few labels get more epochs, and many labels "
        "fewer, so that the steps lie between. null: as many epochs as asked for.",
    )
    batch_size: Count = Field(5, description="Structures per optimiser step.")
    learning_rate: float = Field(0.02, gt=0, le=1, description="Initial learning rate.")
    replay_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Weight of the teacher's frames against labels, so that the walls they taught "
        "are not forgotten: at each step as many of them are learned as labels. It doubles the "
        "time of training; 0: off.",
    )
    fresh_every: int = Field(
        4,
        ge=0,
        description="Every so many generations, start again from the pre-trained model rather "
        "than from the previous generation's; 0: never.",
    )


class SeedSettings(Section):
    """The first labels: frames of the teacher's dynamics, before any exploration."""

    train: Count = Field(20, description="Frames to train on, per structure.")
    validation: int = Field(
        15,
        ge=5,
        description="Frames held out of training, per structure: they stop the training early "
        "and calibrate the domain's margins.",
    )
    test: int = Field(
        20, ge=5, description="Frames for the errors that are reported, per structure; never used."
    )
    max_temperature_K: float = Field(
        700.0, gt=0, description="Only teacher dynamics up to this temperature are drawn from, K."
    )


class DomainSettings(Section):
    """Natural interpolation domain: the interval of atomic energies that counts as known."""

    alpha: float = Field(
        1e-4,
        gt=0,
        lt=0.5,
        description="Wanted probability that an atom of an in-distribution frame is outside.",
    )
    classes: Literal["auto", "symmetry", "element", "environment"] = Field(
        "auto",
        description="Atoms that share an interval: symmetry-equivalent atoms of a molecule, all of "
        "an element, or those of an element in like surroundings (clusters of the model's "
        "descriptors, assigned at every step). auto: symmetry for `kind: molecule`, else element.",
    )
    signals: list[SignalName] = Field(
        ["node_energy", "guard"],
        description="What is watched at every step; each costs (see docs/science.md). node_energy: "
        "atomic energies against the label domain; guard: against the guard domain; these two are "
        "always on. latent: distance of the descriptor to those of the labels; latent_guard: or to "
        "the teacher's; committee: disagreement with other models about the force; "
        "potential_energy, bond_stretch: simple monitors to compare with.",
    )
    committee: list[Path] = Field(
        [],
        description="MACE models that the signal `committee` compares the model with, e.g. trained "
        "with other seeds. Relative to the working folder.",
    )
    indicator: Literal["hard", "smooth"] = Field(
        "hard", description="h(s) = 1 for s > 0, or 1 - exp(-(s/kappa)²)."
    )
    kappa: float = Field(
        0.1,
        gt=0,
        description="Scale of the smooth indicator, in widths of the interval; of other signals, "
        "in their thresholds.",
    )

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
        None, description="Start structure it belongs to; by default every one of the system."
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
        description="Width of a hill, Å: about a third of how far the distance fluctuates in "
        "one basin.",
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
        description="Duration of the ramp, ps; the temperature stays afterwards. By default the "
        "whole run.",
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
        description="nvt: Langevin; nve: no thermostat, the temperature is that of the first "
        "momenta; npt: Langevin and a barostat, periodic systems only.",
    )
    pressure_bar: float = Field(1.0, description="Pressure of the ensemble npt, bar.")
    barostat_ps: float = Field(1.0, gt=0, description="Relaxation time of the volume, npt, ps.")
    replicas: Count = Field(
        8,
        description="Replicas in all, integrated in one batch and dealt in turn over structures "
        "and temperatures.",
    )
    time_ps: float = Field(2.0, gt=0, description="Simulated time of each replica, ps.")
    replacements: int = Field(
        8,
        ge=0,
        description="Fresh replicas that take the places of failed ones until that time is over, "
        "at most.",
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
        description="Candidates kept of each replica, those that gained the most CLI: what bounds "
        "the memory of long runs.",
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
        "training mean, Å.",
    )
    min_distance_A: float = Field(
        0.5, gt=0, description="A replica has failed when two atoms are closer than this, Å."
    )
    energy_drift_eV_per_atom: float = Field(
        0.1,
        gt=0,
        description="Without a thermostat, a replica has failed when its total energy is further "
        "than this from its first, eV/atom.",
    )
    checkpoint_s: float = Field(
        20.0, gt=0, description="Wall time between two checkpoints, s: what a kill can cost."
    )
    bias: BiasSettings = Field(
        NoBias(kind="none"),
        description="What drives replicas over barriers. Under a bias, the CLI's numbers are about "
        "the biased dynamics (see docs/science.md).",
    )

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

    frames: Count = Field(20, description="Frames labelled in each generation.")
    validation_every: int = Field(
        5, ge=2, description="Every so many of them joins the validation set, not the training set."
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


class SaturationSettings(Section):
    """When labelling may stop."""

    max_rate_per_atom_ps: float = Field(
        0.1,
        gt=0,
        description="λ*: the rate of excursions per atom in the late window must be under it with "
        "the given confidence, 1/ps. An ordinary trajectory inside the domain has about "
        "`domain.alpha` divided by the length of an excursion (some fs): do not ask for less.",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="One-sided confidence of the bound.")
    window: float = Field(
        0.5, gt=0, le=1, description="Late window: this last part of each replica's asked time."
    )


class LimitSettings(Section):
    """What a campaign may cost."""

    max_generations: Count = Field(8, description="Generations at most.")
    label_budget: Count = Field(
        500, description="Labels at most, the seed's included; failed calculations count too."
    )
    min_free_disk_GB: float = Field(
        1.0, ge=0, description="The campaign does not start with less free disk, GB."
    )


class ResourceSettings(Section):
    """Cores per job. On a cluster the profile adds time and memory."""

    label_shards: Count = Field(
        2,
        le=1000,
        description="Label jobs per generation: shard i takes every n-th frame from i on. Part of "
        "the campaign's identity: it cannot change once the campaign has begun.",
    )
    label_cores: Count = Field(1, description="Cores of each label job.")
    train_cores: Count = Field(
        1,
        description="Cores of each training job. Small models gain nothing from a second one.",
    )
    explore_cores: Count = Field(1, description="Cores of each exploration job; likewise.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where models run. auto: cuda where there is one."
    )


class Settings(Section):
    """All that steers one system's loop. A system's `overrides` may change any of it."""

    teacher: TeacherSettings = Field(TeacherSettings(), description=TeacherSettings.__doc__)
    model: ModelSettings = Field(ModelSettings(), description=ModelSettings.__doc__)
    pretraining: PretrainingSettings = Field(
        PretrainingSettings(), description=PretrainingSettings.__doc__
    )
    seed_labels: SeedSettings = Field(SeedSettings(), description=SeedSettings.__doc__)
    training: TrainingSettings = Field(TrainingSettings(), description=TrainingSettings.__doc__)
    domain: DomainSettings = Field(DomainSettings(), description=DomainSettings.__doc__)
    exploration: ExplorationSettings = Field(
        ExplorationSettings(), description=ExplorationSettings.__doc__
    )
    selection: SelectionSettings = Field(SelectionSettings(), description=SelectionSettings.__doc__)
    saturation: SaturationSettings = Field(
        SaturationSettings(), description=SaturationSettings.__doc__
    )
    limits: LimitSettings = Field(LimitSettings(), description=LimitSettings.__doc__)
    resources: ResourceSettings = Field(ResourceSettings(), description=ResourceSettings.__doc__)


class Campaign(Settings):
    """A campaign: which systems, labelled how, and how long it may go on."""

    campaign: Name = Field(description="Name of the campaign; its results lie under this name.")
    systems: list[Name] = Field(
        min_length=1,
        description="Systems, each with its own model: names of `config/systems/<name>.yaml`.",
    )
    reference: ReferenceSettings = Field(description="Where labels come from.")
    seed: int = Field(
        20261121, ge=0, lt=2**31, description="Seed of all random numbers of the campaign."
    )
    results: Path = Field(Path("results"), description="Folder of all campaigns' results.")
    label_store: Path = Field(
        Path("results/labels"), description="Folder of the label store; campaigns may share one."
    )
    systems_folder: Path = Field(
        Path("config/systems"), description="Folder with the systems' files."
    )


class StructureSettings(Section):
    """A start structure: one composition of the system."""

    name: Name = Field(description="Name of the structure.")
    smiles: str | None = Field(
        None, description="The molecule as SMILES; or give `file` or `pack`."
    )
    file: Path | None = Field(
        None,
        description="Structure file that ASE reads (xyz, extxyz, cif, pdb …); or `smiles` or "
        "`pack`.",
    )
    pack: dict[Name, Count] = Field(
        {},
        description="Packed at random: how many of each of the other structures, e.g. "
        "`{water: 64}`; or `smiles` or `file`.",
    )
    charge: int = Field(0, ge=-20, le=20, description="Total charge, e.")
    multiplicity: int = Field(1, ge=1, le=20, description="Spin multiplicity 2S+1.")
    box_A: float | None = Field(
        None,
        gt=0,
        description="Edge of the cubic box around a molecule, Å. Codes on a grid (CP2K) need it. "
        "Of what is packed and periodic, the edge of the cell, where `density_g_per_cm3` does not "
        "say it. A periodic `file` brings its own cell.",
    )
    density_g_per_cm3: float | None = Field(
        None, gt=0, le=25, description="Density that `pack` packs to, g/cm³."
    )
    periodic: bool | None = Field(
        None,
        description="Periodic in all directions, or in none. By default what is packed is, "
        "molecules are not, and a file is what it says.",
    )
    pretrain: bool = Field(
        True,
        description="The teacher's frames of it are pre-trained on. What is packed is not, unless "
        "asked for: its single molecules are.",
    )
    explore: bool = Field(True, description="It is explored by molecular dynamics.")

    @model_validator(mode="before")
    @classmethod
    def _single_molecules_teach(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("pack"):
            return {"pretrain": False} | data
        return data

    @model_validator(mode="after")
    def _one_source(self) -> "StructureSettings":
        here = f"structure {self.name}"
        if [self.smiles is None, self.file is None, not self.pack].count(False) != 1:
            raise ValueError(f"{here}: give one of `smiles`, `file` and `pack`")
        if self.density_g_per_cm3 is not None and not self.pack:
            raise ValueError(f"{here}: density_g_per_cm3: only for `pack`; give `box_A`")
        if self.pack and self.density_g_per_cm3 is None and self.box_A is None:
            raise ValueError(f"{here}: pack: how densely? Give `density_g_per_cm3`, or `box_A`")
        if self.pack and self.periodic is not False and self.density_g_per_cm3 and self.box_A:
            raise ValueError(
                f"{here}: `density_g_per_cm3` and `box_A` both say how large the cell is; give one"
            )
        return self

    @property
    def is_periodic(self) -> bool | None:
        """Whether it is periodic; None: as the file says."""
        if self.periodic is not None:
            return self.periodic
        return True if self.pack else None if self.file is not None else False


class Gaff2ForceField(Section):
    """GAFF2, typed by AmberTools from the molecules themselves: nothing to write."""

    kind: Literal["gaff2"] = Field(description="GAFF2 for organic molecules.")
    charges: Literal["gasteiger", "bcc"] = Field(
        "gasteiger",
        description="Partial charges. gasteiger: at once. bcc: AM1-BCC, some minutes a molecule.",
    )
    charge_files: dict[Name, Path] = Field(
        {},
        description="Structure → text file with a charge per atom, e, in the structure's order; "
        "it wins over `charges`.",
    )

    @property
    def paths(self) -> list[Path]:
        """Files that it is read from."""
        return list(self.charge_files.values())


class XmlForceField(Section):
    """OpenMM ForceField XML: OpenMM's own or yours."""

    kind: Literal["forcefield_xml"] = Field(description="OpenMM ForceField XML.")
    files: list[Path] = Field(
        min_length=1,
        description="XML files with a template for every molecule: from the working folder, or "
        "by the names of those that come with OpenMM (`amber14/tip3p.xml`).",
    )

    @property
    def paths(self) -> list[Path]:
        """Files that it is read from."""
        return list(self.files)


class AmberForceField(Section):
    """AMBER topologies with their parameters."""

    kind: Literal["amber"] = Field(description="AMBER prmtop.")
    prmtop: dict[Name, Path] = Field(
        min_length=1,
        description="Structure → prmtop file, its atoms in the structure's order.",
    )

    @property
    def paths(self) -> list[Path]:
        """Files that it is read from."""
        return list(self.prmtop.values())


class GromacsForceField(Section):
    """GROMACS topologies with their parameters."""

    kind: Literal["gromacs"] = Field(description="GROMACS top.")
    top: dict[Name, Path] = Field(
        min_length=1, description="Structure → top file, its atoms in the structure's order."
    )
    include_dir: Path | None = Field(
        None, description="Folder of the files that the top files include; by default GROMACS's."
    )

    @property
    def paths(self) -> list[Path]:
        """Files that it is read from."""
        return list(self.top.values())


ForceFieldSettings = Annotated[
    Gaff2ForceField | XmlForceField | AmberForceField | GromacsForceField,
    Field(discriminator="kind"),
]


class System(Section):
    """A molecular system: what one model learns."""

    name: Name = Field(description="Name of the system, that of its file.")
    description: str = Field("", description="A line for the report.")
    kind: Literal["molecule", "liquid", "reactive"] = Field(
        "molecule",
        description="molecule: bonds must hold. liquid: molecules move past each other. reactive: "
        "bonds may break. It chooses atom classes and what counts as a failure.",
    )
    forcefield: ForceFieldSettings = Field(
        Gaff2ForceField(kind="gaff2"),
        description="The teacher's force field; `{kind: gaff2}` if left out.",
    )
    structures: list[StructureSettings] = Field(
        min_length=1, description="Start structures; one model learns them together."
    )
    overrides: dict[str, dict[str, Any]] = Field(
        {}, description="Sections of the campaign's settings that differ for this system."
    )

    @model_validator(mode="after")
    def _distinct(self) -> "System":
        names = [structure.name for structure in self.structures]
        if len(set(names)) < len(names):
            raise ValueError(f"structures: names must differ, got {names}")
        if not any(structure.explore for structure in self.structures):
            raise ValueError("structures: at least one must have `explore: true`")
        single = [structure.name for structure in self.structures if not structure.pack]
        for structure in self.structures:
            if unknown := [name for name in structure.pack if name not in single]:
                raise ValueError(
                    f"structure {structure.name}: pack: {', '.join(unknown)}: expected structures "
                    f"of this file that are not packed themselves: {', '.join(single) or 'none'}"
                )
        for key in ("charge_files", "prmtop", "top"):
            named = getattr(self.forcefield, key, None) or {}
            if unknown := [name for name in named if name not in names]:
                raise ValueError(
                    f"forcefield.{key}: {', '.join(unknown)}: no such structure; expected "
                    f"{', '.join(names)}"
                )
        return self


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        InputError: missing, unreadable or not a mapping; the message names the file.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected `key: value` lines, got {type(content).__name__}")
    return content


def parse_campaign(content: dict[str, Any], source: str) -> Campaign:
    """Validate a campaign's configuration.

    Args:
        content: the parsed YAML.
        source: what to call it in messages, e.g. the file's name.

    Raises:
        InputError: one line per fault: file, key, value, what was expected.
    """
    return validated(Campaign, content, source)


def read_system(path: Path | str) -> System:
    """Read and validate a system's file.

    Raises:
        InputError: as `parse_campaign`.
    """
    system = validated(System, read_yaml(path), str(path))
    if system.name != Path(path).stem:
        raise InputError(
            f"{path}: name: {system.name!r}: expected {Path(path).stem!r}, as the file is called"
        )
    return system


def settings_for(campaign: Campaign, system: System, source: str = "") -> Settings:
    """The campaign's settings with the system's overrides merged in, key by key.

    Raises:
        InputError: an override is not a known key or has a wrong value; or the bias names a
            structure that is not explored.
    """
    merged = campaign.model_dump(include=set(Settings.model_fields))
    file = source or system.name
    source = f"{file}: overrides"
    for section, values in system.overrides.items():
        if section not in merged:
            raise InputError(
                f"{source}.{section}: unknown section; expected one of {', '.join(merged)}"
            )
        merged[section] = merged[section] | values
    settings = validated(Settings, merged, source)
    _check_structures(settings.exploration.bias, system, file)
    return settings


def _check_structures(
    bias: NoBias | RampBias | MetadynamicsBias, system: System, file: str
) -> None:
    """Every variable's structure must be one that is explored."""
    if not isinstance(bias, MetadynamicsBias):
        return
    known = [structure.name for structure in system.structures if structure.explore]
    faults = [
        f"{file}: exploration.bias.variables.{i}.structure = {variable.structure!r}: expected an "
        f"explored structure of this system, one of {', '.join(known)}"
        + near(variable.structure, known)
        for i, variable in enumerate(bias.variables)
        if variable.structure is not None and variable.structure not in known
    ]
    if faults:
        raise InputError("\n".join(faults))
