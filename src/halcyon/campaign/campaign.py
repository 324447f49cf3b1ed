"""A campaign as the workflow sees it: configuration read, checked, written down, and found again.

The Snakefile calls `begin` once while parsing: everything that can be checked is checked there,
before any job. The stage programs call `Campaign.read` on the file that `begin` wrote.

Not for: what the keys mean (`config`), or what a stage does.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halcyon import config, files
from halcyon.errors import InputError

# Chemistry, tables and statistics are imported where they are needed: Snakemake keeps this module
# for as long as a campaign lasts, and every cluster job reads it twice.
if TYPE_CHECKING:
    from ase import Atoms
    from rdkit import Chem

    from halcyon.labels.reference.base import Reference
    from halcyon.teacher.forcefield import Teacher

SCHEMA_VERSION = 1
PREPARED = "prepared"
"""Folder, under that of all results, of packed boxes and force fields; campaigns share it."""


@dataclass(frozen=True)
class SystemPlan:
    """One system with the settings that hold for it.

    Attributes:
        system: what it is made of.
        settings: the campaign's, with the system's overrides.
        seed: the campaign's; it packs boxes.
        prepared: folder for what is made once and found again by its content (packed boxes, force
            fields); None: keep nothing.
    """

    system: config.System
    settings: config.Settings
    seed: int = 0
    prepared: Path | None = None

    @property
    def structures(self) -> dict[str, config.StructureSettings]:
        """Start structures by name."""
        return {structure.name: structure for structure in self.system.structures}

    def start(self, structure: str) -> "Atoms":
        """Start structure with charge, multiplicity and structure in `info`."""
        from halcyon.systems.packing import packed_structure
        from halcyon.systems.structures import start_structure

        settings = self.structures[structure]
        if settings.pack:
            return packed_structure(settings, self.structures, seed=self.seed, cache=self.prepared)
        return start_structure(settings)

    def bonds(self, structure: str) -> list[tuple[int, int]]:
        """Bonded pairs of a structure."""
        from halcyon.systems.packing import packed_bonds
        from halcyon.systems.structures import bonds

        settings = self.structures[structure]
        if settings.pack:
            return packed_bonds(settings, self.structures)
        return bonds(settings, self.start(structure))

    def molecules(self, structure: str) -> "dict[str, list[Chem.Mol]]":
        """Different molecules of a structure, with bond orders; by structure that declares them."""
        from halcyon.systems.structures import molecules

        names = list(self.structures[structure].pack) or [structure]
        return {
            name: molecules(self.structures[name], self.start(name), self.bonds(name))
            for name in names
        }

    def teacher(self, structure: str) -> "Teacher":
        """The force field of a structure.

        Raises:
            InputError: it does not cover the structure.
        """
        from halcyon.teacher.forcefield import make_teacher

        return make_teacher(
            self.system.forcefield,
            self.start(structure),
            self.bonds(structure),
            molecules=lambda: self.molecules(structure),
            prepared=self.prepared,
        )

    def classes(self, structure: str) -> list[str]:
        """Class of each atom of a structure; its element where environments are the classes."""
        from halcyon.systems.structures import atom_classes

        mode = self.settings.domain.classes
        if mode == "auto":
            mode = "symmetry" if self.system.kind == "molecule" else "element"
        if mode == "environment":
            mode = "element"
        return atom_classes(self.start(structure), self.bonds(structure), mode)

    @cached_property
    def atoms(self) -> dict[str, int]:
        """Number of atoms of each structure."""
        alone = {name: len(self.start(name)) for name, s in self.structures.items() if not s.pack}
        return {
            name: sum(n * alone[part] for part, n in s.pack.items()) if s.pack else alone[name]
            for name, s in self.structures.items()
        }

    def know_atoms(self, atoms: dict[str, int]) -> None:
        """Take these numbers of atoms: who only wants them need not load chemistry."""
        self.__dict__["atoms"] = atoms

    @property
    def explored(self) -> list[str]:
        """Names of the structures that are explored."""
        return [name for name, structure in self.structures.items() if structure.explore]

    @property
    def sampled(self) -> list[str]:
        """Names of the structures that frames are drawn of: a single atom has but one frame."""
        return [
            name
            for name, structure in self.structures.items()
            if structure.pack or self.atoms[name] > 1
        ]

    @property
    def elements(self) -> list[int]:
        """Atomic numbers of all structures, ascending."""
        return sorted({int(z) for name in self.structures for z in self.start(name).numbers})

    @property
    def seed_labels(self) -> int:
        """Labels that the seed takes."""
        seed = self.settings.seed_labels
        return (seed.train + seed.validation + seed.test) * len(self.sampled)


@dataclass(frozen=True)
class Campaign:
    """The whole campaign, and where its files lie."""

    settings: config.Campaign
    systems: dict[str, SystemPlan]

    @property
    def folder(self) -> Path:
        """Folder of all results of this campaign."""
        return self.settings.results / self.settings.campaign

    @property
    def file(self) -> Path:
        """The resolved configuration that stage programs read."""
        return self.folder / "campaign.json"

    def work(self, system: str, *stage: str) -> Path:
        """Scratch folder of a stage; it survives kills and is not declared to Snakemake."""
        return self.folder / "work" / Path(system, *stage)

    @property
    def lock(self) -> Path:
        """Lock file of the workflow that runs the campaign."""
        return self.folder / ".lock"

    def run(self) -> str:
        """Which run of the workflow has, or last had, the campaign; empty: none yet."""
        try:
            return self.lock.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def attempts(self, system: str, job: str) -> Path:
        """Where the attempts at a job are kept; `job` is the stem of its log file's name."""
        return self.work(system, "attempts", f"{job}.jsonl")

    def reference(self) -> "Reference":
        """The label backend."""
        from halcyon.labels.reference import make_reference

        return make_reference(self.settings.reference)

    @classmethod
    def resolve(cls, content: dict[str, Any], source: str) -> "Campaign":
        """Validate a configuration and read its systems' files.

        Args:
            content: parsed YAML.
            source: name of its file, for messages.

        Raises:
            InputError: a fault in it or in a system's file.
        """
        settings = config.parse_campaign(content, source)
        if len(set(settings.systems)) < len(settings.systems):
            raise InputError(f"{source}: systems: {settings.systems}: each may be named once")
        plans = {}
        for name in settings.systems:
            path = settings.systems_folder / f"{name}.yaml"
            if not path.exists():
                known = sorted(p.stem for p in settings.systems_folder.glob("*.yaml"))
                raise InputError(
                    f"{source}: systems: {name!r}: no file {path}; there are: "
                    f"{', '.join(known) or 'none'}"
                )
            system = config.read_system(path)
            plans[name] = SystemPlan(
                system,
                config.settings_for(settings, system, str(path)),
                seed=settings.seed,
                prepared=settings.results / PREPARED,
            )
        return cls(settings, plans)

    def write(self) -> None:
        """Write the resolved configuration, if it changed."""
        content = {
            "schema": SCHEMA_VERSION,
            "campaign": self.settings.model_dump(mode="json"),
            "systems": {
                name: plan.system.model_dump(mode="json") for name, plan in self.systems.items()
            },
        }
        if not self.file.exists() or files.read_json(self.file) != content:
            files.write_json(self.file, content)

    @classmethod
    def read(cls, path: Path | str) -> "Campaign":
        """Read what `write` wrote.

        Raises:
            InputError: missing, damaged or of another version.
        """
        content = files.read_json(path)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA_VERSION:
            raise InputError(f"{path}: not a campaign file of schema {SCHEMA_VERSION}")
        settings = config.parse_campaign(content["campaign"], str(path))
        systems = {name: config.System(**entry) for name, entry in content["systems"].items()}
        prepared = settings.results / PREPARED
        plans = {
            name: SystemPlan(
                system,
                config.settings_for(settings, system),
                seed=settings.seed,
                prepared=prepared,
            )
            for name, system in systems.items()
        }
        return cls(settings, plans)


