"""Everything that can be checked before the first job of a campaign, in one call.

    from pathlib import Path
    from halcyon import config
    from halcyon.campaign.checks import begin

    content = config.read_yaml(Path("config/quickstart.yaml"))
    campaign = begin(content, "config/quickstart.yaml", dry=True)

Not for: settings that are wrong by themselves (`config`), or what a campaign may not change after
it has begun (`identity`). Snakemake calls `checked.begin_once`, which runs this in another process.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from halcyon import config
from halcyon.campaign import imports
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.campaign.check_atomic import check_atomic
from halcyon.campaign.check_exploration import check_exploration
from halcyon.campaign.check_solids import check_fixed, check_k_points, check_vacuum
from halcyon.campaign.identity import check_identity, level_of_theory
from halcyon.config.system import BONDS_HOLD
from halcyon.errors import InputError

# Chemistry, tables and statistics are imported where they are needed: Snakemake keeps this module
# for as long as a campaign lasts.
if TYPE_CHECKING:
    from ase import Atoms


def begin(content: dict[str, Any], source: str, *, dry: bool = False) -> Campaign:
    """Check everything that can be checked before the first job, and write the campaign down.

    Args:
        content: parsed configuration.
        source: name of its file, for messages.
        dry: check only, and write nothing.

    Raises:
        InputError: one message that names file, key, value and what was expected.
    """
    campaign = Campaign.resolve(content, source)
    check_disk(campaign, source, dry=dry)
    all_starts: list[Atoms] = []
    for name, kept_plan in campaign.systems.items():
        plan = replace(kept_plan, prepared=None) if dry else kept_plan
        path = f"{campaign.settings.systems_folder / name}.yaml"
        with _naming(path):
            starts = [plan.start(structure) for structure in plan.structures]
            check_states(plan, starts)
        all_starts += [start for start in starts if start.info["structure"] in plan.labelled]
        check_bias(plan, starts, source)
        with _naming(path):
            check_teacher(plan)
        check_numbers(plan, source)
        imports.check_files(plan, starts, source)
        check_committee(plan, source)
        check_start(plan, source)
        check_models(plan, source)
        check_atomic(plan, starts, source)
        check_stress(plan, starts, source)
        check_fixed(plan, starts, source)
        check_k_points(plan, campaign.settings.reference, source)
        check_vacuum(plan, starts, source)
    with _naming(source):
        reference = campaign.reference()
        reference.check(all_starts)
        if any(plan.settings.exploration.ensemble == "npt" for plan in campaign.systems.values()):
            with _naming("exploration.ensemble = 'npt' needs labels with a stress"):
                reference.check_stress()
    for plan in campaign.systems.values():
        imports.check_reference(plan, reference.pool, source)
        check_pool(plan, reference.pool, source)
    check_spins(campaign, source)
    check_second_opinion(campaign, source)
    check_identity(campaign, level_of_theory(campaign), dry=dry)
    if not dry:
        campaign.write()
    return campaign


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Put the name of a file in front of the message of an error about it."""
    try:
        yield
    except InputError as error:
        message = str(error)
        raise InputError(
            message if message.startswith(source) else f"{source}: {message}"
        ) from None


def check_disk(campaign: Campaign, source: str, *, dry: bool = False) -> None:
    """Make the folders of results and labels, and refuse a full disk or one that takes no files.

    Args:
        campaign: whose folders.
        source: name of its file, for messages.
        dry: make no folder.

    Raises:
        InputError: too little space, or a folder cannot be made.
    """
    for key, folder in (
        ("results", campaign.folder),
        ("label_store", campaign.settings.label_store),
    ):
        try:
            if not dry:
                folder.mkdir(parents=True, exist_ok=True)
            existing = next(
                path for path in (folder.resolve(), *folder.resolve().parents) if path.exists()
            )
            free_GB = shutil.disk_usage(existing).free / 1e9
        except OSError as error:
            raise InputError(f"{source}: {key}: {folder}: cannot be written ({error})") from error
        least_GB = campaign.settings.limits.min_free_disk_GB
        if free_GB < least_GB:
            raise InputError(
                f"{source}: {key}: {folder}: {free_GB:.1f} GB free, expected at least "
                f"{least_GB:g} GB (limits.min_free_disk_GB)"
            )


