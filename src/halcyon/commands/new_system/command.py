"""`halcyon new-system`: from SMILES to a system's file that runs.

Nothing is written before all of it was checked as a campaign checks it; no file is written over
without `--force`.

Not for: what is chosen, and why (`proposal`).
"""

import argparse
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halcyon.commands.terminal import Commands, console, tell
from halcyon.config.faults import NAME
from halcyon.errors import InputError

if TYPE_CHECKING:
    from halcyon.campaign.campaign import Campaign, SystemPlan
    from halcyon.commands.new_system.proposal import Proposal
    from halcyon.commands.new_system.wish import Partner, Wish

SYSTEMS = Path("config/systems")
CAMPAIGNS = Path("config")
LEVEL = Path("config/cp2k/pbe-d3-dzvp.yaml")
ROWS = 30
"""Atoms shown of a molecule."""
EXAMPLES = """\
examples:
  halcyon new-system "CC(=O)O" --name acetic_acid --campaign xtb --cost
  halcyon new-system "CCO" --name liquid_ethanol --liquid 32 --density 0.785
  halcyon new-system "CO" --name wet_methanol --liquid 24 --with O:8
  halcyon new-system "[Na+]" --name sodium --in-water 32
  halcyon new-system "[H][H]" --name burning --reactive 4 --with O=O:2 --density 0.25 \\
      --may-form O --may-form "[OH]"
  halcyon new-system "CC(=O)[O-]" --name acetate --level config/cp2k/pbe-d3-dzvp.yaml

Exit codes: 0 written, 1 written but its campaign cannot run here yet, 2 bad input: nothing written.
"""