def begin(content: dict[str, Any], source: str, *, dry: bool = False) -> Campaign:
    """Check everything that can be checked before the first job, and write the campaign down.

    Args:
        content: parsed configuration.
        source: name of its file, for messages.
        dry: check only.

    Raises:
        InputError: one message that names file, key, value and what was expected.
    """
    campaign = Campaign.resolve(content, source)
    check_disk(campaign, source, dry=dry)
    starts = []
    for name, planned in campaign.systems.items():
        plan = replace(planned, prepared=None) if dry else planned
        path = f"{campaign.settings.systems_folder / name}.yaml"
        mine = _in(path, lambda plan=plan: [plan.start(s) for s in plan.structures])
        starts += mine
        check_bias(plan, mine, source)
        _in(path, lambda plan=plan: check_teacher(plan))
        check_numbers(plan, source)
        check_committee(plan, source)
        check_start(plan, source)
        check_pool(campaign, plan, source)
    _in(source, lambda: campaign.reference().check(starts))
    check_scan(campaign, source)
    check_identity(campaign, level_of_theory(campaign), dry=dry)
    if not dry:
        campaign.write()
    return campaign


def _in(source: str, check: Any) -> Any:
    """Run a check and put the file it is about in front of its message."""
    try:
        return check()
    except InputError as error:
        message = str(error)
        raise InputError(
            message if message.startswith(source) else f"{source}: {message}"
        ) from None