def check_states(plan: SystemPlan, starts: "Sequence[Atoms]") -> None:
    """Refuse one composition with two charges or spins: the model could not tell them apart.

    The model sees elements and positions only. Where one frame would have two energies it learns
    neither. Several `multiplicities` of which the lowest energy counts are one state.

    Args:
        plan: a system.
        starts: its start structures.

    Raises:
        InputError: the message names both structures.
    """
    first: dict[str, str] = {}
    for start in starts:
        structure = start.info["structure"]
        if structure not in plan.sampled:  # a single atom is in no frame of its own
            continue
        other = first.setdefault(start.get_chemical_formula(), structure)
        before, state = (_state(plan.structures[name]) for name in (other, structure))
        if state != before:
            raise InputError(
                f"structures {other} and {structure}: both are {start.get_chemical_formula()}, "
                f"{other} with {before} and {structure} with {state}: the model sees elements "
                "and positions only and cannot tell them apart. Expected one charge and spin for "
                "one composition: give each a system of its own, or both the same "
                "`multiplicities`, of which the lowest energy counts"
            )


def _state(settings: config.StructureSettings) -> str:
    """Charge and spins of a structure in words."""
    if settings.multiplicities:
        return f"charge {settings.charge}, multiplicities {sorted(settings.multiplicities)}"
    return f"charge {settings.charge}, multiplicity {settings.multiplicity}"


def check_teacher(plan: SystemPlan) -> None:
    """Build every structure's force field once.

    AM1-BCC charges take minutes and are left to the job: here quick ones replace them, once it is
    known that the program that computes them works.

    Raises:
        InputError: the force field does not cover a structure, or a program is missing.
    """
    from halcyon.teacher import gaff2

    forcefield = plan.system.forcefield
    if isinstance(forcefield, config.Gaff2ForceField) and forcefield.charges == "bcc":
        gaff2.check_sqm()
        quick = forcefield.model_copy(update={"charges": "gasteiger"})
        plan = replace(plan, system=plan.system.model_copy(update={"forcefield": quick}))
    for name in plan.structures:
        plan.teacher(name)


def check_numbers(plan: SystemPlan, source: str) -> None:
    """Refuse settings of a system that cannot work together.

    Raises:
        InputError: the message has the settings, and what to change.
    """
    _check_structures(plan, source)
    _check_seed(plan, source)
    check_exploration(plan, source)


def _check_structures(plan: SystemPlan, source: str) -> None:
    """Refuse to explore a single atom, to pre-train on nothing, and elements without a label."""
    name, settings = plan.system.name, plan.settings
    if single := [structure for structure in plan.explored if structure not in plan.sampled]:
        raise InputError(
            f"{source}: system {name}: structure {', '.join(single)}: a single atom has no "
            "dynamics of its own: set `explore: false`, and `pack` it with others"
        )
    if settings.pretraining.enabled and not any(plan.structures[s].pretrain for s in plan.sampled):
        raise InputError(
            f"{source}: system {name}: nothing to pre-train on: give the molecules that are packed "
            "as structures with `pretrain: true`, or set pretraining.enabled to false"
        )

    of_labels = {symbol for s in plan.labelled for symbol in plan.start(s).symbols}
    for structure in plan.sampled:
        if missing := sorted({*plan.start(structure).symbols} - of_labels):
            raise InputError(
                f"{source}: system {name}: structure {structure}: label = false: no structure that "
                f"is labelled has {', '.join(missing)}: the energy of this element would not be "
                "learned. Label this structure, or add one that has the element"
            )


def _check_seed(plan: SystemPlan, source: str) -> None:
    """Refuse a seed that the teacher has too few frames for, or that costs more than the budget."""
    name, settings = plan.system.name, plan.settings
    seed, teacher = settings.seed_labels, settings.teacher
    if seed.free_atoms and not plan.labels_atoms:
        raise InputError(
            f"{source}: seed_labels.free_atoms = true: system {name}: expected a reference that "
            "computes labels, without reference.k_spacing_per_A: a free atom is no crystal, and a "
            "published set is only looked up. Remove seed_labels.free_atoms"
        )
    cold = [t for t in teacher.temperatures_K if t <= seed.max_temperature_K]
    per_structure = seed.frames
    available = teacher.md_frames // len(teacher.temperatures_K) * len(cold)
    if seed.draws_frames and available < per_structure:
        raise InputError(
            f"{source}: seed_labels: system {name} needs {per_structure} frames per structure, "
            f"but the teacher makes about {available} up to {seed.max_temperature_K:g} K "
            "(teacher.md_frames, teacher.temperatures_K, seed_labels.max_temperature_K)"
        )
    if settings.limits.label_budget < plan.seed_labels:
        raise InputError(
            f"{source}: limits.label_budget = {settings.limits.label_budget}: the seed of system "
            f"{name} alone takes {plan.seed_labels} labels (seed_labels)"
        )


