"""The forms of what the exploration and the verdict write: `exploration.json` and `verdict.json`.

    from pathlib import Path
    from halcyon.verdict.forms import Verdict

    verdict = Verdict.read(Path("results/quickstart/ethanol/gen001/verdict.json"))
    verdict.saturation.parts[0].events_bound_per_ns  # per ns and molecule

Files of earlier releases are read as well: keys that came later have a default here, and nowhere
else. A file of a later release is refused.

Snakemake's own process imports this module: neither pandas nor scipy may be loaded by it.

Not for: computing what stands in the forms (`runs`, `saturation`), or deciding (`saturation`).
"""

from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from halcyon import files
from halcyon.errors import InputError
from halcyon.verdict.estimates import Estimate, Interval


class Decision(StrEnum):
    """What happens after a generation."""

    CONTINUE = "continue"
    SATURATED = "saturated"
    BUDGET_SPENT = "budget_spent"
    MAX_GENERATIONS = "max_generations"


class Finding(StrEnum):
    """What the late window says."""

    SATURATED = "saturated"
    NOT_SATURATED = "not saturated"
    NOT_ENOUGH_DATA = "not enough data"


class Form(BaseModel):
    """A part of a form. It cannot be changed, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class File(Form):
    """A form that is a JSON file of its own.

    Attributes:
        SCHEMA: the version that this release writes; it reads this one and all earlier ones.
        REMEDY: what a user does about a damaged file.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = (
        "Delete this file and run the same command: it is made again, and no frame is labelled "
        "a second time."
    )

    schema_version: int = Field(1, alias="schema", description="Version of this form.", ge=1)

    def content(self) -> dict[str, Any]:
        """The form as plain JSON, keys in the order of the file."""
        return self.model_dump(mode="json", by_alias=True)

    def write(self, path: Path) -> None:
        """Write the form to `path`, atomically."""
        files.write_json(path, self.content())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what this release or an earlier one wrote.

        Raises:
            InputError: the file is missing, damaged, or of a later release. The message names the
                file and the key, and says what to do.
        """
        if not path.exists():
            raise InputError(f"{path}: no such file")
        try:
            content = files.read_json(path)
        except InputError as error:
            if isinstance(error.__cause__, OSError):
                raise
            raise InputError(f"{path}: damaged: it is empty or not JSON. {cls.REMEDY}") from error
        if not isinstance(content, dict):
            raise InputError(f"{path}: damaged: not a JSON object. {cls.REMEDY}")
        schema = content.get("schema", 1)
        if isinstance(schema, int) and schema > cls.SCHEMA:
            raise InputError(
                f"{path}: schema = {schema}: this Halcyon knows schemas up to {cls.SCHEMA}. A "
                "later release wrote the file: update Halcyon."
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(str(part) for part in fault["loc"])
            raise InputError(f"{path}: damaged: {key}: {fault['msg']}. {cls.REMEDY}") from error


class Ended(Protocol):
    """What the statistics need to know of a replica's end."""

    @property
    def replica(self) -> int:
        """Number of the replica, as in the traces."""

    @property
    def structure(self) -> str:
        """Start structure."""

    @property
    def temperature_K(self) -> float:  # noqa: N802 - units are written as units
        """Temperature of the thermostat, K."""

    @property
    def atoms(self) -> int:
        """Number of atoms."""

    @property
    def molecules(self) -> int | None:
        """Molecules of the start frame; None in files of early releases."""

    @property
    def per(self) -> str:
        """What rates are given for: molecule, or `molecule or ten atoms` of a crystal."""

    @property
    def time_ps(self) -> float:
        """Simulated time until the replica failed or was stopped, ps."""

    @property
    def failure(self) -> str | None:
        """Why the replica failed; None if it did not."""

    @property
    def activity_ps(self) -> list[tuple[float, float]] | None:
        """Begin and end of each activity, ps; None in files of early releases."""


class Product(Form):
    """A kind of molecule that came about in a replica of a reactive system."""

    formula: str = Field(description="In Hill's order.")
    graph: str = Field(
        description="Its atoms and bonds as SMILES, all bonds single: isomers differ here."
    )
    formed: int = Field(description="How often one came about and was there for two looks.")
    first_ps: float = Field(description="When the first one was seen, in the replica's own time.")
    at_end: int = Field(description="How many of them there were at the end.")


