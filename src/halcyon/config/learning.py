"""Settings of what a model learns from and how: teacher, model, training, first labels."""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_serializer,
    model_validator,
)

from halcyon.config.presets import PresetName, filled
from halcyon.config.reference import DatasetLayout
from halcyon.config.section import Count, Positive, Section, Temperatures

TEACHER_TIMESTEP_FS = 0.5
"""Time step of the teacher's dynamics, fs."""
EQUILIBRATION_PS = 1.0
"""Simulated with the teacher and thrown away before the first frame, ps."""
AtomicProperty = Literal["charges", "energies", "bond_orders"]
"""Properties of atoms that a pre-training may learn; column `atomic_…` of a frame."""
REPLAY_WEIGHT = 0.1
"""Weight of replayed frames where a start model is fine-tuned and no weight is set."""

STRESS_WEIGHT = 10.0
"""Weight of the stress in the loss where none is set and labels have a stress."""


class TeacherSettings(Section):
    """Force-field sampling: frames that the model learns before it sees a reference label."""

    temperatures_K: Temperatures = Field(
        [300.0, 600.0, 1200.0], description="Temperatures of the Langevin runs, K."
    )
    md_frames: Count = Field(
        300, description="Frames from molecular dynamics per structure, over all temperatures."
    )
    md_interval_fs: float = Field(25.0, gt=0, description="Time between two such frames, fs.")
    displaced_frames: int = Field(
        110,
        ge=0,
        description="Frames with displaced atoms, per structure; they show the walls of the "
        "potential.",
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

    @property
    def frames(self) -> int:
        """Frames of one structure, of dynamics and walls together, before any is dropped."""
        walls = self.displaced_frames + self.stretched_frames + self.contact_frames
        return self.md_frames + walls + self.dissociated_frames

    def without_walls(self, max_temperature_K: float) -> "TeacherSettings":
        """Settings for a structure that is not pre-trained on: frames to label, and no others.

        Args:
            max_temperature_K: no hotter frames are labelled; where all temperatures are above it,
                they all stay.
        """
        cold = [kelvin for kelvin in self.temperatures_K if kelvin <= max_temperature_K]
        return self.model_copy(
            update={
                "temperatures_K": cold or self.temperatures_K,
                "displaced_frames": 0,
                "stretched_frames": 0,
                "contact_frames": 0,
                "dissociated_frames": 0,
            }
        )


class ModelSettings(Section):
    """Size of the MACE model."""

    preset: PresetName | None = Field(
        None,
        description="A size with a name: quick (16 × 0e, correlation 2, cutoff 4 Å: to try "
        "things out), standard (64 × 0e, correlation 3, 5 Å) or large (128 × 0e + 128 × 1o, "
        "correlation 3, 5 Å). It also sets how long `training` and `pretraining` go on. A key that "
        "is given beside it overrules it. Not with `pretraining.start`. null: the defaults of all "
        "keys, which are those of quick.",
    )
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
        "trained parameters.",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, content: Any) -> Any:
        if isinstance(content, dict) and isinstance(content.get("preset"), str):
            return filled("model", content, content["preset"])
        return content

    @model_serializer(mode="wrap")
    def _without_no_preset(
        self, serialise: SerializerFunctionWrapHandler, _: SerializationInfo
    ) -> dict[str, Any]:
        """Leave a preset out where there is none: files of earlier releases stay as they are."""
        content: dict[str, Any] = serialise(self)
        if content.get("preset", "") is None:
            del content["preset"]
        return content