def check_committee(plan: SystemPlan, source: str) -> None:
    """Refuse a committee with a model file that does not exist."""
    for path in plan.settings.domain.committee:
        if not path.is_file():
            raise InputError(f"{source}: domain.committee: {path}: no such model file")


def check_pool(plan: SystemPlan, pool: "Sequence[Atoms] | None", source: str) -> None:
    """Refuse a published set in which the atoms of a structure cannot be told apart.

    Args:
        plan: a system.
        pool: frames of the set, with `info["place"]`; None: labels are computed.
        source: name of the campaign's file, for messages.

    Raises:
        InputError: classes by symmetry where bonds break, or no frame of a structure's composition
            has its bonds.
    """
    if pool is None:
        return
    classes, name = plan.settings.domain.classes, plan.system.name
    if plan.system.kind not in BONDS_HOLD:
        if classes == "symmetry":
            raise InputError(
                f"{source}: domain.classes = {classes!r}: system {name}: expected 'element' or "
                "'environment' with `reference: {backend: dataset}` and `kind: "
                f"{plan.system.kind}`: where bonds break it is unknown which atom of the set is "
                "which atom of the structure"
            )
        return
    from halcyon.labels.pool import bonded_otherwise, bonds_in_words, frames_like

    for structure in plan.labelled:
        start, bonds = plan.start(structure), plan.bonds(structure)
        others = bonded_otherwise(pool, start, bonds)
        if others and not frames_like(pool, start, bonds):
            expected = bonds_in_words(start.numbers, bonds)
            raise InputError(
                f"{source}: reference.files: {others[0].info['place']}: "
                f"{start.get_chemical_formula()}, but not bonded as structure {structure} of "
                f"system {name} ({expected}), nor is any of the set's {len(others)} frames of "
                "this composition. Expected frames of the same molecules; with `kind: reactive` "
                "bonds may differ"
            )


def check_stress(plan: SystemPlan, starts: "Sequence[Atoms]", source: str) -> None:
    """Refuse constant pressure where there is no stress, or where the model does not learn it.

    Args:
        plan: a system.
        starts: its start structures.
        source: name of the campaign's file, for messages.

    Raises:
        InputError: the message names the setting, and what to change.
    """
    from halcyon.labels.stress import is_possible

    settings, name = plan.settings, plan.system.name
    if settings.exploration.ensemble != "npt":
        return
    begins = f"{source}: exploration.ensemble = 'npt': system {name}: "
    for start in starts:
        structure = start.info["structure"]
        if structure in plan.explored and not is_possible(start):
            raise InputError(
                f"{begins}structure {structure}: pbc = {start.pbc.tolist()}: expected a cell that "
                "is periodic in three directions. Set the ensemble to nvt or nve"
            )
    if settings.training.weight_of_stress == 0:
        raise InputError(
            f"{begins}training.stress_weight = 0: the model would not learn the stress that moves "
            "the cell, and the density would be an accident. Remove training.stress_weight, or "
            "set it above 0"
        )


def check_spins(campaign: Campaign, source: str) -> None:
    """Refuse spins that the reference cannot compare, and a spin that a reaction does not keep.

    Raises:
        InputError: several multiplicities, and a reference that does not tell them apart; or a
            single one, where a reaction may pair electrons, and it is not said that it is meant.
    """
    reference, reason = campaign.settings.reference, ""
    published = isinstance(reference, config.DatasetReference)
    if isinstance(reference, config.XtbReference) and not reference.spin_polarized:
        reason = (
            "GFN-xTB without spin polarisation finds low spin lowest, even for O2. Set "
            "reference.spin_polarized to true"
        )
    elif published:
        reason = "a published set has each frame in one spin"
    for name, plan in campaign.systems.items():
        for structure in plan.system.structures:
            if reason and len(structure.multiplicities) > 1:
                raise InputError(
                    f"{source}: system {name}: structure {structure.name}: multiplicities = "
                    f"{structure.multiplicities}: expected none with `reference: {{backend: "
                    f"{campaign.settings.reference.backend}}}`: {reason}"
                )
            if plan.system.kind == "reactive" and structure.explore and not published:
                _refuse_lone_spin(structure, f"{source}: system {name}")