class ReplicaEnd(Form):
    """How one replica of an exploration ended."""

    replica: int = Field(description="Number of the replica, as in the traces.")
    structure: str = Field(description="Start structure.")
    temperature_K: float = Field(description="Temperature of the thermostat.")
    atoms: int = Field(description="Number of atoms.")
    began_ps: float = Field(
        0.0, description="When it took the place of a failed replica; 0: it is one of the first."
    )
    time_ps: float = Field(description="Simulated time until it failed or was stopped.")
    failure: str | None = Field(description="Why it failed; null: it did not.")
    molecules: int | None = Field(
        None,
        description="Molecules of its start frame; of a crystal, ten atoms count as one. Null in "
        "files of early releases.",
    )
    per: str = Field(
        "molecule",
        description="What rates are given for: molecule, or `molecule or ten atoms` of a crystal.",
    )
    activity_ps: list[tuple[float, float]] | None = Field(
        None,
        description="Begin and end of the times during which some atom was unreliable, in the "
        "replica's own time; null in files of early releases.",
    )
    bonds_changed: int | None = Field(
        None,
        description="Bonds that formed or broke; null: it was not watched, since the system is not "
        "reactive or an early release ran it.",
    )
    products: list[Product] = Field(
        [], description="Molecules unlike any before the first change of a bond."
    )
    lindemann: float | None = Field(
        None,
        description="Lindemann ratio of a crystal over the later half of its time: "
        "root-mean-square distance from the sites of the start structure over that of nearest "
        "neighbours; null: not measured, since the replica is no crystal or an early release ran "
        "it.",
    )
    cli_atoms_ps: list[float] | None = Field(
        None, description="CLI of each atom at the end; null in files of early releases."
    )

    @property
    def replaces(self) -> bool:
        """Whether the replica took the place of a failed one."""
        return self.began_ps > 0


class ExplorationSummary(File):
    """`exploration.json`: how the replicas of an exploration ended."""

    replicas: list[ReplicaEnd]
    time_ps: float | None = Field(
        None,
        description="Simulated time asked of each replica; null: exploration.time_ps, in files of "
        "releases that knew no longer ones.",
    )
    ended_early: str = Field(
        "",
        description="Why not all of the time was explored that was asked for; empty: it was.",
    )
    replica_steps: int = Field(0, description="Steps of all replicas together.")
    candidates_passed_over: int = Field(
        0, description="Candidates that were not kept because their replica had better ones."
    )


class Foretold(Form):
    """The force error that the index expects of a random frame."""

    structure: str
    temperature_K: float = Field(description="Temperature of the thermostat.")
    replica: int = Field(description="Number of the frame's replica.")
    draw: float = Field(description="The frame's random number, which says which frame it is.")
    forces_mae_eV_per_A: float | None = Field(
        description="Expected mean absolute error of force components; null: not finite."
    )


class SelectionSummary(File):
    """`selection.json`: what became of an exploration's frames, and by what they were judged."""

    candidates: int = Field(description="Frames where the index saw trouble.")
    fates: dict[str, int] = Field(description="Their number by what became of them.")
    random: dict[str, int] = Field(
        {}, description="Number of random frames by what became of them: audit, diverse, ..."
    )
    deciding: str = Field("node_energy", description="Signal that the index counts by.")
    signal_limits: dict[str, float] = Field(
        {}, description="Raw distance over which an atom is outside, by signal."
    )
    foretold: list[Foretold] = Field(
        [],
        description="What the index expects of the random frames; empty: audit.second_opinion is "
        "not `index`, the domain has no expected errors, or an early release wrote the file.",
    )


class LabelCounts(Form):
    """Frames of the campaign so far."""

    train: int = Field(0, description="Labelled frames of the training set.")
    validation: int = Field(0, description="Labelled frames of the validation set.")
    test: int = Field(0, description="Labelled frames of the test set.")
    free_atoms: int = Field(
        0, description="Labelled free atoms, from which the model has its elements' energies."
    )
    bad: int = Field(0, description="Frames whose calculation gave no label that can be trusted.")
    not_computed: int = Field(0, description="Frames that the budget of core-hours did not reach.")
    spent: int = Field(description="Label calculations, those without a label included.")


class CoreHours(Form):
    """Core-hours of the campaign so far, all systems together."""

    spent: float = Field(0.0, description="Core-hours spent.")
    limit: float | None = Field(None, description="limits.core_hours; null: no limit.")
    of: str = Field("labels", description="limits.core_hours_of: what counts.")


