"""What a user may set: declared once, here, with its unit, default and description.

The JSON schema (`config/schema/*.json`), the documented default (`config/config.yaml`) and
the reference page (`docs/configuration.md`) are generated from these models by
`scripts/generate_config_docs.py`; a test keeps them in sync. Units are part of the key's name.

Not for: checks that need more than the configuration itself; see `campaign.checks.begin`.
"""

from pathlib import Path
from typing import Any

import yaml

from halcyon.config.accuracy import AccuracySettings, AuditSettings
from halcyon.config.campaign import Campaign, LimitSettings, SaturationSettings, Settings
from halcyon.config.certificate import CertificateSettings
from halcyon.config.exploration import (
    VARIABLES_AT_MOST,
    BiasSettings,
    CoordinationVariable,
    DistanceVariable,
    DomainSettings,
    ExplorationSettings,
    MetadynamicsBias,
    NoBias,
    RampBias,
    SelectionSettings,
    SignalName,
    TorsionVariable,
    VariableSettings,
)
from halcyon.config.faults import near, validated
from halcyon.config.learning import (
    FitSettings,
    ModelSettings,
    PretrainingSettings,
    TeacherSettings,
    TrainingSettings,
)
from halcyon.config.model_size import chosen
from halcyon.config.presets import PRESETS
from halcyon.config.reference import (
    AseReference,
    Cp2kReference,
    DatasetLayout,
    DatasetReference,
    EnergyUnit,
    EvcReference,
    LengthUnit,
    PyscfReference,
    ReferenceSettings,
    StressUnit,
    XtbReference,
)
from halcyon.config.sanity import SanitySettings
from halcyon.config.section import Count, Name, Section
from halcyon.config.system import (
    AmberForceField,
    AseForceField,
    FixedAtoms,
    ForceFieldSettings,
    Gaff2ForceField,
    GfnffForceField,
    GromacsForceField,
    StructureSettings,
    System,
    XmlForceField,
    XtbForceField,
)
from halcyon.config.yaml_traps import refuse_traps
from halcyon.errors import InputError

__all__ = [
    "VARIABLES_AT_MOST",
    "AccuracySettings",
    "AmberForceField",
    "AseForceField",
    "AseReference",
    "AuditSettings",
    "BiasSettings",
    "Campaign",
    "CertificateSettings",
    "CoordinationVariable",
    "Count",
    "Cp2kReference",
    "DatasetLayout",
    "DatasetReference",
    "DistanceVariable",
    "DomainSettings",
    "EnergyUnit",
    "EvcReference",
    "ExplorationSettings",
    "FitSettings",
    "FixedAtoms",
    "ForceFieldSettings",
    "Gaff2ForceField",
    "GfnffForceField",
    "GromacsForceField",
    "LengthUnit",
    "LimitSettings",
    "MetadynamicsBias",
    "ModelSettings",
    "Name",
    "NoBias",
    "PretrainingSettings",
    "PyscfReference",
    "RampBias",
    "ReferenceSettings",
    "SanitySettings",
    "SaturationSettings",
    "Section",
    "SelectionSettings",
    "Settings",
    "SignalName",
    "StressUnit",
    "StructureSettings",
    "System",
    "TeacherSettings",
    "TorsionVariable",
    "TrainingSettings",
    "VariableSettings",
    "XmlForceField",
    "XtbForceField",
    "XtbReference",
    "parse_campaign",
    "read_system",
    "read_yaml",
    "settings_for",
]


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        InputError: missing, unreadable, not a mapping, or with something that YAML reads otherwise
            than a person (`yaml_traps`); the message names the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    refuse_traps(text, str(path))
    content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected `key: value` lines, got {type(content).__name__}")
    return content


def parse_campaign(content: dict[str, Any], source: str) -> Campaign:
    """Validate a campaign's configuration.

    Args:
        content: the parsed YAML.
        source: what to call it in messages, e.g. the file's name.

    Raises:
        InputError: one line per fault: file, key, value, what was expected.
    """
    return validated(Campaign, content, source)


def read_system(path: Path | str) -> System:
    """Read and validate a system's file.

    Raises:
        InputError: a line for each fault: file, key, value, what was expected; or the name in the
            file is not the file's.
    """
    system = validated(System, read_yaml(path), str(path))
    if system.name != Path(path).stem:
        raise InputError(
            f"{path}: name: {system.name!r}: expected {Path(path).stem!r}, as the file is called"
        )
    return system


def settings_for(campaign: Campaign, system: System, source: str = "") -> Settings:
    """The campaign's settings with the system's overrides merged in, key by key.

    Raises:
        InputError: an override is not a known key or has a wrong value; or the bias names a
            structure that is not explored.
    """
    merged = campaign.model_dump(include=set(Settings.model_fields))
    if "preset" in system.overrides.get("model", {}):
        # What the campaign's own preset set gives way to the system's; what the campaign chose not.
        for section, kept in chosen(campaign).items():
            for key in PRESETS["standard"][section]:
                merged[section].pop(key)
            merged[section] |= kept
    file = source or system.name
    source = f"{file}: overrides"
    for section, values in system.overrides.items():
        if section not in merged:
            raise InputError(
                f"{source}.{section}: unknown section; expected one of {', '.join(merged)}"
            )
        merged[section] = merged[section] | values
    settings = validated(Settings, merged, source)
    _check_structures(settings.exploration.bias, system, file)
    return settings


def _check_structures(
    bias: NoBias | RampBias | MetadynamicsBias, system: System, file: str
) -> None:
    """Every variable's structure must be one that is explored."""
    if not isinstance(bias, MetadynamicsBias):
        return
    known = [structure.name for structure in system.structures if structure.explore]
    faults = [
        f"{file}: exploration.bias.variables.{i}.structure = {variable.structure!r}: expected an "
        f"explored structure of this system, one of {', '.join(known)}"
        + near(variable.structure, known)
        for i, variable in enumerate(bias.variables)
        if variable.structure is not None and variable.structure not in known
    ]
    if faults:
        raise InputError("\n".join(faults))
