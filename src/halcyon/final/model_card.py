"""The model card in words: README.md of the folder `final/`.

Not for: the numbers (`product`), which also stand in `card.json`.
"""

from collections.abc import Mapping
from typing import Any

from halcyon.wording import significant as plain

CITE = """\
- MACE: I. Batatia, D. P. Kovács, G. N. C. Simm, C. Ortner, G. Csányi, Adv. Neural Inf. Process.
  Syst. 35, 11423 (2022).
- The CLI: B. K. Isamura, P. L. A. Popelier, "Cumulative latent instability (CLI) analysis of
  data-driven molecular dynamics simulations", abstract. What was computed is Halcyon's
  operationalisation of it.
- Pre-training on a force field: E. C.-Y. Yuan, T. Head-Gordon, arXiv:2509.14205.
- The program and the basis of the level of theory above, as these ask for it."""


def markdown(card: Mapping[str, Any]) -> str:
    """The card as a page.

    Args:
        card: content of `card.json`.
    """
    return "\n".join(
        [
            f"# {card['campaign']} / {card['system']}: a MACE model",
            "",
            _verdict(card),
            "",
            "## What it learned",
            "",
            _learned(card),
            "",
            "## Errors",
            "",
            _errors(card["errors"]),
            "",
            "## Use",
            "",
            _use(card),
            "",
            "## What it is not good for",
            "",
            *(f"- {line}" for line in card["limits"]),
            "",
            "## Cite",
            "",
            CITE,
            "",
        ]
    )


def _verdict(card: Mapping[str, Any]) -> str:
    verdict, certificate = card["verdict"], card["certificate"]
    said = f"**Campaign: {verdict['decision']}** ({verdict['reason']})."
    if certificate is None:
        return f"{said} **No certificate**: {card['no_certificate']}."
    return (
        f"{said}\n\n**Certificate.** {certificate['sentence']}\n\n"
        "Check it: `halcyon verify certificate.json`."
    )


def _learned(card: Mapping[str, Any]) -> str:
    model, data = card["model"], card["data"]
    structures = ", ".join(
        f"{s['name']} ({s['formula']}, charge {s['charge']}, multiplicity {s['multiplicity']})"
        for s in card["structures"]
    )
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            f"| model | {model['description']} |",
            f"| structures | {structures}; kind: {card['kind']} |",
            f"| level of theory | {card['level_of_theory']['words']} "
            f"(`{card['level_of_theory']['hash']}`) |",
            f"| labels | {data['train']} to learn, {data['validation']} to choose weights and "
            f"calibrate the domain, {data['test']} to test |",
            f"| start | {card['start']} |",
            f"| domain | {card['domain']['words']} |",
            f"| made by | Halcyon {card['halcyon']}, generation {verdict_generation(card)} |",
        ]
    )


def verdict_generation(card: Mapping[str, Any]) -> int:
    """Generation that the model is of."""
    return int(card["verdict"]["generation"])


def _errors(errors: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        "| set | frames | force MAE, meV/Å | RMSE | energy MAE, meV/atom | RMSE |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in errors.items():
        numbers = (
            of[key]
            for key in (
                "forces_mae_meV_per_A",
                "forces_rmse_meV_per_A",
                "energy_mae_meV_per_atom",
                "energy_rmse_meV_per_atom",
            )
        )
        cells = " | ".join(f"{value:.3g}" for value in numbers)
        rows.append(f"| {name} | {plain(of['frames'])} | {cells} |")
    rows += [
        "",
        "The test set was drawn once, before the first training, and used for nothing else.",
    ]
    return "\n".join(rows)


def _use(card: Mapping[str, Any]) -> str:
    structure = card["structures"][0]
    elements = " ".join(card["model"]["elements"])
    kelvin, lammps = f"{card['temperatures_K'][0]:g}", card["lammps"]
    return f"""\
ASE, with the monitor on (it counts Λ of every atom and stops a run that drifts out of what the
model knows, or breaks):

```python
from ase import units
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from halcyon.final.monitor.ase import CliMonitor, MonitoredMace

atoms = read("{structure["file"]}")
atoms.calc = MonitoredMace(".")
thermalize_momenta(atoms, temperature_K={kelvin})
dynamics = Langevin(atoms, {card["timestep_fs"]:g} * units.fs, temperature_K={kelvin},
                    friction=0.005 / units.fs, fixcm=False)
monitor = CliMonitor(atoms, dynamics)
dynamics.run(2000)
```

`model.model` is an ordinary MACE model (`mace.calculators.MACECalculator("model.model")`). Like
every MACE model it is a pickle: open it only if you trust where it comes from.

LAMMPS, built with `pair_style mace` ([MACE's documentation](https://mace-docs.readthedocs.io)), in
`units metal`, atom types in this order; without the monitor:

```
pair_style mace no_domain_decomposition
pair_coeff * * model-lammps.pt {elements}
```

The export was called as LAMMPS calls it: on {lammps["frames"]} labelled frames it differs from the
model by {lammps["largest_difference"]:.1g} eV/atom or eV/Å at most, in double precision."""
