"""A system's file from SMILES: a choice for every setting, each with its reason beside it.

    from halcyon.commands.new_system.proposal import propose
    from halcyon.commands.new_system.wish import Wish

    proposal = propose(Wish("acetic_acid", "CC(=O)O"))
    print(proposal.text)

Not for: which teacher covers the molecules (`teacher_choice`), crystals and slabs (`crystal`), the
campaign's file (`campaign_file`), writing files or printing (`command`).
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from halcyon.commands.new_system.campaign_file import plain, quoted
from halcyon.commands.new_system.teacher_choice import forcefield_lines, teacher_for
from halcyon.commands.new_system.wish import Part, Wish, parts_of
from halcyon.config import Campaign, StructureSettings, XtbReference
from halcyon.config.system import BONDS_HOLD
from halcyon.errors import InputError
from halcyon.labels.spin import PAIRING, likely_spins
from halcyon.systems import guesses
from halcyon.systems.packing import packed_structure
from halcyon.verdict.events import least_bound_per_ns
from halcyon.verdict.saturation import confidence_spent

SHELL = 6
"""Neutral molecules around a single ion in the cluster whose contacts are pre-trained on."""
CLUSTER_DENSITY = 0.9
"""Density of that cluster, g/cm³."""
REACTIVE_K = 1500.0
"""Temperature of exploration of a reactive mixture, K."""
MARGIN = 1.1
"""Exploration is so long that it can show a rate this many times below the limit of saturation."""
REPLICAS_OF_A_BOX = 4
"""A step of a box is dear; with fewer replicas nobody can see how much they differ."""
LEAST_PS_OF_A_BOX = 10.0
"""Molecules in a box need some ps to change their neighbours."""
STRETCH_OF_METALS_A = 1.0
"""Deviation of a bond from its mean at which a molecule with metal atoms has failed, Å. In
GFN2-xTB's own dynamics of ferrocene at 500 K, iron–carbon bonds are up to 0.5 Å off."""
KINDS = {
    "molecule": "its bonds must hold; atoms that symmetry cannot tell apart share a class",
    "liquid": "molecules move past each other; each element is a class of atoms",
    "reactive": "bonds may break; each element is a class of atoms",
}
"""What each kind of system means, for the comment in its file."""


@dataclass(frozen=True)
class Proposal:
    """A system's file, and the force field files that it needs.

    Attributes:
        text: content of the YAML file, with comments.
        parts: its molecules.
        files: content of the force field files that were made for it, by path.
        notes: what a person should check before using it.
        k_spacing_per_A: of a crystal: distance of k-points to begin with, 1/Å.
        is_metallic: whether its electrons should be smeared: a crystal that is a metal or has one
            with d electrons.
    """

    text: str
    parts: list[Part]
    files: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    k_spacing_per_A: float | None = None
    is_metallic: bool = False


def propose(wish: Wish) -> Proposal:
    """Choose everything that the wish leaves open.

    Raises:
        InputError: the molecule is impossible; charge, spin or box do not fit; or no force field
            covers all molecules.
    """
    parts = parts_of(wish)
    if wish.kind == "molecule" and len(parts[0].atoms) == 1:
        raise InputError(
            f"{wish.source}: a single atom alone has no forces to learn. Put it into a box, e.g. "
            "with --in-water 32"
        )
    forcefield, why, files, notes = teacher_for(wish, parts)
    if wish.kind == "molecule":
        (part,) = parts
        structures = [_structure_lines(part, alone=True)]
        if _is_cluster(wish, parts) and part.settings.multiplicity >= PAIRING:
            structures[0] += _spin_lines(part.settings.multiplicity)
    else:
        box, box_notes = _box(wish, parts)
        structures = [box]
        notes += box_notes
        structures += [_structure_lines(part, alone=False) for part in parts]
        for part in parts:
            if _needs_contacts(wish, part, parts):
                lines_of_cluster, cluster_notes = _contacts(part, parts)
                structures += lines_of_cluster
                notes += cluster_notes
    lines = [
        "# yaml-language-server: $schema=../schema/system.schema.json",
        f"# {'; '.join(_summary(part) for part in parts)}.",
        "# Written by `halcyon new-system`: every choice is a proposal. More:",
        "# docs/add-a-system.md",
        f"name: {plain(wish.name)}",
        f"description: {_description(wish, parts)}",
        _kind(wish, parts),
        *forcefield_lines(forcefield, why),
        "structures:",
        *(line for structure in structures for line in structure),
        *_overrides(wish, parts),
    ]
    return Proposal("\n".join(lines) + "\n", parts, files, notes)


