"""Settings of a whole campaign: when it ends, what it may cost, and all sections together."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from halcyon.config.accuracy import AccuracySettings, AuditSettings
from halcyon.config.certificate import CertificateSettings
from halcyon.config.exploration import DomainSettings, ExplorationSettings, SelectionSettings
from halcyon.config.learning import (
    ModelSettings,
    PretrainingSettings,
    SeedSettings,
    TeacherSettings,
    TrainingSettings,
)
from halcyon.config.presets import PRESETS, filled
from halcyon.config.reference import ReferenceSettings
from halcyon.config.sanity import SanitySettings
from halcyon.config.section import Count, Name, Section


class SaturationSettings(Section):
    """When labelling may stop: the dynamics are calm, right, and long enough to tell."""

    events_per_ns: float = Field(
        100.0,
        gt=0,
        description="λ*: the rate of events in the late window must be below it with the given "
        "confidence, events per ns and molecule; in a solid or slab, ten atoms that belong to no "
        "molecule count as one. An event is a time during which some atom of a replica is "
        "unreliable (see accuracy.atom_force_eV_per_A); what follows within the quiet time "
        "belongs to the same event.",
    )
    unreliable_fraction: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="The fraction of atomic predictions in the late window that are unreliable "
        "must be below it with the given confidence.",
    )
    confidence: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="One-sided confidence of all bounds together, over all generations of the "
        "campaign: each generation spends an equal part of the error.",
    )
    window: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Late window: the last part of each replica's time, as a fraction of "
        "`exploration.time_ps`.",
    )
    quiet_time_ps: float = Field(
        0.2,
        gt=0,
        description="Least quiet time between two events, ps. Where the dynamics show that more is "
        "needed for events to be independent, the measured time counts.",
    )
    decorrelation_times: float = Field(
        20.0,
        ge=1,
        description="Least simulated time of each structure and temperature, in decorrelation "
        "times of the index (twice its integrated autocorrelation time); with less, nothing can "
        "be said.",
    )
    reactions_needed: bool = Field(
        True,
        description="With `kind: reactive`, whether an exploration in which no bond changed is not "
        "enough data: calm molecules say nothing of their reactions.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_former_key(cls, content: object) -> object:
        """Say what took the place of a key of earlier releases."""
        if isinstance(content, dict) and "max_rate_per_atom_ps" in content:
            raise ValueError(
                f"max_rate_per_atom_ps = {content['max_rate_per_atom_ps']!r}: earlier releases "
                "counted excursions of atoms. Remove it, and set saturation.events_per_ns (events "
                "per ns and molecule) and saturation.unreliable_fraction instead"
            )
        return content


class LimitSettings(Section):
    """What a campaign may cost."""

    max_generations: Count = Field(8, description="Greatest number of generations.")
    label_budget: Count = Field(
        500,
        description="Greatest number of labels, with those of the seed; failed calculations count "
        "too.",
    )
    core_hours: float | None = Field(
        None,
        ge=0,
        description="Core-hours that the whole campaign may spend, all systems together. Once "
        "they are spent, no label calculation is started; each running label job finishes the "
        "frame that it computes. null: no limit.",
    )
    core_hours_of: Literal["labels", "everything"] = Field(
        "labels",
        description="What counts as spent. labels: label calculations, failed ones and checks "
        "included. everything: also all other finished stages.",
    )
    min_free_disk_GB: float = Field(
        1.0, ge=0, description="The campaign does not start if less disk is free, GB."
    )


class ResourceSettings(Section):
    """Cores of each job. Time and memory of cluster jobs are estimated from the work."""

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
    explore_cores: Count = Field(
        1,
        description="Cores of each exploration job. With the preset `quick` its replicas are "
        "shared among them; of other models each step is.",
    )
    longest_job_h: float = Field(
        24.0,
        ge=0.25,
        description="Longest wall time of a cluster job, hours: the limit of its queue. Longer "
        "work is saved in time and continues in another job.",
    )
    most_memory_GB: float = Field(
        64.0, gt=0, description="Greatest memory of a cluster job, GB: that of a node."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where models run. auto: cuda if there is a GPU, else cpu."
    )


class RetentionSettings(Section):
    """Which scratch files in `work` are kept. Results are always kept."""

    automatic: bool = Field(
        True,
        description="Delete a generation's scratch files (states of trainings and explorations, "
        "files of labelled frames) after its verdict. `halcyon clean` does the same.",
    )
    failed_frames: bool = Field(
        True, description="Keep the files of frames without a label: they show the reason."
    )


class Settings(Section):
    """Settings of one system's loop. A system's `overrides` may change any of them."""

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
    sanity: SanitySettings = Field(SanitySettings(), description=SanitySettings.__doc__)
    accuracy: AccuracySettings = Field(AccuracySettings(), description=AccuracySettings.__doc__)
    audit: AuditSettings = Field(AuditSettings(), description=AuditSettings.__doc__)
    saturation: SaturationSettings = Field(
        SaturationSettings(), description=SaturationSettings.__doc__
    )
    limits: LimitSettings = Field(LimitSettings(), description=LimitSettings.__doc__)
    certificate: CertificateSettings = Field(
        CertificateSettings(), description=CertificateSettings.__doc__
    )
    resources: ResourceSettings = Field(ResourceSettings(), description=ResourceSettings.__doc__)
    retention: RetentionSettings = Field(RetentionSettings(), description=RetentionSettings.__doc__)

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, content: Any) -> Any:
        """Give sections beside `model` what its preset says of them."""
        model = content.get("model") if isinstance(content, dict) else None
        preset = model.get("preset") if isinstance(model, dict) else getattr(model, "preset", None)
        if not isinstance(preset, str) or preset not in PRESETS:
            return content
        given = {name: content.get(name, {}) for name in PRESETS[preset] if name != "model"}
        return content | {
            name: filled(name, section, preset)
            for name, section in given.items()
            if isinstance(section, dict)
        }

    @model_validator(mode="after")
    def _preset_or_start(self) -> Self:
        if self.model.preset is not None and self.pretraining.start is not None:
            raise ValueError(
                f"model.preset = {self.model.preset!r}: pretraining.start = "
                f"{str(self.pretraining.start)!r} brings a model of its own size; remove one of "
                "the two"
            )
        return self

    @model_validator(mode="after")
    def _pretrains_on_files(self) -> Self:
        """Refuse labels of another level where nothing is pre-trained on them."""
        pretraining = self.pretraining
        if self.seed_labels.pretrains_on_files and (pretraining.start or not pretraining.enabled):
            key = "start" if pretraining.start else "enabled"
            raise ValueError(
                "seed_labels.level = 'theirs': a model is pre-trained on these labels, but with "
                f"pretraining.{key} = {str(getattr(pretraining, key))!r} none is; remove one of "
                "the two"
            )
        return self

    @model_validator(mode="after")
    def _fine_tuning_has_a_start(self) -> Self:
        """Refuse what protects a start model where there is none."""
        training, pretraining = self.training, self.pretraining
        if training.replay_from and pretraining.start is None:
            raise ValueError(
                "training.replay_from: its frames are labelled by the model pretraining.start, "
                "which is missing; expected both or neither"
            )
        if training.replay_from and training.replay_weight == 0:
            raise ValueError(
                "training.replay_from: with `training.replay_weight: 0` no frames are replayed; "
                "expected a greater weight, or no files"
            )
        protects = {"freeze": training.freeze != "nothing", "lora_rank": training.lora_rank > 0}
        for key in [key for key, is_set in protects.items() if is_set]:
            if not pretraining.enabled:
                raise ValueError(
                    f"training.{key} = {getattr(training, key)!r}: with `pretraining.enabled: "
                    "false` training starts from random weights, which must all learn; expected "
                    "pre-training, or a model to start from (pretraining.start)"
                )
        return self

    @property
    def needs_stress(self) -> bool:
        """Whether labels of periodic frames must have a stress, at whatever cost."""
        weight = self.training.stress_weight
        return self.exploration.ensemble == "npt" if weight is None else weight > 0


PREPARED = "prepared"
"""Folder of packed boxes and force fields, in that of all results; campaigns share it."""
SCRATCH = "work"
"""Folder of a campaign's unfinished work, beside those of its systems."""


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

    @model_validator(mode="after")
    def _has_folders_of_its_own(self) -> Self:
        """Refuse names whose folder is another one's: what is in it would be mixed or deleted."""
        folder = self.results / self.campaign
        if self.campaign == PREPARED or folder == self.label_store:
            held = "packed boxes and force fields" if self.campaign == PREPARED else "the labels"
            raise ValueError(
                f"campaign = {self.campaign!r}: the folder {folder} is that of {held} of all "
                "campaigns; expected another name"
            )
        if SCRATCH in self.systems:
            raise ValueError(
                f"systems: {SCRATCH!r}: the folder {folder / SCRATCH} is that of the campaign's "
                "unfinished work; expected another name of the system"
            )
        return self
