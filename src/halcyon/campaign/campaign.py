"""A campaign as the workflow sees it: its systems, its settings, and where its files lie.

    from pathlib import Path
    from halcyon import config
    from halcyon.campaign.campaign import Campaign

    content = config.read_yaml(Path("config/quickstart.yaml"))
    campaign = Campaign.resolve(content, "config/quickstart.yaml")
    campaign.write()
    assert Campaign.read(campaign.file) == campaign

The Snakefile resolves a campaign from its configuration and writes it down, once it holds the
campaign's lock and the `checks` have passed. The stage programs read that file.

Not for: what the keys mean (`config`), what is checked (`checks`), or what a stage does.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halcyon import config, files
from halcyon.config.campaign import PREPARED, SCRATCH
from halcyon.config.system import BONDS_HOLD
from halcyon.errors import InputError

# Chemistry, tables and statistics are imported where they are needed: Snakemake keeps this module
# for as long as a campaign lasts, and every cluster job reads it twice.
if TYPE_CHECKING:
    from ase import Atoms
    from rdkit import Chem

    from halcyon.domain.displacements import LatticeSites
    from halcyon.labels.reference.base import Reference
    from halcyon.models.forgetting import Scan
    from halcyon.teacher.forcefield import Teacher

SCHEMA_VERSION = 1
SOLID_STRAIN = 0.02
"""Largest strain of the cells that a solid's labels begin with: thermal expansion up to melting,
and the breathing of a box of some hundred atoms, are of this size."""
RUN_VARIABLE = "HALCYON_RUN"
"""Environment variable that names the run of the workflow that a job belongs to."""
CAMPAIGN_VARIABLE = "HALCYON_CAMPAIGN"
"""Environment variable with the campaign's file, as that run wrote it."""
NO_RUN = "a command that runs no jobs"
"""Value of `RUN_VARIABLE` under a command that only looks: no job begins under it."""