def _refuse_lone_spin(structure: config.StructureSettings, where: str) -> None:
    """Refuse one spin for frames whose electrons may pair, unless it is said that it is meant."""
    from halcyon.labels.spin import PAIRING, likely_spins

    spin = structure.multiplicity
    if spin >= PAIRING and not structure.multiplicities:
        raise InputError(
            f"{where}: structure {structure.name}: multiplicity = {spin}: {spin - 1} electrons are "
            "unpaired, and may pair where bonds form: labels of this spin alone then lie eV above "
            f"the ground state. Expected `multiplicities: {likely_spins(spin)}`, of which the "
            f"lowest energy is the label (docs/labels.md#spin), or `multiplicities: [{spin}]` if "
            "this spin alone is meant"
        )


def check_second_opinion(campaign: Campaign, source: str) -> None:
    """Refuse a second Hamiltonian that is the reference itself, or that cannot judge the frames.

    Raises:
        InputError: the message has the setting, its value, and what was expected.
    """
    for plan in campaign.systems.values():
        audit = plan.settings.audit
        if audit.hamiltonian is None:
            continue
        from halcyon.labels.second_opinion import refuse_unfit  # tblite: only where it is needed

        where = f"{source}: system {plan.system.name}"
        with _naming(where):
            refuse_unfit(
                audit.hamiltonian,
                campaign.settings.reference,
                campaign.reference().level,
                [plan.start(structure) for structure in plan.explored],
            )
        _check_second_frames(plan, where)
        for structure in plan.explored:
            if len(plan.structures[structure].multiplicities) > 1:
                raise InputError(
                    f"{where}: audit.second_opinion = {audit.second_opinion}: structure "
                    f"{structure} has several multiplicities, and GFN-xTB without spin "
                    "polarisation cannot tell which is the lowest: expected one `multiplicity`, "
                    "or second_opinion: index"
                )


def _check_second_frames(plan: SystemPlan, where: str) -> None:
    """Refuse fewer frames for the second opinion than twice the audit's, or more than are kept."""
    from halcyon.campaign.work import audit_frames_each

    audit, least = plan.settings.audit, 2 * audit_frames_each(plan)
    if audit.second_opinion_frames < least or audit.reservoir < audit.second_opinion_frames:
        raise InputError(
            f"{where}: audit.second_opinion_frames = {audit.second_opinion_frames}: expected at "
            f"least {least}, twice as many as are labelled (audit.frames), and at most "
            f"audit.reservoir = {audit.reservoir}"
        )


def check_start(plan: SystemPlan, source: str) -> None:
    """Refuse a start model whose file does not exist."""
    path = plan.settings.pretraining.start
    if path is not None and not path.is_file():
        raise InputError(f"{source}: pretraining.start = {str(path)!r}: no such model file")


def check_models(plan: SystemPlan, source: str) -> None:
    """Read the model files that the user named, as the jobs will that need them.

    Labels are paid before the first of these jobs runs.

    Raises:
        InputError: a file is not a model, its head is not the one that is named, it has several
            heads, or it lacks an element of the system.
    """
    pretraining, domain = plan.settings.pretraining, plan.settings.domain
    training = plan.settings.training
    if pretraining.start is None and not domain.watched_committee:
        return
    from halcyon.models import mace  # torch: only where it is needed

    dtype, system = plan.settings.model.dtype, f"system {plan.system.name}"
    if pretraining.start is not None:
        with _naming(f"{source}: {system}: pretraining.start"):
            mace.load_start(
                pretraining.start,
                plan.elements,
                dtype=dtype,
                device="cpu",
                head=pretraining.start_head,
            )
    if training.replay_from:
        from halcyon.models.replay import of_files

        with _naming(f"{source}: {system}"):
            of_files(training.replay_from, plan.elements)
    with _naming(f"{source}: {system}: domain.committee"):
        mace.load_committee(domain, plan.elements, device="cpu", dtype=dtype)


def check_bias(plan: SystemPlan, starts: "Sequence[Atoms]", source: str) -> None:
    """Refuse collective variables of atoms that the start structures do not have."""
    bias = plan.settings.exploration.bias
    if not isinstance(bias, config.MetadynamicsBias):
        return
    from halcyon.exploration.bias import check_variables  # torch: only where it is needed

    for start in starts:
        if start.info["structure"] in plan.explored:
            check_variables(bias, start, source)