def _box(wish: Wish, parts: list[Part]) -> tuple[list[str], list[str]]:
    """Lines of the periodic box, and notes for the person."""
    packed = [part for part in parts if part.count]
    counts = {part.name: part.count for part in packed}
    notes = []
    charge = sum(part.settings.charge * part.count for part in packed)
    unpaired = sum((part.settings.multiplicity - 1) * part.count for part in packed)
    lines = [
        "  - name: box",
        f"    pack: {{{', '.join(f'{plain(n)}: {count}' for n, count in counts.items())}}}",
    ]
    if wish.box_A is not None:
        lines.append(f"    box_A: {wish.box_A:g} # edge of the periodic cube")
    elif wish.density_g_per_cm3 is not None:
        lines.append(f"    density_g_per_cm3: {wish.density_g_per_cm3:g}")
    elif wish.kind == "reactive":
        raise InputError("--reactive: give the density, --density (g/cm³), or the box, --box (Å)")
    else:
        molecules = {part.name: part.molecule for part in packed}
        guessed = guesses.liquid_density(molecules, counts)
        lines.append(f"    density_g_per_cm3: {guessed:.3f} # estimated to some 10 %")
        notes.append(
            f"the density, {guessed:.2f} g/cm³, is an estimate; replace it by the measured one"
        )
    if charge:
        lines.append(f"    charge: {charge} # a uniform background neutralises the periodic cell")
        notes.append(
            f"the box has a charge of {charge} e: add counter-ions with --with if it should not"
        )
    if unpaired:
        lines.append(f"    multiplicity: {unpaired + 1} # {unpaired} unpaired, spins aligned")
    if wish.kind == "reactive":
        lines += _spin_lines(unpaired + 1)
        lines.append("    pretrain: true # so that molecules do not run into each other when hot")
    return lines, notes


def _spin_lines(multiplicity: int) -> list[str]:
    """Lines with the spins that frames of a reactive structure may have."""
    return [
        f"    multiplicities: {likely_spins(multiplicity)} # electrons part and pair where bonds",
        "    # break and form: each frame is labelled in all of them, and the lowest energy counts",
    ]


def _structure_lines(part: Part, *, alone: bool) -> list[str]:
    """Lines of one molecule."""
    settings = part.settings
    length = guesses.longest_distance_A(part.atoms)
    size = f"it is {length:.1f} Å long" if len(part.atoms) > 1 else "one atom"
    given = ("file", str(settings.file)) if settings.file else ("smiles", settings.smiles or "")
    why = "as its SMILES says" if settings.smiles else "of the molecule"
    lines = [
        f"  - name: {plain(settings.name)}",
        f"    {given[0]}: {quoted(given[1])}",
        f"    charge: {settings.charge} # {why}",
        f"    multiplicity: {settings.multiplicity} # 2S+1: {part.spin}",
        f"    box_A: {settings.box_A:g} # {size}; CP2K needs 2 Å to each wall",
    ]
    if not alone:
        what = "it is one atom" if len(part.atoms) == 1 else "it is pre-trained on and labelled"
        lines.append(f"    explore: false # {what}; the dynamics are the box's")
    return lines


def _needs_contacts(wish: Wish, part: Part, parts: list[Part]) -> bool:
    """Whether a cluster must be added, because no other structure shows an ion's contacts."""
    return wish.kind == "liquid" and len(part.atoms) == 1 and any(len(p.atoms) > 1 for p in parts)


def _cluster(ion: Part, parts: list[Part]) -> dict[str, int]:
    """Molecules of a cluster that shows an ion's contacts and holds together, by name.

    Neutral molecules around the ion, where there are any. Else ions of both charges, as many of
    each as are neutral together: one ion among others of one charge flies apart. Empty: neither is
    possible.
    """
    partners = [part for part in parts if len(part.atoms) > 1]
    charge = ion.settings.charge
    if neutral := [part for part in partners if not part.settings.charge]:
        return {ion.name: 1, max(neutral, key=lambda part: part.count).name: SHELL}
    opposite = [part for part in partners if part.settings.charge * charge < 0]
    if not opposite:
        return {}
    partner = max(opposite, key=lambda part: part.count)
    whole = math.lcm(charge, partner.settings.charge)
    ions, others = whole // abs(charge), whole // abs(partner.settings.charge)
    times = max(1, round((SHELL + 1) / (ions + others)))
    return {ion.name: times * ions, partner.name: times * others}


def _contacts(ion: Part, parts: list[Part]) -> tuple[list[list[str]], list[str]]:
    """Lines of a cluster with a single ion, so that its contacts are pre-trained on; and notes."""
    pack = _cluster(ion, parts)
    if not pack:
        return [], [
            f"no cluster shows the contacts of {ion.name} before the first label: that takes "
            "neutral molecules around it or ions of the opposite charge (--with)"
        ]
    packed = {part.name: part.settings for part in parts if part.name in pack}
    charge = sum(packed[name].charge * number for name, number in pack.items())
    settings = StructureSettings(
        name=f"{ion.name}-shell",
        pack=pack,
        density_g_per_cm3=CLUSTER_DENSITY,
        periodic=False,
        charge=charge,
        multiplicity=1
        + sum((packed[name].multiplicity - 1) * number for name, number in pack.items()),
    )
    molecules = {part.name: part.settings for part in parts}
    edge = guesses.box_A(packed_structure(settings, molecules, seed=0)) + guesses.WALL_A
    packs = ", ".join(f"{plain(name)}: {number}" for name, number in pack.items())
    lines = [
        f"  - name: {settings.name} # a single ion teaches nothing: this is how its contacts",
        f"    pack: {{{packs}}} # are pre-trained on",
        f"    density_g_per_cm3: {CLUSTER_DENSITY:g}",
        "    periodic: false",
        f"    box_A: {edge:g}",
        "    pretrain: true",
        "    explore: false",
    ]
    if charge:
        lines.insert(2, f"    charge: {charge}")
    if settings.multiplicity > 1:
        lines.insert(2, f"    multiplicity: {settings.multiplicity}")
    return [lines], []