def check_disk(campaign: Campaign, source: str, *, dry: bool = False) -> None:
    """Refuse to start on a full disk, or where nothing can be written."""
    for key, folder in (
        ("results", campaign.folder),
        ("label_store", campaign.settings.label_store),
    ):
        try:
            if not dry:
                folder.mkdir(parents=True, exist_ok=True)
            there = next(
                path for path in (folder.resolve(), *folder.resolve().parents) if path.exists()
            )
            free = shutil.disk_usage(there).free / 1e9
        except OSError as error:
            raise InputError(f"{source}: {key}: {folder}: cannot be written ({error})") from error
        wanted = campaign.settings.limits.min_free_disk_GB
        if free < wanted:
            raise InputError(
                f"{source}: {key}: {folder}: {free:.1f} GB free, expected at least {wanted:g} GB "
                "(limits.min_free_disk_GB)"
            )


def check_teacher(plan: SystemPlan) -> None:
    """Build every structure's force field once.

    Charges that take minutes are left for the job; that they can be computed is seen to.
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
    """Refuse settings that cannot work together."""
    from halcyon.verdict.saturation import rate_bound

    name, settings = plan.system.name, plan.settings
    seed, teacher = settings.seed_labels, settings.teacher
    if alone := [s for s in plan.explored if s not in plan.sampled]:
        raise InputError(
            f"{source}: system {name}: structure {', '.join(alone)}: a single atom has no dynamics "
            "of its own: `explore: false`, and `pack` it with others"
        )
    if settings.pretraining.enabled and not any(plan.structures[s].pretrain for s in plan.sampled):
        raise InputError(
            f"{source}: system {name}: nothing to pre-train on: give the molecules that are packed "
            "as structures with `pretrain: true`, or set pretraining.enabled to false"
        )
    cold = [t for t in teacher.temperatures_K if t <= seed.max_temperature_K]
    per_structure = seed.train + seed.validation + seed.test
    available = teacher.md_frames // len(teacher.temperatures_K) * len(cold)
    if available < per_structure:
        raise InputError(
            f"{source}: seed_labels: {per_structure} frames per structure asked of system {name}, "
            f"but the teacher makes about {available} up to {seed.max_temperature_K:g} K "
            "(teacher.md_frames, teacher.temperatures_K, seed_labels.max_temperature_K)"
        )
    if settings.limits.label_budget < plan.seed_labels:
        raise InputError(
            f"{source}: limits.label_budget = {settings.limits.label_budget}: the seed of system "
            f"{name} alone takes {plan.seed_labels} labels (seed_labels)"
        )
    exploration, saturation = settings.exploration, settings.saturation
    explored = plan.explored
    kinds = len(explored) * len(exploration.temperatures_K)
    if exploration.replicas < kinds:
        raise InputError(
            f"{source}: exploration.replicas = {exploration.replicas}: expected at least {kinds} "
            f"for system {name}: one per structure ({len(explored)}) and temperature "
            f"({len(exploration.temperatures_K)})"
        )
    atoms = sum(len(plan.start(explored[i % len(explored)])) for i in range(exploration.replicas))
    atom_time = atoms * exploration.time_ps * saturation.window
    best = rate_bound(0, atom_time, saturation.confidence)
    if best >= saturation.max_rate_per_atom_ps:
        raise InputError(
            f"{source}: exploration: system {name}: a late window of {atom_time:.3g} atom-ps "
            f"can show a rate under {best:.3g}/ps at best, and saturation.max_rate_per_atom_ps is "
            f"{saturation.max_rate_per_atom_ps:g}: the campaign could never saturate. Raise "
            "exploration.time_ps or exploration.replicas"
        )


def check_committee(plan: SystemPlan, source: str) -> None:
    """Refuse a committee whose models are not there."""
    for path in plan.settings.domain.committee:
        if not path.is_file():
            raise InputError(f"{source}: domain.committee: {path}: no such model file")


def check_pool(campaign: Campaign, plan: SystemPlan, source: str) -> None:
    """Refuse classes of atoms that a published set does not tell apart."""
    classes = plan.settings.domain.classes
    by_symmetry = classes == "symmetry" or (classes == "auto" and plan.system.kind == "molecule")
    if by_symmetry and isinstance(campaign.settings.reference, config.DatasetReference):
        raise InputError(
            f"{source}: domain.classes = {classes!r}: system {plan.system.name}: expected "
            "'element' or 'environment' with `reference: {backend: dataset}`: which atom of a set "
            "is which of the molecule's is not known"
        )


def check_scan(campaign: Campaign, source: str) -> None:
    """Refuse to look for the lowest spin where the reference cannot tell."""
    why = {
        "xtb": "GFN-xTB without spin polarisation puts low spin lowest, that of O2 too",
        "dataset": "a published set has each frame in one spin",
    }.get(campaign.settings.reference.backend)
    for name, plan in campaign.systems.items():
        for structure in plan.system.structures:
            if why and structure.multiplicities:
                raise InputError(
                    f"{source}: system {name}: structure {structure.name}: multiplicities = "
                    f"{structure.multiplicities}: expected none with `reference: {{backend: "
                    f"{campaign.settings.reference.backend}}}`: {why}"
                )


def check_start(plan: SystemPlan, source: str) -> None:
    """Refuse a start model that is not there."""
    path = plan.settings.pretraining.start
    if path is not None and not path.is_file():
        raise InputError(f"{source}: pretraining.start = {str(path)!r}: no such model file")


def check_bias(plan: SystemPlan, starts: "Sequence[Atoms]", source: str) -> None:
    """Refuse collective variables that the start structures do not have."""
    from halcyon.exploration.bias import check_variables  # torch: only where it is needed

    bias = plan.settings.exploration.bias
    if isinstance(bias, config.MetadynamicsBias):
        for start in starts:
            if start.info["structure"] in plan.explored:
                check_variables(bias, start, source)


def level_of_theory(campaign: Campaign) -> str:
    """Hash of the level of theory that labels are computed at."""
    from halcyon.labels.store import level_hash

    return level_hash(campaign.reference().level)


def check_identity(campaign: Campaign, level: str, *, dry: bool = False) -> None:
    """Refuse to go on with a campaign whose identity has changed.

    Seed, level of theory, structures and the number of label shards decide which jobs exist and
    which labels fit together; everything else may change and holds for new work.
    """
    path = campaign.folder / "identity.json"
    now: dict[str, Any] = {
        "seed": campaign.settings.seed,
        "level_of_theory": level,
        "systems": {
            name: {
                "structures": _hash([_identity(s) for s in plan.system.structures]),
                "label_shards": plan.settings.resources.label_shards,
            }
            for name, plan in campaign.systems.items()
        },
    }
    if not path.exists():
        if not dry:
            files.write_json(path, now)
        return
    before = files.read_json(path)
    changed = [key for key in ("seed", "level_of_theory") if before[key] != now[key]]
    for name, entry in now["systems"].items():
        was = before["systems"].get(name, entry)
        changed += [f"{name}: {key}" for key in entry if was[key] != entry[key]]
    if changed:
        raise InputError(
            f"{path}: this campaign began with another {', '.join(changed)}. Its results would "
            f"not fit together: give the new one another name (campaign), or move "
            f"{campaign.folder} away. Labels in {campaign.settings.label_store} are kept and "
            "used again where they fit"
        )
    merged = before | {"systems": before["systems"] | now["systems"]}
    if merged != before and not dry:
        files.write_json(path, merged)


def _identity(structure: config.StructureSettings) -> dict[str, Any]:
    """What a structure is; keys that came later count where they are used."""
    said = structure.model_dump(mode="json")
    return {k: v for k, v in said.items() if k != "multiplicities" or v}


def _hash(content: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