def register(groups: Commands) -> None:
    """Add `halcyon new-system`."""
    command = groups.add_parser(
        "new-system",
        help="write the file of a new molecule, liquid or mixture",
        description="Write config/systems/NAME.yaml with sensible choices, checked as a campaign "
        "checks it, and draw the molecules.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("source", metavar="SMILES", help="the molecule; or a structure file that ASE reads")
    add("--name", required=True, type=_name, help="of the system, and of its file")
    add("--liquid", type=_count, metavar="N", help="a periodic box of N of them")
    add("--in-water", type=_count, metavar="N", help="one of them in a box with N waters")
    add("--reactive", type=_count, metavar="N", help="a box with N of them; bonds may break")
    add(
        "--with",
        dest="partners",
        action="append",
        default=[],
        type=_partner,
        metavar="SMILES:N[:NAME]",
        help="N of another molecule in the box; may be repeated",
    )
    add(
        "--may-form",
        dest="species",
        action="append",
        default=[],
        type=_species,
        metavar="SMILES[:NAME]",
        help="reactive: a species that may form, so that it is pre-trained on; may be repeated",
    )
    add("--box", type=_positive, metavar="Å", help="edge of the box (default: chosen)")
    add("--density", type=_positive, metavar="G/CM3", help="of a liquid (default: estimated)")
    add("--charge", type=int, metavar="E", help="of a structure file; SMILES say it themselves")
    add("--multiplicity", type=_count, metavar="2S+1", help="(default: from unpaired electrons)")
    add(
        "--forcefield",
        action="append",
        default=[],
        type=Path,
        metavar="XML",
        help="your own OpenMM force field, or OpenMM's; may be repeated (default: chosen)",
    )
    add(
        "--campaign",
        choices=("xtb", "cp2k"),
        help="write config/NAME.yaml, too: a campaign with labels from there",
    )
    add("--level", type=Path, help=f"CP2K's level of theory; implies cp2k (default {LEVEL})")
    add(
        "--cost",
        action="store_true",
        help="measure, by tiny jobs, what the campaign will cost, as `halcyon plan` does: minutes",
    )
    add("--force", action="store_true", help="write over files that are there")
    command.set_defaults(run=_new_system)


def _name(word: str) -> str:
    if not re.fullmatch(NAME.strip("^$"), word):
        raise argparse.ArgumentTypeError(f"{word!r}: expected letters, digits, _ and -")
    return word


def _count(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r}: expected a number of 1 or more")
    return int(word)


def _positive(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{word!r}: expected a number above 0")
    return value


def _partner(word: str) -> "Partner":
    from halcyon.commands.new_system.wish import Partner

    # SMILES may have colons of their own: what counts is read from the end.
    found = re.fullmatch(rf"(.+?):([1-9]\d*)(?::({NAME.strip('^$')}))?", word)
    if not found:
        raise argparse.ArgumentTypeError(f"{word!r}: expected SMILES:N or SMILES:N:NAME")
    return Partner(found[1], int(found[2]), found[3] or "")


def _species(word: str) -> "Partner":
    from halcyon.commands.new_system.wish import Partner

    smiles, _, name = word.rpartition(":")
    if smiles and re.fullmatch(NAME, name) and "]" not in name:
        return Partner(smiles, 0, name)
    return Partner(word, 0)


def _new_system(arguments: argparse.Namespace) -> int:
    from halcyon import files
    from halcyon.commands.new_system.proposal import campaign_text, propose
    from halcyon.systems import drawing

    name = arguments.name
    level = arguments.level or (LEVEL if arguments.campaign == "cp2k" else None)
    proposal = propose(_wish(arguments))
    system_file, drawing_file = SYSTEMS / f"{name}.yaml", SYSTEMS / f"{name}.svg"
    campaign_file = CAMPAIGNS / f"{name}.yaml"
    written = {
        system_file: proposal.text,
        drawing_file: drawing.svg({part.name: part.molecule for part in proposal.parts}),
        **proposal.files,
    }
    if arguments.campaign or arguments.level:
        written[campaign_file] = campaign_text(name, level)
    if not arguments.force and (there := [str(path) for path in written if path.exists()]):
        raise InputError(f"{', '.join(there)}: exists already; another --name, or --force")
    plan = _checked(proposal, name).systems[name]
    for path, text in written.items():
        files.write_text(path, text)
    _show(proposal, plan, written)
    if campaign_file not in written:
        console().print(
            f"next: put {name} under `systems` in a campaign's file (--campaign xtb writes one)",
            markup=False,
        )
        return 0
    return _look_at(campaign_file, cost=arguments.cost)


def _wish(arguments: argparse.Namespace) -> "Wish":
    """What the options ask for together."""
    from halcyon.commands.new_system.wish import Partner, Wish

    boxes = {
        "--liquid": arguments.liquid,
        "--in-water": arguments.in_water,
        "--reactive": arguments.reactive,
    }
    asked = [option for option, value in boxes.items() if value is not None]
    if len(asked) > 1:
        raise InputError(f"{' and '.join(asked)}: expected one of them")
    partners = list(arguments.partners)
    if not asked:
        for option, value in (("--with", partners), ("--density", arguments.density)):
            if value:
                raise InputError(f"{option}: only with --liquid, --in-water or --reactive")
    if arguments.species and not arguments.reactive:
        raise InputError("--may-form: only with --reactive; otherwise no bond breaks")
    if arguments.box and arguments.density:
        raise InputError("--box and --density both say how large the box is; give one")
    if arguments.cost and not (arguments.campaign or arguments.level):
        raise InputError("--cost: of which campaign? Give --campaign")
    if arguments.campaign == "xtb" and arguments.level:
        raise InputError("--level is CP2K's level of theory: expected --campaign cp2k, not xtb")
    if arguments.in_water:
        partners.append(Partner("O", arguments.in_water))
    return Wish(
        name=arguments.name,
        source=arguments.source,
        kind="reactive" if arguments.reactive else "liquid" if asked else "molecule",
        count=arguments.liquid or arguments.reactive or 1,
        partners=partners + arguments.species,
        box_A=arguments.box,
        density_g_per_cm3=arguments.density,
        charge=arguments.charge,
        multiplicity=arguments.multiplicity,
        forcefield=arguments.forcefield,
    )


def _checked(proposal: "Proposal", name: str) -> "Campaign":
    """See, before anything is written, that a campaign would begin with the system.

    Raises:
        InputError: it would not.
    """
    from halcyon import config, files
    from halcyon.campaign.checks import begin

    with tempfile.TemporaryDirectory(prefix="halcyon-new-system-") as folder:
        text = proposal.text
        places: dict[str, str] = {}
        for made, xml in proposal.files.items():
            places[str(made)] = str(Path(folder, made.name))
            files.write_text(places[str(made)], xml)
            text = text.replace(str(made), places[str(made)])
        places[str(SYSTEMS)] = folder
        path = Path(folder, f"{name}.yaml")
        files.write_text(path, text)
        content: dict[str, Any] = {
            "campaign": name,
            "systems": [name],
            "reference": {"backend": "xtb"},
            "systems_folder": folder,
            # What a campaign of that name did before is not the question here.
            "results": str(Path(folder, "results")),
            "label_store": str(Path(folder, "labels")),
        }
        try:
            config.read_system(path)
            return begin(content, str(path), dry=True)
        except InputError as error:
            message = str(error)
            for final, temporary in places.items():
                message = message.replace(temporary, final)
            raise InputError(message) from None


def _show(proposal: "Proposal", plan: "SystemPlan", written: dict[Path, str]) -> None:
    """Molecules with their atoms' classes, files, and what to know."""
    from rich.table import Table

    from halcyon.systems import drawing

    out = console()
    for part in proposal.parts:
        table = Table(title=part.name, title_justify="left", title_style="bold")
        for heading in ("atom", "element", "class", "bonded to"):
            table.add_column(heading, justify="right" if heading == "atom" else "left")
        if len(part.atoms) > 1:
            out.print(drawing.text(part.molecule), markup=False, soft_wrap=True)
        classes = plan.classes(part.name)
        for atom in list(part.molecule.GetAtoms())[:ROWS]:
            near = [f"{n.GetSymbol()}{n.GetIdx()}" for n in atom.GetNeighbors()]
            index = atom.GetIdx()
            table.add_row(str(index), atom.GetSymbol(), classes[index], " ".join(near))
        if len(part.atoms) > ROWS:
            table.caption = f"and {len(part.atoms) - ROWS} atoms more"
        out.print(table)
    for note in proposal.notes:
        out.print(f"note: {note}", style="yellow", markup=False)
    for path in written:
        out.print(f"→ {path}", markup=False)


def _look_at(path: Path, *, cost: bool) -> int:
    """Say how to run the campaign and what it will cost, or why it cannot run here yet."""
    from halcyon import config
    from halcyon.campaign.checks import begin
    from halcyon.commands.plan.command import show_plan

    content: dict[str, Any] = config.read_yaml(path)
    try:
        begin(content, str(path), dry=True)
    except InputError as error:
        tell(f"{path} was written, and cannot run here yet: {error}")
        return 1
    if cost:
        try:
            show_plan(path)
        except InputError as error:
            tell(f"error {error}")
    else:
        console().print(f"what it will cost: halcyon plan --configfile {path}", markup=False)
    console().print(f"next: snakemake --configfile {path}", markup=False)
    return 0
