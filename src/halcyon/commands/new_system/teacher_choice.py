"""The teacher of a new system: the first that can be built for every molecule, and why it is taken.

    from halcyon.commands.new_system.teacher_choice import teacher_for
    from halcyon.commands.new_system.wish import Wish, parts_of

    wish = Wish("acetic_acid", "CC(=O)O")
    settings, why, files, notes = teacher_for(wish, parts_of(wish))

In this order: GAFF2; OpenMM's own file for water and ions; that file with GAFF2 templates for the
molecules that are not in it; GFN-FF, if its minima are those of GFN2-xTB; or GFN1-xTB, which is the
slowest and knows all elements up to radon.

Not for: the other choices of a system's file (`proposal`), or building a teacher for a campaign
(`teacher.forcefield`).
"""

from pathlib import Path

from rdkit import Chem

from halcyon.commands.new_system.campaign_file import plain
from halcyon.commands.new_system.wish import Part, Wish
from halcyon.config import (
    AseForceField,
    ForceFieldSettings,
    Gaff2ForceField,
    GfnffForceField,
    XmlForceField,
    XtbForceField,
)
from halcyon.errors import InputError
from halcyon.systems import structures as systems
from halcyon.teacher import comparison, gaff2
from halcyon.teacher.forcefield import Teacher, make_teacher

WATER = "O"
WATER_AND_IONS = Path("amber14/tip3p.xml")
"""OpenMM's file with TIP3P water, flexible here, and some thirty monatomic ions."""
COMBUSTION = Path("config/forcefields/hydrogen-combustion.xml")
TEMPLATES = Path("config/forcefields")
UNKNOWN = "it could not be compared with GFN2-xTB"


def teacher_for(
    wish: Wish, parts: list[Part]
) -> tuple[ForceFieldSettings, str, dict[Path, str], list[str]]:
    """The first force field that covers every molecule, the reason, files made for it, and notes.

    Raises:
        InputError: none does.
    """
    if wish.forcefield:
        given = _xml(*wish.forcefield)
        for part in parts:
            _build(given, part)
        return given, "yours", {}, []
    if wish.kind == "reactive" and not _refusals(_xml(COMBUSTION), parts):
        return _xml(COMBUSTION), "Morse bonds, which may be pulled apart", {}, []
    typed = Gaff2ForceField(kind="gaff2")
    refused = _refusals(typed, parts)
    wet = wish.kind == "liquid" and any(_is_water(part) for part in parts)
    if not refused and not wet:
        why = "the teacher's: AmberTools types the molecules for GAFF2"
        return typed, why, {}, _badly_typed(parts)
    foreign = _refusals(_xml(WATER_AND_IONS), parts)
    if not foreign:
        return _xml(WATER_AND_IONS), "the teacher's: water and ions, comes with OpenMM", {}, []
    if hopeless := refused.keys() & foreign.keys():
        reasons = "\n".join(refused[name] for name in sorted(hopeless))
        return _computed(parts, reasons)
    made = {
        TEMPLATES / f"{wish.name}-{part.name}.xml": gaff2.gaff2_xml(part.molecule, name=part.name)
        for part in parts
        if part.name in foreign
    }
    why = "the teacher's: GAFF2 templates, made for it, beside OpenMM's water and ions"
    notes = _badly_typed([part for part in parts if part.name in foreign])
    return _xml(*made, WATER_AND_IONS), why, made, notes


def _badly_typed(parts: list[Part]) -> list[str]:
    """A note for each molecule whose minimum with GAFF2 is not that of GFN2-xTB."""
    notes = []
    for part in parts:
        fault = _unlike_gfn2(Gaff2ForceField(kind="gaff2"), part)
        if fault not in {"", UNKNOWN}:
            notes.append(
                f"GAFF2 types {part.name} badly: at its minimum {fault}, by GFN2-xTB. The teacher "
                "would teach that shape: set `forcefield: {kind: gfnff}` (slower, all elements) or "
                "your own parameters (`kind: forcefield_xml`), or see that labels mend it"
            )
    return notes


def _unlike_gfn2(settings: ForceFieldSettings, part: Part) -> str:
    """How the minimum of a molecule differs from that of GFN2-xTB.

    Returns:
        What differs too much; empty: nothing; `UNKNOWN`: it was not compared.
    """
    if not 1 < len(part.atoms) <= comparison.MOST_ATOMS:
        return UNKNOWN
    teacher = _teacher(settings, part)
    if not teacher.bonds:
        return UNKNOWN
    try:
        return comparison.compare(teacher, part.atoms).fault
    except Exception:  # noqa: BLE001 - a comparison that fails is none; programs may raise anything
        return UNKNOWN