class Explored(Form):
    """What was asked of the exploration, of its calm and of its accuracy.

    What is null was not asked for; where `events_per_ns` is null, an early release wrote the file,
    which does not say.
    """

    temperatures_K: list[float]
    time_ps: float = Field(description="Simulated time asked of each replica.")
    replicas: int | None = Field(None, description="exploration.replicas.")
    timestep_fs: float | None = Field(None, description="exploration.timestep_fs.")
    ensemble: str | None = Field(None, description="exploration.ensemble.")
    pressure_bar: float | list[float] | None = Field(
        None, description="exploration.pressure_bar, if npt."
    )
    bias: dict[str, Any] | None = Field(None, description="exploration.bias.")
    bond_stretch_A: float | None = Field(None, description="exploration.bond_stretch_A.")
    min_distance_A: float | None = Field(None, description="exploration.min_distance_A.")
    site_distance_A: float | None = Field(None, description="exploration.site_distance_A.")
    events_per_ns: float | None = Field(None, description="saturation.events_per_ns.")
    unreliable_fraction: float | None = Field(None, description="saturation.unreliable_fraction.")
    confidence: float | None = Field(None, description="saturation.confidence.")
    decorrelation_times: float | None = Field(None, description="saturation.decorrelation_times.")
    reactions_needed: bool | None = Field(None, description="saturation.reactions_needed.")
    atom_force_eV_per_A: float | None = Field(None, description="accuracy.atom_force_eV_per_A.")
    forces_mae_meV_per_A: float | None = Field(None, description="accuracy.forces_mae_meV_per_A.")
    energy_mae_meV_per_atom: float | None = Field(
        None, description="accuracy.energy_mae_meV_per_atom."
    )


class Calm(Form):
    """How calm one structure is at one temperature: events in the late window."""

    structure: str
    temperature_K: float = Field(description="Temperature of the thermostat.")
    finding: Finding
    reason: str = Field(description="The finding in words.")
    replicas: int
    failed: int = Field(description="Replicas that failed.")
    molecules: int = Field(description="Molecules of the start structure.")
    per: str = Field(
        "molecule",
        description="What rates are given for: molecule, or `molecule or ten atoms` of a crystal.",
    )
    time_ps: float = Field(description="Simulated time of all replicas together.")
    window_ps: float = Field(description="Simulated time in the late window, replicas together.")
    calm_ps: float = Field(
        description="That part of it in which no event lasted: only then can one begin."
    )
    quiet_time_ps: float = Field(
        description="Activity that follows within it belongs to the same event."
    )
    events: int = Field(
        description="Events of the window, those included that were active when it began."
    )
    active_at_begin: int = Field(description="Replicas that were active when the window began.")
    dispersion: float = Field(
        description="Variance over mean of the events per replica, at least 1."
    )
    shape: float = Field(
        description="The bound takes the replicas' rates to be gamma distributed with this shape: "
        "their variance is the squared mean over it."
    )
    events_per_ns: float | None = Field(
        description="Events per molecule (see `per`) and ns in which one could begin."
    )
    events_bound_per_ns: float | None = Field(description="One-sided upper bound of that rate.")
    events_low_per_ns: float | None = Field(description="One-sided lower bound of that rate.")
    unreliable_fraction: float | None = Field(
        description="Fraction of atomic predictions in the window that are unreliable."
    )
    unreliable_bound: float | None = Field(description="One-sided upper bound of that fraction.")
    unreliable_low: float | None = Field(description="One-sided lower bound of that fraction.")
    decorrelation_ps: float | None = Field(
        description="Time after which the expected error of a replica is a new one: twice its "
        "integrated autocorrelation time. Null: it could not be measured."
    )
    decorrelation_times: float | None = Field(description="Simulated time over decorrelation time.")
    shortest_ps: float | None = Field(
        description="Simulated time of the shortest replica that did not fail; null: all failed."
    )


class Order(Form):
    """How far the atoms of a crystal are from their sites, at one temperature."""

    structure: str
    temperature_K: float = Field(description="Temperature of the thermostat.")
    replicas: int = Field(description="Replicas in which it was measured.")
    lindemann: float = Field(
        description="Lindemann ratio over the later half of the replicas' time, all together."
    )
    largest: float = Field(description="The greatest of any replica.")
    melted: int = Field(
        description="Replicas whose ratio is over that at which crystals melt: a remark, no "
        "failure."
    )