class FitSettings(Section):
    """How a model is fitted."""

    epochs: Count = Field(description="Passes over the training set.")
    updates: tuple[Count, Count] | None = Field(
        None,
        description="Least and greatest number of optimiser steps; the number of epochs is "
        "changed so that the steps lie between. null: `epochs` is used as it is.",
    )
    batch_size: Count = Field(8, description="Structures per optimiser step.")
    learning_rate: float = Field(gt=0, le=1, description="Initial learning rate.")
    energy_weight: float = Field(10.0, ge=0, description="Weight of the energy in the loss.")
    energy_huber_meV_per_atom: float = Field(
        0.0,
        ge=0,
        description="Errors of energies below this, meV/atom, count by their square, larger ones "
        "by their size; 0: all by their size. Where bonds break, 50 with an `energy_weight` of 100 "
        "lets the few labels of single species count beside the many of mixtures.",
    )
    forces_weight: float = Field(10.0, ge=0, description="Weight of the forces in the loss.")
    stress_weight: float | None = Field(
        None,
        ge=0,
        description="Weight of the stress in the loss, taken as virial per atom (stress times "
        "volume over atoms, eV). Labels without a stress do not take part in it. null: "
        f"{STRESS_WEIGHT:g} where labels have a stress. 0: stress is not learned. A number, or "
        "the ensemble npt, makes labels that lack a stress be computed again with it.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "FitSettings":
        if self.updates is not None and self.updates[0] > self.updates[1]:
            raise ValueError(f"updates: expected [least, most], got {list(self.updates)}")
        return self

    @property
    def weight_of_stress(self) -> float:
        """Weight of the stress of labels that have one."""
        return STRESS_WEIGHT if self.stress_weight is None else self.stress_weight

    def epochs_of(self, frames: int) -> int:
        """Passes over so many frames."""
        if self.updates is None:
            return self.epochs
        batches = math.ceil(frames / self.batch_size)
        least, most = self.updates
        return max(1, min(max(self.epochs, math.ceil(least / batches)), most // batches))


class PretrainingSettings(FitSettings):
    """Pre-training on force-field labels."""

    enabled: bool = Field(
        True, description="Whether to pre-train; if not, training starts from random weights."
    )
    start: Path | None = Field(
        None,
        description="MACE model file to start from instead of pre-training on the force field: "
        "MACE-OFF, MACE-MP or your own. It must know all elements of the system; of `model` only "
        "`dtype` counts then. The file is a pickle, which runs code when read: name only files "
        "that you trust. Relative to the working folder.",
    )
    start_head: str | None = Field(
        None, description="Which head of `start` to keep; needed if it has several."
    )
    epochs: Count = Field(25, description="Passes over the teacher's frames.")
    batch_size: Count = Field(8, description="Structures per optimiser step.")
    learning_rate: float = Field(0.03, gt=0, le=1, description="Initial learning rate.")
    validation_fraction: float = Field(
        0.1, gt=0, lt=0.5, description="Part of the teacher's frames held out."
    )
    atomic: list[AtomicProperty] = Field(
        [],
        description="Properties of atoms that are learned beside energies and forces: charges, "
        "energies, bond_orders (of each atom the sum). tblite computes them for the teacher's "
        "frames; readouts of their own learn them, and are dropped at the end: the model that is "
        "handed over has the same shape. What it brought: docs/science.md.",
    )
    atomic_method: Literal["GFN2-xTB", "GFN1-xTB"] = Field(
        "GFN2-xTB", description="The Hamiltonian of `atomic`. Open shells are spin-polarised."
    )
    atomic_weight: Positive = Field(
        3.0,
        description="Weight of `atomic` in the loss, which is the mean over properties of the mean "
        "absolute error in standard deviations (about the means of elements).",
    )

    @model_validator(mode="after")
    def _start_is_used(self) -> "PretrainingSettings":
        if self.start is not None and not self.enabled:
            raise ValueError("start: with `enabled: false` no model is started from")
        if self.start_head is not None and self.start is None:
            raise ValueError("start_head: it chooses a head of `start`, which is missing")
        if len(set(self.atomic)) < len(self.atomic):
            raise ValueError(f"atomic = {self.atomic}: expected different names")
        if self.atomic and (self.start is not None or not self.enabled):
            raise ValueError(
                f"atomic = {self.atomic}: expected [] where nothing is pre-trained (`start`, or "
                "`enabled: false`)"
            )
        return self


class TrainingSettings(FitSettings):
    """Fine-tuning on reference labels, once per generation."""

    epochs: Count = Field(90, description="Passes over the labels in each generation.")
    updates: tuple[Count, Count] | None = Field(
        (900, 4000),
        description="Least and most optimiser steps: few labels get more epochs, and many labels "
        "fewer, so that the steps lie between. null: `epochs` is used as it is.",
    )
    batch_size: Count = Field(5, description="Structures per optimiser step.")
    learning_rate: float = Field(0.02, gt=0, le=1, description="Initial learning rate.")
    replay_weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Weight of frames that the start model knew against labels, so that its walls "
        "are not forgotten: at each step as many of them are learned as labels. After pre-training "
        "they are the teacher's; with `pretraining.start` they are `replay_frames` and those of "
        "`replay_from`, labelled by that model. It doubles the time of training; 0: off. null: "
        f"{REPLAY_WEIGHT:g} with `pretraining.start`, else off.",
    )
    replay_frames: Count = Field(
        200,
        description="With `pretraining.start`: frames of the system's own species to replay: "
        "half of them the teacher's, half such frames compressed or stretched as a whole and "
        "rattled.",
    )
    replay_from: list[Path] = Field(
        [],
        description="With `pretraining.start`: files of further frames to replay, in any format "
        "that ASE reads, best from what that model was trained on; their labels are not read. "
        "Frames with other elements than the system's are left out. Relative to the working "
        "folder.",
    )
    freeze: Literal["nothing", "embedding", "interactions", "all_but_readouts"] = Field(
        "nothing",
        description="Blocks of the start model that do not learn. interactions: with the embedding "
        "of elements; the contractions and readouts still learn.",
    )
    lora_rank: int = Field(
        0,
        ge=0,
        le=64,
        description="Rank of the adapters that learn in place of the start model's weights (LoRA); "
        "they are merged into the weights at the end. 0: the weights themselves learn.",
    )
    fresh_every: int = Field(
        0,
        ge=0,
        description="Every so many generations, start again from the pre-trained model rather "
        "than from the previous generation's, whose training it then lacks; 0: never.",
    )

    @model_validator(mode="after")
    def _adapters_or_frozen_blocks(self) -> "TrainingSettings":
        if self.lora_rank and self.freeze != "nothing":
            raise ValueError(
                f"lora_rank = {self.lora_rank} with freeze = {self.freeze!r}: with adapters no "
                "weight of the start model learns; expected `freeze: nothing`, or `lora_rank: 0`"
            )
        return self

    def weight_of_replay(self, pretraining: PretrainingSettings) -> float:
        """Weight of replayed frames; 0: none are replayed."""
        if not pretraining.enabled:
            return 0.0
        if self.replay_weight is None:
            return 0.0 if pretraining.start is None else REPLAY_WEIGHT
        return self.replay_weight


class SeedSettings(Section):
    """The first labels: frames of the teacher's dynamics, or labels that one has already."""

    model_config = ConfigDict(
        validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

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
        700.0,
        gt=0,
        description="Frames are drawn from the teacher's dynamics up to this temperature, K.",
    )
    free_atoms: bool | None = Field(
        None,
        description="Whether a free atom of each element is labelled, in its ground state's spin, "
        "so that the model's energies of elements are theirs, and an atom that has left all others "
        "is inside the domain. Else energies of elements are fitted, and right only in sums over "
        "molecules. null: with `kind: reactive`, unless labels are looked up or have "
        "k-points.",
    )
    strain: float | None = Field(
        None,
        ge=0,
        le=0.1,
        description="With `kind: solid`: every second frame of a periodic structure has its cell "
        "strained at random, its atoms with it, each of six components by at most this, so that "
        "the model learns the stress of cells that it will meet. By "
        "default 0.02 with `exploration.ensemble: npt`, else 0. Replicas may start from these "
        "cells.",
    )
    files: list[Path] = Field(
        [],
        alias="from",
        description="Files with labels that one has, all written alike: extended XYZ, npz, an ASE "
        "database (.db), or Parquet of Halcyon. Relative to the working folder. Of each structure, "
        "`validation` and `test` frames are held out and the others are for training; of fewer "
        "frames than a seed has, each set takes its part.",
    )
    layout: DatasetLayout = Field(
        DatasetLayout(), description="How these files are written: names and units."
    )
    level: Literal["campaign", "theirs"] = Field(
        "campaign",
        description="Level of theory of these labels. campaign: that of `reference`, which "
        "computes some of them again; they must agree. theirs: another one; the model is "
        "pre-trained on them instead of the teacher's frames, and they are no labels of the "
        "campaign.",
    )
    further: bool = Field(
        False,
        description="Whether frames of the teacher's dynamics are labelled beside labels that one "
        "has.",
    )
    verified_frames: Count = Field(
        5,
        description="How many of these labels the reference computes again, at least one of each "
        "file and structure.",
    )
    energy_tolerance_meV_per_atom: Positive = Field(
        1.0, description="Largest difference of an energy that is computed again, meV/atom."
    )
    force_tolerance_meV_per_A: Positive = Field(
        10.0, description="Largest difference of a force component that is computed again, meV/Å."
    )

    @field_serializer("layout")
    def _what_was_set(self, layout: DatasetLayout) -> dict[str, Any]:
        """Keep apart what the user has set: a charge by default is doubted, one that is set not."""
        return layout.model_dump(mode="json", exclude_unset=True)

    @property
    def frames(self) -> int:
        """Frames of each structure, all splits together."""
        return self.train + self.validation + self.test

    @property
    def imports_labels(self) -> bool:
        """Whether labels of the campaign's own level come from files."""
        return bool(self.files) and self.level == "campaign"

    @property
    def pretrains_on_files(self) -> bool:
        """Whether the model is pre-trained on labels of another level from files."""
        return bool(self.files) and self.level == "theirs"

    @property
    def draws_frames(self) -> bool:
        """Whether frames of the teacher's dynamics are labelled."""
        return self.further or not self.imports_labels