def _computed(
    parts: list[Part], reasons: str
) -> tuple[ForceFieldSettings, str, dict[Path, str], list[str]]:
    """GFN-FF as the teacher, or GFN1-xTB; see `teacher_for`.

    GFN-FF is taken where each molecule's minimum is that of GFN2-xTB, which clusters of metals'
    are not; large molecules are not compared.

    Args:
        parts: all molecules.
        reasons: why the force fields do not cover them.
    """
    reason = reasons.partition(gaff2.ALTERNATIVES)[0].partition(". Give the molecule")[0]
    reason = reason.strip().removesuffix(".")
    fast = GfnffForceField(kind="gfnff")
    unfit = list(_refusals(fast, parts).values())
    if not unfit:
        small = [part for part in parts if 1 < len(part.atoms) <= comparison.MOST_ATOMS]
        faults = {part.name: _unlike_gfn2(fast, part) for part in small}
        unfit = [f"{name}: {fault}" for name, fault in faults.items() if fault]
    if not unfit:
        note = (
            "GAFF2 does not cover it, so GFN-FF is the teacher"
            f"{'; its minimum is that of GFN2-xTB' if small else ''}. A step takes half a "
            f"millisecond or more instead of microseconds ({reason})"
        )
        why = "the teacher's: GFN-FF, since GAFF2 does not cover these atoms"
        return fast, why, {}, [note]
    settings = XtbForceField(kind="xtb")
    if refused := _refusals(settings, parts):
        lines = "\n".join(refused[name] for name in sorted(refused))
        raise InputError(
            f"{reasons}\n{lines}\nNo teacher covers it. If you have an OpenMM XML with templates "
            "for all molecules: halcyon new-system … --forcefield my.xml; or write "
            "`forcefield: {kind: ase, calculator: …}` into a system's file (docs/add-a-system.md)"
        )
    note = (
        f"no force field covers it, so {settings.method} is the teacher, which takes milliseconds "
        f"a step instead of microseconds (GAFF2: {reason}; GFN-FF: {unfit[0]})"
    )
    why = f"the teacher's: {settings.method}, by tblite, since no force field fits these atoms"
    return settings, why, {}, [note]


def _xml(*paths: Path) -> XmlForceField:
    return XmlForceField(kind="forcefield_xml", files=list(paths))


def _build(settings: ForceFieldSettings, part: Part) -> None:
    """Build the force field of a molecule; refuse it if it has another charge.

    Templates are chosen by elements and bonds, so that the template of Fe²⁺ also fits Fe³⁺.
    """
    teacher = _teacher(settings, part)
    if not teacher.has_charge(part.settings.charge):
        named = ", ".join(map(str, settings.paths)) or settings.kind
        raise InputError(
            f"structure {part.name}: forcefield: {named}: its charges add up to "
            f"{teacher.charge_e:.2f} e, expected {part.settings.charge}"
        )


def _teacher(settings: ForceFieldSettings, part: Part) -> Teacher:
    return make_teacher(
        settings,
        part.atoms,
        systems.bonds(part.settings, part.atoms),
        molecules=lambda: {part.name: [part.molecule]},
    )


def _refusals(settings: ForceFieldSettings, parts: list[Part]) -> dict[str, str]:
    """By name of the molecules that a force field does not cover: the reason."""
    reasons = {}
    for part in parts:
        if part.without_orders and isinstance(settings, Gaff2ForceField):
            reasons[part.name] = part.without_orders
            continue
        try:
            _build(settings, part)
        except InputError as error:
            reasons[part.name] = str(error)
    return reasons


def _is_water(part: Part) -> bool:
    return Chem.MolToSmiles(Chem.RemoveHs(part.molecule)) == WATER


def forcefield_lines(settings: ForceFieldSettings, why: str) -> list[str]:
    """Lines of a teacher's section, with the reason for it."""
    lines = [f"forcefield: # {why}", f"  kind: {settings.kind}"]
    if isinstance(settings, AseForceField):
        lines.append(f"  calculator: {settings.calculator}")
    if isinstance(settings, XmlForceField):
        lines.append(f"  files: [{', '.join(plain(str(path)) for path in settings.files)}]")
    return lines