class Assessment(Form):
    """What the late window of an exploration says, and the numbers behind it.

    Keys that are null in new files were written by early releases, which counted excursions.
    """

    finding: Finding
    reason: str = Field(description="The finding in words.")
    parts: list[Calm] = Field([], description="Each structure at each temperature.")
    events_limit_per_ns: float | None = Field(
        None, description="λ*: bounds of events per ns and molecule must be under it."
    )
    unreliable_limit: float | None = Field(
        None, description="Bounds of the unreliable fraction must be under it."
    )
    confidence: float = Field(description="Confidence asked for, over the whole campaign.")
    confidence_spent: float | None = Field(
        None, description="Confidence of this generation's bounds: it spends a part of the error."
    )
    replicas: int
    failed: int = Field(description="Replicas that failed.")
    bonds_changed: int | None = Field(
        None, description="Bonds that formed or broke in a reactive system; null: not watched."
    )
    order: list[Order] = Field(
        [], description="Lindemann ratios of each crystal at each temperature."
    )
    excursions: int | None = None
    atom_time_ps: float | None = None
    rate_per_atom_ps: float | None = None
    rate_bound_per_atom_ps: float | None = None
    rate_limit_per_atom_ps: float | None = None
    homogeneity_p: float | None = None

    @property
    def per(self) -> str:
        """What rates of events are given for."""
        return self.parts[0].per if self.parts else "molecule"

    def greatest(self, quantity: str) -> float | None:
        """Greatest value of any structure and temperature, of a key of `Calm`; None: no values."""
        values = (getattr(part, quantity) for part in self.parts)
        return max((value for value in values if value is not None), default=None)


class AuditFinding(StrEnum):
    """What the audit says."""

    PASSED = "passed"
    MISSED = "missed"
    NOT_ENOUGH_DATA = "not enough data"
    NOT_ASKED = "accuracy was not asked for"


class SecondOpinion(Form):
    """The force error of one structure at one temperature, with errors foretold of more frames.

    Foretold by the index's expected errors, or by a second Hamiltonian.
    """

    frames: int = Field(
        description="Random frames whose errors were foretold, the audit's among them."
    )
    failed: int = Field(
        description="Those of which nothing was foretold (no forces of the second Hamiltonian, no "
        "finite expected error): predicted to have the mean error of the rest."
    )
    reason: str = Field("", description="Why there is no interval; empty: there is one.")
    forces_mae_meV_per_A: Interval | None = Field(
        None, description="Prediction-powered mean absolute error of force components."
    )
    factor: float | None = Field(
        None, description="How much of its predictions was used, 0 to 1; 0: the interval is plain."
    )
    difference_meV_per_A: float | None = Field(
        None,
        description="Mean absolute difference of the second Hamiltonian's forces, corrected by "
        "what earlier labels teach, from the reference's on the audit frames; null: the index.",
    )


class Audited(Form):
    """Errors of the model that explored, on random frames of one structure at one temperature."""

    structure: str
    temperature_K: float = Field(description="Temperature of the thermostat.")
    finding: AuditFinding
    reason: str = Field(description="The finding in words.")
    frames: int = Field(description="Audit frames with a label that can be trusted.")
    bad: int = Field(description="Audit frames whose calculation gave no such label.")
    replicas: int = Field(description="Replicas that the frames come from.")
    forces_mae_meV_per_A: Interval | None = Field(
        description="Mean absolute error of force components; null: no frames."
    )
    forces_rmse_meV_per_A: Interval | None = Field(
        description="Root mean square error of force components."
    )
    atom_error_q95_eV_per_A: Interval | None = Field(
        description="95 % of the atoms have a force error (length of the difference) below it."
    )
    energy_mae_meV_per_atom: Interval | None = Field(
        description="Mean absolute error of energies relative to their mean; null: under 3 frames."
    )
    second_opinion: SecondOpinion | None = Field(
        None, description="With foretold errors; null: none were asked for, or no frames."
    )
    stress_mae_GPa: Interval | None = Field(
        None,
        description="Mean absolute error of the six numbers of a stress; null: too few labels have "
        "one, or an early release wrote the file.",
    )
    frames_with_stress: int = Field(0, description="Audit frames whose label has a stress.")

    @property
    def judged_forces_mae(self) -> Interval | None:
        """The force error that is held against the goal: with the second opinion if it counts."""
        powered = self.second_opinion and self.second_opinion.forces_mae_meV_per_A
        return powered or self.forces_mae_meV_per_A