@dataclass(frozen=True)
class SystemPlan:
    """One system with the settings that hold for it.

    Attributes:
        system: its structures and its force field.
        settings: the campaign's settings, with the system's overrides.
        seed: the campaign's seed; boxes are packed with it.
        prepared: folder of packed boxes and force fields, which are made once and found again by
            their content; None: keep nothing.
        backend: `reference.backend`, which says roughly what a label costs; None: not known.
        labels_atoms: whether the reference can label a free atom.
    """

    system: config.System
    settings: config.Settings
    seed: int = 0
    prepared: Path | None = None
    backend: str | None = None
    labels_atoms: bool = True

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

    @property
    def fixed(self) -> dict[str, list[int]]:
        """Numbers of the atoms that no dynamics moves, of each structure that has some."""
        from halcyon.systems.fixed import fixed_atoms

        masks = {name: fixed_atoms(self.start(name)) for name in self.explored}
        return {name: mask.nonzero()[0].tolist() for name, mask in masks.items() if mask.any()}

    @property
    def sites(self) -> "dict[str, LatticeSites]":
        """The sites of each explored crystal's atoms."""
        from halcyon.systems.lattice import lattice_sites

        sites = {n: lattice_sites(self.start(n), kind=self.system.kind) for n in self.explored}
        return {name: known for name, known in sites.items() if known is not None}

    def bonds(self, structure: str) -> list[tuple[int, int]]:
        """Bonded pairs of a structure."""
        from halcyon.systems.packing import packed_bonds
        from halcyon.systems.structures import bonds

        settings = self.structures[structure]
        if settings.pack:
            return packed_bonds(settings, self.structures)
        return bonds(settings, self.start(structure))

    def seed_strain(self, structure: str) -> float:
        """Largest strain of the cells of its seed; 0: cells stay as they are."""
        from halcyon.labels.stress import is_possible
        from halcyon.systems.fixed import vacuum_A

        start = self.start(structure)
        if self.system.kind != "solid" or not is_possible(start):
            return 0.0
        if vacuum_A(start) > self.settings.model.r_max_A:
            return 0.0  # a slab beside the bulk crystal
        strain = self.settings.seed_labels.strain
        npt = self.settings.exploration.ensemble == "npt"
        return strain if strain is not None else SOLID_STRAIN if npt else 0.0

    def lasting_bonds(self, structure: str) -> list[tuple[int, int]] | None:
        """Bonded pairs of a structure whose bonds must hold; None where they may break."""
        return self.bonds(structure) if self.system.kind in BONDS_HOLD else None

    def molecules(self, structure: str) -> "dict[str, list[Chem.Mol]]":
        """The different molecules of a structure, by the structure that declares them.

        They have bond orders; each is there once, however often a box holds it.
        """
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

    def wall_scans(self) -> "list[Scan]":
        """Scans that show what a fine-tuning forgot: see `models.forgetting`."""
        from halcyon.models.forgetting import bond_stretches, dimers

        scans = dimers(self.elements)
        for name in self.explored:
            scans += bond_stretches(name, self.start(name), self.bonds(name), self.classes(name))
        return scans

    def classes(self, structure: str) -> list[str]:
        """Class of each atom of a structure.

        Where classes are environments, which only the model can tell, the element stands for them.
        """
        from halcyon.systems.structures import atom_classes

        mode = self.settings.domain.classes
        if mode == "auto":
            symmetric = self.system.kind in ("molecule", "solid")
            mode = "symmetry" if symmetric else "element"
        if mode == "environment":
            mode = "element"
        start = self.start(structure)
        if mode == "symmetry" and self.system.kind in ("solid", "slab") and start.pbc.all():
            from halcyon.systems.sites import site_classes

            return site_classes(start)
        return atom_classes(start, self.bonds(structure), mode)

    def classes_of_domain(self) -> dict[str, list[str]]:
        """Class of each atom, of the structures whose atoms labels can tell of.

        These are the labelled structures, and others that have no class of their own.
        """
        of_labelled = {name: self.classes(name) for name in self.labelled}
        known = {group for classes in of_labelled.values() for group in classes}
        others = {name: self.classes(name) for name in self.sampled if name not in of_labelled}
        return of_labelled | {name: c for name, c in others.items() if known.issuperset(c)}

    @cached_property
    def atoms(self) -> dict[str, int]:
        """Number of atoms of each structure."""
        single = {name: len(self.start(name)) for name, s in self.structures.items() if not s.pack}
        return {
            name: sum(n * single[part] for part, n in s.pack.items()) if s.pack else single[name]
            for name, s in self.structures.items()
        }

    def know_atoms(self, atoms: dict[str, int], elements: list[int]) -> None:
        """Set `atoms` and `elements` to known values, so that no structure need be built."""
        self.__dict__.update(atoms=atoms, elements=elements)

    @property
    def explored(self) -> list[str]:
        """Names of the structures that are explored."""
        return [name for name, structure in self.structures.items() if structure.explore]

    @property
    def sampled(self) -> list[str]:
        """Names of the structures that the teacher draws frames of.

        They have more than one atom, and are labelled or pre-trained on.
        """
        return [
            name
            for name, structure in self.structures.items()
            if (structure.pack or self.atoms[name] > 1) and (structure.label or structure.pretrain)
        ]

    @property
    def labelled(self) -> list[str]:
        """Names of the structures that frames are labelled of, `sampled` all of them."""
        return [name for name in self.sampled if self.structures[name].label]

    @cached_property
    def elements(self) -> list[int]:
        """Atomic numbers of all structures, ascending."""
        return sorted({int(z) for name in self.structures for z in self.start(name).numbers})

    @property
    def seed_labels(self) -> int:
        """Labels that the seed takes of the label budget; those that one has already take none."""
        seed = self.settings.seed_labels
        drawn = seed.frames * len(self.labelled) if seed.draws_frames else 0
        return drawn + len(self.free_atoms)

    @property
    def free_atoms(self) -> list[int]:
        """Atomic numbers of the elements whose free atoms are labelled with the seed."""
        enabled = self.settings.seed_labels.free_atoms
        if enabled is None:
            enabled = self.system.kind == "reactive" and self.labels_atoms
        return self.elements if enabled else []


