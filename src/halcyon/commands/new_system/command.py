"""`halcyon new-system`: writes a system's file from SMILES or a structure file.

Files are written only after they passed the checks that a campaign makes at its start. An existing
file is written over only with `--force`.

Not for: what is chosen, and why (`proposal`).
"""

import argparse
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halcyon.commands.new_system.campaign_file import (
    ABOUT,
    LEVEL_OF_CRYSTALS,
    LEVEL_OF_METALS,
    LEVELS,
    campaign_text,
)
from halcyon.commands.terminal import Commands, console, tell
from halcyon.config.faults import NAME
from halcyon.errors import InputError

if TYPE_CHECKING:
    from halcyon.campaign.campaign import Campaign, SystemPlan
    from halcyon.commands.new_system.proposal import Proposal
    from halcyon.commands.new_system.wish import Partner, Wish

SYSTEMS = Path("config/systems")
CAMPAIGNS = Path("config")
ROWS = 30
"""At most so many atoms of a molecule are listed."""
EXAMPLES = """\
examples:
  halcyon new-system "CC(=O)O" --name acetic_acid --campaign xtb --cost
  halcyon new-system "C1CCOC1" --name thf --campaign pyscf
  halcyon new-system "CCO" --name liquid_ethanol --liquid 32 --density 0.785
  halcyon new-system "CO" --name wet_methanol --liquid 24 --with O:8
  halcyon new-system "[Na+]" --name sodium --in-water 32
  halcyon new-system "[H][H]" --name burning --reactive 4 --with O=O:2 --density 0.25 \\
      --may-form O --may-form "[OH]"
  halcyon new-system crystal.cif --name salt --campaign xtb
  halcyon new-system "CC(=O)[O-]" --name acetate --level config/cp2k/pbe-d3-dzvp.yaml

Exit codes: 0 written, 1 written but its campaign cannot run here yet, 2 bad input: nothing written.
"""


def register(groups: Commands) -> None:
    """Add `halcyon new-system`."""
    command = groups.add_parser(
        "new-system",
        help="write the file of a new molecule, liquid or mixture",
        description="Write config/systems/NAME.yaml, with a reason beside every choice, and a "
        "drawing of the molecules. Nothing is written unless a campaign could start with it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add(
        "source",
        metavar="SMILES",
        help="the molecule as SMILES, or a structure file that ASE reads: a molecule, or with a "
        "periodic cell (CIF, POSCAR …) a crystal or a slab",
    )
    add("--name", required=True, type=_name, help="name of the system and of its file")
    add("--liquid", type=_count, metavar="N", help="a periodic box with N of the molecule")
    add(
        "--in-water",
        type=_count,
        metavar="N",
        help="one of the molecule in a periodic box with N waters",
    )
    add(
        "--reactive",
        type=_count,
        metavar="N",
        help="a periodic box with N of the molecule, whose bonds may break",
    )
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
        help="with --reactive: a species that may form, and is pre-trained on; may be repeated",
    )
    add(
        "--box",
        type=_positive,
        metavar="Å",
        help="edge of the box (default: from the molecule's size)",
    )
    add(
        "--density",
        type=_positive,
        metavar="G/CM3",
        help="density of a liquid (default: estimated)",
    )
    add(
        "--charge",
        type=int,
        metavar="E",
        help="total charge of a structure file (default 0; SMILES have their own)",
    )
    add(
        "--multiplicity",
        type=_count,
        metavar="2S+1",
        help="spin multiplicity (default: from the unpaired electrons)",
    )
    add(
        "--forcefield",
        action="append",
        default=[],
        type=Path,
        metavar="XML",
        help="OpenMM force field, yours or one of OpenMM's; may be repeated (default: chosen)",
    )
    add(
        "--campaign",
        choices=tuple(ABOUT),
        help="also write config/NAME.yaml, a campaign with labels from xTB, CP2K or PySCF "
        "(molecules only)",
    )
    add(
        "--level",
        type=Path,
        help="file with the level of theory of CP2K (implies --campaign cp2k) or, with --campaign "
        f"pyscf, of PySCF (default: {LEVELS['cp2k']}, of crystals {LEVEL_OF_CRYSTALS}, "
        f"of metals {LEVEL_OF_METALS}; "
        f"{LEVELS['pyscf']})",
    )
    add(
        "--cost",
        action="store_true",
        help="measure what the campaign will cost, as `halcyon plan` does; takes minutes",
    )
    add("--force", action="store_true", help="write over existing files")
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

    # SMILES may contain colons, so that number and name are read from the end.
    parts = re.fullmatch(rf"(.+?):([1-9]\d*)(?::({NAME.strip('^$')}))?", word)
    if not parts:
        raise argparse.ArgumentTypeError(f"{word!r}: expected SMILES:N or SMILES:N:NAME")
    return Partner(parts[1], int(parts[2]), parts[3] or "")


def _species(word: str) -> "Partner":
    from halcyon.commands.new_system.wish import Partner

    smiles, _, name = word.rpartition(":")
    if smiles and re.fullmatch(NAME, name) and "]" not in name:
        return Partner(smiles, 0, name)
    return Partner(word, 0)