def _overrides(wish: Wish, parts: list[Part]) -> list[str]:
    """Settings that differ from a campaign's defaults, with the reason."""
    default = Campaign(campaign="it", systems=["it"], reference=XtbReference(backend="xtb"))
    lines = []
    replicas, ps = default.exploration.replicas, default.exploration.time_ps
    exploration = {}
    if wish.kind == "liquid":
        lines += [
            "  seed_labels: {max_temperature_K: 400.0} # hotter, it is far from what is asked",
            "  teacher: {temperatures_K: [300.0, 400.0, 1200.0]}",
        ]
        replicas = REPLICAS_OF_A_BOX
        exploration = {"temperatures_K": "[300.0]", "replicas": f"{replicas}"}
    if wish.kind == "reactive":
        lines += [
            "  seed_labels: {train: 12, validation: 8, test: 8} # of each structure",
            "  # So that energies of species alone, with their few labels, come right, too.",
            "  training: {energy_weight: 100.0, energy_huber_meV_per_atom: 50.0}",
        ]
        exploration = {"temperatures_K": f"[{REACTIVE_K}]"}
    molecules = 1 if wish.kind == "molecule" else sum(part.count for part in parts)
    needed = least_time_ps(replicas, molecules)
    if wish.kind != "molecule":
        exploration["time_ps"] = f"{max(needed, LEAST_PS_OF_A_BOX):.1f}"
    elif needed > ps:
        exploration["time_ps"] = f"{needed:.1f}"
    if _is_cluster(wish, parts):
        lines += [
            "  saturation: {reactions_needed: false} # a cluster may keep its shape",
            "  seed_labels: {free_atoms: false} # its atoms change places and do not part",
        ]
    why = ["so long that rare events can be told"] if exploration else []
    if wish.kind in BONDS_HOLD and any(map(_has_bonds_of_metals, parts)):
        exploration["bond_stretch_A"] = f"{STRETCH_OF_METALS_A}"
        why.append("bonds of metals are soft")
    if exploration:
        words = ", ".join(f"{key}: {value}" for key, value in exploration.items())
        lines.append(f"  exploration: {{{words}}} # {', '.join(why)}")
    return ["overrides: # of the campaign's settings, for this system", *lines] if lines else []


def least_time_ps(replicas: int, molecules: int) -> float:
    """Time of an exploration, ps, in which replicas can show what saturation asks for.

    Args:
        replicas: number of them.
        molecules: number of molecules in each.
    """
    default = Campaign(campaign="it", systems=["it"], reference=XtbReference(backend="xtb"))
    ps = default.exploration.time_ps
    # The lowest rate that replicas without a single event can show; it falls with their time.
    least = least_bound_per_ns(
        replicas,
        window_ps=ps * default.saturation.window,
        molecules=molecules,
        confidence=confidence_spent(default),
    )
    return float(math.ceil(ps * least * MARGIN / default.saturation.events_per_ns))


def _is_cluster(wish: Wish, parts: list[Part]) -> bool:
    """Whether it is a cluster of metal atoms, which change places as a liquid's do."""
    symbols = {symbol for part in parts for symbol in part.atoms.get_chemical_symbols()}
    return wish.kind == "molecule" and len(parts[0].atoms) > 1 and not symbols & guesses.NONMETALS


def _has_bonds_of_metals(part: Part) -> bool:
    """Whether a molecule has metal atoms and others: complexes, organometallics, oxides."""
    symbols = {*part.atoms.get_chemical_symbols()}
    return bool(symbols - guesses.NONMETALS) and bool(symbols & guesses.NONMETALS)


def _kind(wish: Wish, parts: list[Part]) -> str:
    """The line with the system's kind, and what it means."""
    if _is_cluster(wish, parts):
        return "kind: reactive # metal atoms change places; each element is a class of atoms"
    return f"kind: {wish.kind} # {KINDS[wish.kind]}"


def _summary(part: Part) -> str:
    """A molecule in the first line of its file."""
    smiles = part.settings.smiles
    return f"{part.name} ({smiles or part.settings.file}, atoms: {len(part.atoms)})"


def _description(wish: Wish, parts: list[Part]) -> str:
    if wish.kind == "molecule":
        return f"One molecule of {wish.name} in the gas phase."
    packed = ", ".join(f"{part.count} {part.name}" for part in parts if part.count)
    return f"{packed} in a periodic box."
