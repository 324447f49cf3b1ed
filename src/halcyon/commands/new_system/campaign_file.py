"""The file of a campaign for a new system.

    from halcyon.commands.new_system.campaign_file import campaign_text

    print(campaign_text("acetic_acid", "xtb", n_atoms=8, device="cpu"))

Not for: the system's own file (see `proposal`), or writing it (see `command`).
"""

import json
from pathlib import Path

import yaml

from halcyon.config import Campaign, XtbReference
from halcyon.config.presets import recommended

LEVELS = {
    "cp2k": Path("config/cp2k/pbe-d3-dzvp.yaml"),
    "pyscf": Path("config/pyscf/pbe-d3bj-def2-svp.yaml"),
}
"""The level of theory of a backend for which no other is given."""
LEVEL_OF_CRYSTALS = Path("config/cp2k/pbe-solid.yaml")
"""CP2K's for a crystal or a slab."""
LEVEL_OF_METALS = Path("config/cp2k/pbe-metal.yaml")
"""CP2K's where electrons should be smeared."""
ABOUT = {"xtb": "GFN2-xTB", "cp2k": "CP2K", "pyscf": "PySCF"}
REACTIVE_FRAMES, REACTIVE_LABELS = 100, 2000
"""Frames of a generation and labels of a campaign where bonds break and labels are for trying out:
many kinds of fragments are met, and a generation takes longer than its labels."""
REACTIVE_WHY = "many fragments are met, and these labels are cheap; the default is 20"
TRIAL_PS = 50.0
"""Time of the certificate's runs, ps, where labels are for trying out."""


def campaign_text(
    name: str,
    backend: str,
    *,
    level: Path | None = None,
    n_atoms: int,
    device: str,
    open_shell: bool = False,
    reactive_K: float | None = None,
    k_spacing_per_A: float | None = None,
) -> str:
    """Content of a campaign's file for one system.

    Args:
        name: of the system and of the campaign.
        backend: which labels: a key of `ABOUT`.
        level: file with the level of theory; None: the shipped one, where the backend has one.
        n_atoms: of its largest explored structure.
        device: where models will run, "cpu" or "cuda".
        open_shell: whether a structure has unpaired electrons.
        reactive_K: temperature at which bonds may break, K; None: they hold.
        k_spacing_per_A: of a crystal: distance of k-points with CP2K, 1/Å.
    """
    trial = backend == "xtb"
    many = trial and reactive_K is not None
    preset, why = recommended(n_atoms, device=device, trial=trial)
    default = Campaign(campaign=name, systems=[name], reference=XtbReference(backend="xtb"))
    limits, default_ps = default.limits, default.certificate.time_ps
    time_ps = f"{default_ps:g} # per replica"
    if trial:
        time_ps = f"{TRIAL_PS:g} # per replica; {default_ps:g} for a model that is to be used"
    return "\n".join(
        [
            "# yaml-language-server: $schema=schema/campaign.schema.json",
            f"# {name}, labelled by {ABOUT[backend]}. Written by `halcyon new-system`.",
            "# What is left out has its default: config/config.yaml has them all.",
            f"campaign: {plain(name)} # results lie in results/{name}",
            f"systems: [{plain(name)}] # config/systems/{name}.yaml",
            "reference: # where labels come from",
            *_reference_lines(
                backend, level or LEVELS.get(backend), open_shell=open_shell, reactive_K=reactive_K
            ),
            *_k_points(backend, k_spacing_per_A),
            f"model: # {why}",
            f"  preset: {preset} # quick, standard or large: docs/model-size.md",
            "limits: # what it may cost; a limit can be raised later, and the campaign goes on",
            f"  max_generations: {limits.max_generations}",
            f"  label_budget: {REACTIVE_LABELS if many else limits.label_budget}",
            *([f"selection: {{frames: {REACTIVE_FRAMES}}} # {REACTIVE_WHY}"] if many else []),
            "certificate: # long runs with the final model, and by far the longest job",
            f"  time_ps: {time_ps}",
            "",
        ]
    )


def _reference_lines(
    backend: str, level: Path | None, *, open_shell: bool, reactive_K: float | None
) -> list[str]:
    if backend == "xtb":
        lines = ["  backend: xtb # milliseconds a frame, for trying out"]
        if open_shell:
            lines.append("  spin_polarized: true # electrons are unpaired")
        if reactive_K is not None:
            lines.append(
                f"  electronic_temperature_K: {reactive_K:g} # that of the dynamics; at 300 K, "
                "frames with broken bonds would often get no label"
            )
        return lines
    file = quoted(str(level))
    if backend == "pyscf":
        return [
            "  backend: pyscf # DFT of molecules, in pip's package",
            f"  level: {file} # functional and basis set: docs/levels-of-theory.md",
        ]
    return [
        "  backend: cp2k",
        f"  level: {file} # level of theory: CP2K input without the structure",
        "  command: cp2k.psmp # or e.g. `srun -n 4 cp2k.psmp`",
    ]


def _k_points(backend: str, k_spacing_per_A: float | None) -> list[str]:
    if backend != "cp2k" or k_spacing_per_A is None:
        return []
    return [f"  k_spacing_per_A: {k_spacing_per_A:g} # converge it first"]


def plain(value: str) -> str:
    """A text as YAML, in quotes if YAML would misread it, as it reads NO for false."""
    simple = value.replace("/", "").replace(".", "").replace("_", "").replace("-", "").isalnum()
    return value if simple and yaml.safe_load(value) == value else quoted(value)


def quoted(value: str) -> str:
    """A text as YAML, in quotes."""
    return json.dumps(value, ensure_ascii=False)