def _new_system(arguments: argparse.Namespace) -> int:
    from halcyon import files
    from halcyon.commands.new_system.crystal import is_crystal, propose_crystal
    from halcyon.commands.new_system.proposal import REACTIVE_K, propose
    from halcyon.systems import drawing

    name = arguments.name
    backend = arguments.campaign or ("cp2k" if arguments.level else None)
    crystalline, wish = is_crystal(arguments.source), _wish(arguments)
    if crystalline and backend == "pyscf":
        raise InputError(
            f"{arguments.source} is periodic, and --campaign pyscf labels molecules only: expected "
            "xtb or cp2k"
        )
    crystal_by_cp2k = crystalline and backend == "cp2k"
    proposal = propose_crystal(wish) if crystalline else propose(wish)
    level_of_crystal = LEVEL_OF_METALS if proposal.is_metallic else LEVEL_OF_CRYSTALS
    system_file, drawing_file = SYSTEMS / f"{name}.yaml", SYSTEMS / f"{name}.svg"
    campaign_file = CAMPAIGNS / f"{name}.yaml"
    written = {
        system_file: proposal.text,
        **proposal.files,
    }
    if proposal.parts:
        written[drawing_file] = drawing.svg({p.name: p.molecule for p in proposal.parts})
    if backend:
        written[campaign_file] = ""  # known once the system is checked
    if not arguments.force and (existing := [str(path) for path in written if path.exists()]):
        raise InputError(
            f"{', '.join(existing)}: exists already. Choose another --name, or write over it with "
            "--force"
        )
    # CP2K may be on another machine, and spins are told apart by polarised xTB alone.
    reference: dict[str, Any] = {"backend": "xtb", "spin_polarized": True}
    if backend == "pyscf":
        reference = {"backend": "pyscf", "level": str(arguments.level or LEVELS["pyscf"])}
    plan = _checked(proposal, name, reference).systems[name]
    if backend:
        written[campaign_file] = campaign_text(
            name,
            backend,
            level=arguments.level or (level_of_crystal if crystal_by_cp2k else None),
            n_atoms=max(plan.atoms[structure] for structure in plan.explored),
            device=_device(),
            open_shell=any(
                s.multiplicity > 1 or len(s.multiplicities) > 1 for s in plan.structures.values()
            ),
            reactive_K=REACTIVE_K if wish.kind == "reactive" else None,
            k_spacing_per_A=proposal.k_spacing_per_A,
        )
    for path, text in written.items():
        files.write_text(path, text)
    _show(proposal, plan, written)
    if not backend:
        console().print(
            f"next: put {name} under `systems` in a campaign's file (--campaign xtb writes one)",
            markup=False,
        )
        return 0
    return _look_at(campaign_file, cost=arguments.cost)


def _device() -> str:
    """Where models run on this machine."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _wish(arguments: argparse.Namespace) -> "Wish":
    """The options as a wish.

    Raises:
        InputError: options contradict each other.
    """
    from halcyon.commands.new_system.wish import Partner, Wish

    boxes = {
        "--liquid": arguments.liquid,
        "--in-water": arguments.in_water,
        "--reactive": arguments.reactive,
    }
    given = [option for option, value in boxes.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: expected one of them")
    partners = list(arguments.partners)
    if not given:
        for option, value in (("--with", partners), ("--density", arguments.density)):
            if value:
                raise InputError(f"{option} needs --liquid, --in-water or --reactive")
    _refuse_unfit_campaign(arguments, given)
    if arguments.species and not arguments.reactive:
        raise InputError("--may-form needs --reactive, because otherwise no bond breaks")
    if arguments.box and arguments.density:
        raise InputError("--box and --density both set the size of the box; give one")
    if arguments.in_water:
        partners.append(Partner("O", arguments.in_water))
    return Wish(
        name=arguments.name,
        source=arguments.source,
        kind="reactive" if arguments.reactive else "liquid" if given else "molecule",
        count=arguments.liquid or arguments.reactive or 1,
        partners=partners + arguments.species,
        box_A=arguments.box,
        density_g_per_cm3=arguments.density,
        charge=arguments.charge,
        multiplicity=arguments.multiplicity,
        forcefield=arguments.forcefield,
    )


def _refuse_unfit_campaign(arguments: argparse.Namespace, boxes: list[str]) -> None:
    """Refuse options of the campaign that fit neither each other nor a periodic box."""
    if arguments.cost and not (arguments.campaign or arguments.level):
        raise InputError(f"--cost needs a campaign: give --campaign {', '.join(ABOUT)}")
    if arguments.campaign == "xtb" and arguments.level:
        raise InputError(
            "--level is the level of theory of CP2K or PySCF: expected --campaign cp2k or pyscf, "
            "not xtb"
        )
    if arguments.campaign == "pyscf" and boxes:
        raise InputError(
            f"{boxes[0]} makes a periodic box, and --campaign pyscf labels molecules only: "
            "expected --campaign cp2k or xtb. PySCF could label clusters: `pack` with `periodic: "
            "false` in a system's file of your own (docs/add-a-system.md)"
        )


def _checked(proposal: "Proposal", name: str, reference: dict[str, str]) -> "Campaign":
    """Check that a campaign could start with the system, before any file is written.

    Args:
        proposal: the system's file and what it needs.
        name: of the system.
        reference: the campaign's section of this name.

    Raises:
        InputError: it could not.
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
            "reference": reference,
            "systems_folder": folder,
            # An earlier campaign of that name must not matter: its folder is another one.
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
    """Print the molecules with the classes of their atoms, the notes, and the files."""
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
            table.caption = f"and {len(part.atoms) - ROWS} more atoms"
        out.print(table)
    for note in proposal.notes:
        out.print(f"note: {note}", style="yellow", markup=False)
    for path in written:
        out.print(f"→ {path}", markup=False)


def _look_at(path: Path, *, cost: bool) -> int:
    """Print how to run the campaign and what it will cost, or why it cannot run yet.

    Returns:
        The exit code.
    """
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