class Audit(Form):
    """The audit of a generation: is the model right where its dynamics goes?"""

    finding: AuditFinding
    reason: str = Field(description="The finding in words.")
    parts: list[Audited] = Field(description="Each structure at each temperature.")
    forces_goal_meV_per_A: float | None = Field(description="accuracy.forces_mae_meV_per_A.")
    energy_goal_meV_per_atom: float | None = Field(description="accuracy.energy_mae_meV_per_atom.")
    confidence: float = Field(
        description="One-sided confidence of the upper ends; they spend a part of the error."
    )
    second_opinion: str = Field(
        "none",
        description="Who foretold errors, as in audit.second_opinion: the prediction-powered bound "
        "of the force error is the verdict's.",
    )

    def worst(self, quantity: str) -> tuple[Audited, Interval] | None:
        """The structure and temperature whose error has the greatest upper end; None: no numbers.

        Args:
            quantity: an error among the keys and properties of `Audited`.
        """
        errors = [(part, getattr(part, quantity)) for part in self.parts]
        known = [(part, error) for part, error in errors if error is not None]
        return max(known, key=lambda each: each[1].high, default=None)


class SignalReport(Form):
    """How well a signal told bad forces from good ones, on a generation's newest labels."""

    name: str = Field(description="Name of the signal, or `error`: the combined expected error.")
    decides: bool = Field(description="Whether the index counts by it.")
    atoms: int = Field(description="Atoms of the audit frames that it was measured on.")
    bad_atoms: int = Field(
        description="Those of them whose force error is over accuracy.atom_force_eV_per_A."
    )
    auroc: Estimate = Field(
        description="Probability that a bad atom has a greater distance than a good one."
    )
    flagged: Estimate = Field(description="Fraction of the bad atoms that were outside.")
    false_alarms: Estimate = Field(description="Fraction of the good atoms that were outside.")
    blind: bool = Field(description="No better than chance, as far as the labels can tell.")


class FailureRate(Form):
    """Failures per simulated time."""

    failures: int = Field(description="Failed replicas.")
    time_ps: float = Field(description="Simulated time of all replicas together.")
    rate_per_ps: float | None = Field(description="Their quotient.")
    bound_per_ps: float | None = Field(description="Exact one-sided upper bound of the rate.")
    confidence: float = Field(description="Of the bound.")


class BeforeFailures(Form):
    """Labelled frames shortly before failures: was the model wrong there?"""

    frames: int = Field(description="With a good label.")
    bad: int = Field(description="More that were computed and have none.")
    replicas: int = Field(description="Failed ones that the good ones are of.")
    forces_mae_meV_per_A: float = Field(
        description="Mean absolute error of a force component, of the model that explored."
    )
    atom_error_eV_per_A: float = Field(description="Largest error of an atom's force.")


class CriticalCli(Form):
    """The CLI at failure of one domain, and how badly it separates."""

    median: Estimate = Field(description="Λ_c: half of the replicas do not outlive it, ps.")
    failures: int = Field(description="Failed replicas.")
    survivors: int = Field(description="Replicas that did not fail.")
    missed: Estimate = Field(description="Fraction of the failed that failed below the median.")
    false_alarms: Estimate = Field(description="Fraction of the survivors that are above it.")


class CriticalClis(Form):
    """Λ_c of the expected error and of both domains of node energies."""

    generations: list[int] = Field(description="Generations whose replicas count.")
    error: CriticalCli | None = Field(
        None, description="Of the expected error; null in files of early releases."
    )
    label: CriticalCli
    guard: CriticalCli

    def of(self, tier: str) -> CriticalCli | None:
        """Λ_c of the `error`, of the `label` or of the `guard` domain; None: not watched."""
        return {"error": self.error, "label": self.label, "guard": self.guard}[tier]


class Verdict(File):
    """`verdict.json`: whether a campaign goes on after a generation, and the numbers behind it."""

    SCHEMA: ClassVar[int] = 2

    system: str
    generation: int = Field(description="Counted from 0.")
    decision: Decision
    reason: str = Field(description="The decision in words.")
    labels: LabelCounts
    label_budget: int = Field(description="limits.label_budget.")
    core_hours: CoreHours = Field(
        default_factory=CoreHours, description="Verdicts of early releases do not have them."
    )
    explored: Explored | None = Field(
        None, description="Null in verdicts of early releases, which do not say."
    )
    saturation: Assessment
    audit: Audit | None = Field(
        None, description="Null in verdicts of early releases, which did not audit."
    )
    signals: list[SignalReport] = Field(
        [], description="How well each signal told bad forces from good ones."
    )
    failures: FailureRate | None = Field(
        None, description="Null in verdicts of early releases, which do not say."
    )
    before_failures: BeforeFailures | None = Field(
        None, description="Null where no frame shortly before a failure has a label."
    )
    critical_cli: CriticalClis | None = Field(
        None, description="Null in verdicts of early releases, which do not say."
    )
