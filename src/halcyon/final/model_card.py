"""The model card in words: README.md of the folder `final/`.

    from pathlib import Path
    from halcyon.final.card import Card
    from halcyon.final.model_card import markdown

    print(markdown(Card.read(Path("results/quickstart/ethanol/final/card.json"))))

Not for: the card in numbers, `card.json` (`card`).
"""

from collections.abc import Mapping

from halcyon.final.card import Card, Structure
from halcyon.models.metrics import SetErrors
from halcyon.wording import significant

CITE = """\
- MACE: I. Batatia, D. P. Kovács, G. N. C. Simm, C. Ortner, G. Csányi, Adv. Neural Inf. Process.
  Syst. 35, 11423 (2022).
- The CLI: B. K. Isamura, P. L. A. Popelier, "Cumulative latent instability (CLI) analysis of
  data-driven molecular dynamics simulations", abstract. What was computed is Halcyon's own
  version of the idea.
- Pre-training on a force field: E. C.-Y. Yuan, T. Head-Gordon, arXiv:2509.14205.
- The program and the basis set of the level of theory above, as their authors ask."""


def markdown(card: Card) -> str:
    """The card as a page in Markdown."""
    return "\n".join(
        [
            f"# {card.campaign} / {card.system}: a MACE model",
            "",
            _verdict(card),
            "",
            "## What it learned",
            "",
            _learned(card),
            "",
            "## Errors",
            "",
            _errors(card.errors),
            "",
            "## Use",
            "",
            _use(card),
            "",
            "## What it is not good for",
            "",
            *(f"- {line}" for line in [*card.limits, *card.caveats]),
            "",
            "## Cite",
            "",
            CITE,
            "",
        ]
    )


def _verdict(card: Card) -> str:
    campaign = f"**Campaign: {card.verdict.decision}** ({card.verdict.reason})."
    if card.certificate is None:
        return f"{campaign} **No certificate**: {card.no_certificate}."
    return (
        f"{campaign}\n\n**Certificate.** {card.certificate.sentence}\n\n"
        "Check it: `halcyon verify certificate.json`."
    )


def _held(structure: Structure) -> str:
    """Which atoms were held."""
    if not structure.fixed_atoms:
        return ""
    numbers = ", ".join(map(str, structure.fixed_atoms))
    return f"; atoms that no dynamics moved, and that yours should not: {numbers}"


def _learned(card: Card) -> str:
    data, level = card.data, card.level_of_theory
    structures = ", ".join(
        f"{s.name} ({s.formula}, charge {s.charge}, multiplicity {s.multiplicity}{_held(s)})"
        for s in card.structures
    )
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            f"| model | {card.model.description} |",
            f"| structures | {structures}; kind of system: {card.kind} |",
            f"| level of theory | {level.words} (`{level.hash}`) |",
            f"| labels | {data['train']} to learn, {data['validation']} to choose weights and "
            f"calibrate the domain, {data['test']} to test |",
            f"| start | {card.start} |",
            f"| domain | {card.domain.words} |",
            f"| made by | Halcyon {card.halcyon}, generation {card.verdict.generation} |",
        ]
    )


def _errors(errors: Mapping[str, SetErrors]) -> str:
    rows = [
        "| set | frames | force MAE, meV/Å | force RMSE, meV/Å | energy MAE, meV/atom "
        "| energy RMSE, meV/atom |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in errors.items():
        numbers = (
            of.forces_mae_meV_per_A,
            of.forces_rmse_meV_per_A,
            of.energy_mae_meV_per_atom,
            of.energy_rmse_meV_per_atom,
        )
        cells = " | ".join(f"{value:.3g}" for value in numbers)
        rows.append(f"| {name} | {significant(of.frames)} | {cells} |")
    rows += [
        "",
        "The test set was drawn once, before the first training, and used for nothing else.",
    ]
    return "\n".join(rows)


def _use(card: Card) -> str:
    elements = " ".join(card.model.elements)
    kelvin, lammps = f"{card.temperatures_K[0]:g}", card.lammps
    return f"""\
In ASE, with the monitor on. It accumulates Λ of every atom, and stops the run when too many
predictions are outside the model's training domain, or when the structure breaks:

```python
from ase import units
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from halcyon.final.monitor.ase import CliMonitor, MonitoredMace

atoms = read("{card.structures[0].file}")
atoms.calc = MonitoredMace(".")
thermalize_momenta(atoms, temperature_K={kelvin})
dynamics = Langevin(atoms, {card.timestep_fs:g} * units.fs, temperature_K={kelvin},
                    friction=0.005 / units.fs, fixcm=False)
monitor = CliMonitor(atoms, dynamics)
dynamics.run(2000)
```

`model.model` is an ordinary MACE model (`mace.calculators.MACECalculator("model.model")`). Like
every MACE model it is a pickle: open it only if you trust where it comes from.

In LAMMPS with the monitor, on one process: `halcyon.final.monitor.lammps` (docs/production.md).
On several processes without it. LAMMPS must be built with `pair_style mace` ([MACE's
documentation](https://mace-docs.readthedocs.io)); use `units metal`, a time
step in ps, and atom types in this order, which LAMMPS does not check:

```
pair_style mace no_domain_decomposition
pair_coeff * * model-lammps.pt {elements}
```

The export was called as LAMMPS calls it. On {lammps.frames} labelled frames it differs from the
model by at most {lammps.largest_difference:.1g} eV/atom or eV/Å, in double precision."""