@dataclass(frozen=True)
class Campaign:
    """The whole campaign, and where its files lie.

    Attributes:
        settings: what the configuration says.
        systems: its systems, by name.
    """

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
        return self.folder / SCRATCH / Path(system, *stage)

    @property
    def lock(self) -> Path:
        """Lock file of the workflow that runs the campaign."""
        return self.folder / ".lock"

    def run(self) -> str:
        """Name of the run of the workflow that has, or last had, the campaign; empty: none yet."""
        try:
            return self.lock.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

    def attempts(self, system: str, job: str) -> Path:
        """File of the attempts at a job; `job` is the stem of its log file's name."""
        return self.work(system, "attempts", f"{job}.jsonl")

    def reference(self) -> "Reference":
        """The label backend.

        Raises:
            InputError: its input is invalid, or its labels could not pass the check of the net
                force that a system asks for.
        """
        from halcyon.labels.reference import make_reference

        stress = any(plan.settings.needs_stress for plan in self.systems.values())
        reference = make_reference(self.settings.reference, stress=stress)
        sanity = (plan.settings.sanity for plan in self.systems.values())
        if any(settings.net_force_eV_per_A is not None for settings in sanity):
            reference.check_grid()
        return reference

    @classmethod
    def resolve(cls, content: dict[str, Any], source: str) -> "Campaign":
        """Validate a configuration and read its systems' files.

        Args:
            content: parsed YAML.
            source: name of its file, for messages.

        Raises:
            InputError: a fault in the configuration or in a system's file.
        """
        settings = config.parse_campaign(content, source)
        if len(set(settings.systems)) < len(settings.systems):
            raise InputError(f"{source}: systems: {settings.systems}: each may be named once")
        plans = {}
        for name in settings.systems:
            path = settings.systems_folder / f"{name}.yaml"
            if not path.exists():
                available = sorted(p.stem for p in settings.systems_folder.glob("*.yaml"))
                raise InputError(
                    f"{source}: systems: {name!r}: no file {path}; there are: "
                    f"{', '.join(available) or 'none'}"
                )
            system = config.read_system(path)
            plans[name] = SystemPlan(
                system,
                config.settings_for(settings, system, str(path)),
                seed=settings.seed,
                prepared=settings.results / PREPARED,
                backend=settings.reference.backend,
                labels_atoms=_labels_atoms(settings.reference),
            )
        return cls(settings, plans)

    def write(self) -> None:
        """Write the resolved configuration, if it has changed; the caller holds the lock."""
        content = {
            "schema": SCHEMA_VERSION,
            "campaign": self.settings.model_dump(mode="json"),
            "systems": {
                name: plan.system.model_dump(mode="json") for name, plan in self.systems.items()
            },
        }
        with suppress(InputError):  # damaged: it is written anew
            if self.file.exists() and files.read_json(self.file) == content:
                return
        files.write_json(self.file, content)

    @classmethod
    def read(cls, path: Path | str) -> "Campaign":
        """Read what `write` wrote.

        Raises:
            InputError: the file is missing, damaged or of another version.
        """
        content = files.read_object(path, ("schema", "campaign", "systems"))
        if content["schema"] != SCHEMA_VERSION:
            raise InputError(f"{path}: not a campaign file of schema {SCHEMA_VERSION}")
        _drop_former_keys(content)
        settings = config.parse_campaign(content["campaign"], str(path))
        systems = {name: config.System(**entry) for name, entry in content["systems"].items()}
        prepared = settings.results / PREPARED
        plans = {
            name: SystemPlan(
                system,
                config.settings_for(settings, system),
                seed=settings.seed,
                prepared=prepared,
                backend=settings.reference.backend,
                labels_atoms=_labels_atoms(settings.reference),
            )
            for name, system in systems.items()
        }
        return cls(settings, plans)


FORMER_KEYS = {"saturation": ("max_rate_per_atom_ps",)}
"""Keys of earlier releases, by section. In a user's file they are refused, since what took their
place must be chosen; in the file that an earlier release wrote of its settings they are history."""


def _labels_atoms(reference: config.ReferenceSettings) -> bool:
    """Whether a reference can label a free atom: it computes, and needs no crystal."""
    if isinstance(reference, config.DatasetReference):
        return False
    return not (isinstance(reference, config.Cp2kReference) and reference.k_spacing_per_A)


def _drop_former_keys(content: dict[str, Any]) -> None:
    """Remove keys of earlier releases from the content of a campaign's own file."""
    overrides = [system.get("overrides") or {} for system in content["systems"].values()]
    for settings in (content["campaign"], *overrides):
        for section, keys in FORMER_KEYS.items():
            for key in keys:
                settings.get(section, {}).pop(key, None)
