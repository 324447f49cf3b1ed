"""Where everything on the page comes from: hashes, versions, sources.

Not for: the evidence that a model is stable (`final.certificate`).
"""

import importlib.metadata
import platform

import halcyon
from halcyon import config
from halcyon.config.model_size import in_words
from halcyon.report import SystemReport
from halcyon.wording import listed

PACKAGES = (
    "mace-torch",
    "torch",
    "torch-sim-atomistic",
    "openmm",
    "tblite",
    "pyscf",
    "rdkit",
    "ase",
    "numpy",
    "scipy",
    "snakemake",
    "plotly",
)


def _forcefield(
    settings: config.ForceFieldSettings, pretraining: config.PretrainingSettings
) -> str:
    """Type, files and charges of the teacher's force field, and properties beside its labels."""
    parts = [settings.kind, *(str(path) for path in settings.paths)]
    if isinstance(settings, config.Gaff2ForceField):
        parts.append(f"charges {settings.charges}")
    if pretraining.atomic:
        names = listed(pretraining.atomic).replace("_", " ")
        parts.append(f"with atomic {names} by {pretraining.atomic_method}")
    return ", ".join(parts)


def _size(settings: config.Settings) -> str:
    """Size of the model, by its preset or in numbers."""
    start = settings.pretraining.start
    return in_words(settings) if start is None else f"that of {start}"


def _source(structure: config.StructureSettings) -> str:
    """What a structure is made from."""
    packed = " + ".join(f"{count} {name}" for name, count in structure.pack.items())
    return str(structure.smiles or structure.file or packed)


def provenance(report: SystemReport) -> dict[str, str]:
    """Hashes, sources, seed and versions."""
    level = [
        f"{k} {v}"
        for k, v in report.level.items()
        if k != "hash" and isinstance(v, str | int | float)
    ]
    return {
        "Level of theory": "; ".join([*level, f"hash {report.level['hash'] or 'unknown'}"]),
        "Model": f"{report.model}, SHA-256 {report.model_hash or 'unknown: the file is missing'}",
        "Size of the model": _size(report.plan.settings),
        "Earlier models, SHA-256": "; ".join(
            f"generation {g.number}: {g.model_hash or 'the file is missing'}"
            for g in report.generations[:-1]
        )
        or "none",
        "Force field": _forcefield(report.plan.system.forcefield, report.plan.settings.pretraining),
        "Structures": "; ".join(
            f"{s.name}: {_source(s)}, charge {s.charge:+d} e, multiplicity {s.multiplicity}"
            + ("" if s.label else ", pre-trained on, but not labelled")
            for s in report.plan.system.structures
        ),
        "Seed": str(report.seed),
        "Versions where this page was made": ", ".join(
            [
                f"Halcyon {halcyon.__version__}",
                f"Python {platform.python_version()}",
                *(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
            ]
        ),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
