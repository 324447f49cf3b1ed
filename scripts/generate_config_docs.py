"""Generate the configuration's schema, default file and reference page from `halcyon.config`.

    python scripts/generate_config_docs.py            write the files
    python scripts/generate_config_docs.py --check    name those that are out of date; exit 1 if any

Writes config/schema/{campaign,system}.schema.json (editors complete keys from them),
config/schema/certificate.schema.json (the form of a model's certificate), config/config.yaml (every
key with its default) and docs/configuration.md (reference tables).
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema

from halcyon import config, files
from halcyon.config.faults import NAME
from halcyon.final.certificate import Certificate

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 100
NO_BREAK = "\N{NO-BREAK SPACE}"
DEFAULT_REFERENCE = "xtb"
EXAMPLES = {
    "campaign": "my_campaign",
    "systems": ["ethanol"],
    "level": "config/cp2k/pbe-d3-dzvp.yaml",
    "pyscf level": "config/pyscf/pbe-d3bj-def2-svp.yaml",
    "calculator": "ase.calculators.emt.EMT",
    "files": ["data/published.npz"],
    "to_K": 1500.0,
    "variables": [{"kind": "torsion", "atoms": [0, 1, 2, 3], "sigma_deg": 20.0}],
}
"""Values in config.yaml of keys that have no default, where need be with the backend before."""
UNITS = {
    "_meV_per_atom_ps": "meV/(atom ps)",
    "_meV_per_A": "meV/Å",
    "_meV_per_atom": "meV/atom",
    "_eV_per_A": "eV/Å",
    "_eV_per_atom": "eV/atom",
    "_per_A": "1/Å",
    "_per_ns": "per ns",
    "_per_ps": "1/ps",
    "_ps": "ps",
    "_fs": "fs",
    "_deg": "degrees",
    "_eV": "eV",
    "_GB": "GB",
    "_g_per_cm3": "g/cm³",
    "_A": "Å",
    "_K": "K",
    "_s": "s",
}
"""Units by the end of a key's name; the longest that fits counts."""

YAML_HEADER = """\
# yaml-language-server: $schema=schema/campaign.schema.json
#
# A campaign with every key at its default. To make your own, copy this file and keep what you
# change (`campaign`, `systems` and `reference` are needed), then
#
#     snakemake --configfile config/my_campaign.yaml
#
# Written by scripts/generate_config_docs.py from src/halcyon/config. The same as tables:
# docs/configuration.md.
"""

PAGE_HEADER = """\
# Configuration

Every key of a campaign's file (`config/*.yaml`) and of a system's file (`config/systems/*.yaml`).
Unknown keys are errors. Units are part of a key's name. What has no default is required.

This page is written by `scripts/generate_config_docs.py` from `src/halcyon/config`.
"""

Node = dict[str, Any]


class _Schema(GenerateJsonSchema):
    """Without titles: they only repeat the key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        del schema
        return False


def unit(key: str) -> str:
    """Unit that a key's name ends in; empty where it has none.

    >>> unit("time_ps"), unit("events_per_ns"), unit("replicas")
    ('ps', 'per ns', '')
    """
    return next((name for ending, name in UNITS.items() if key.endswith(ending)), "")


def schema_of(model: type[config.Section], title: str) -> Node:
    """JSON schema of a file; a system's `overrides` list the sections that they may change."""
    schema = model.model_json_schema(schema_generator=_Schema)
    sections = config.Settings.model_json_schema(schema_generator=_Schema)
    if overrides := schema["properties"].get("overrides"):
        schema["$defs"] |= sections["$defs"]
        del overrides["additionalProperties"]
        overrides["properties"] = {
            name: {"$ref": entry["$ref"]} for name, entry in sections["properties"].items()
        }
        overrides["additionalProperties"] = False
    for entry in [*schema["$defs"].values()]:
        entry.pop("title", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": title,
    }


def certificate_schema() -> Node:
    """JSON schema of a model's certificate."""
    schema = Certificate.model_json_schema(schema_generator=_Schema)
    for entry in schema["$defs"].values():
        entry.pop("title", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Halcyon stability certificate",
    }


def resolve(node: Node, schema: Node) -> Node:
    """The node with the content of its `$ref`."""
    if "$ref" not in node:
        return node
    name = node["$ref"].removeprefix("#/$defs/")
    return schema["$defs"][name] | {k: v for k, v in node.items() if k != "$ref"}


def kinds(node: Node, schema: Node) -> dict[str, Node]:
    """Sections that a union chooses from, by their tag; empty where there is no choice."""
    if "discriminator" not in node:
        return {}
    mapping = node["discriminator"]["mapping"]
    return {tag: resolve({"$ref": reference}, schema) for tag, reference in mapping.items()}


def default_kind(node: Node) -> str | None:
    """Tag of the section that a union has by default."""
    return node.get("default", {}).get(node["discriminator"]["propertyName"])


def keys_of(section: Node, schema: Node) -> Iterator[tuple[str, Node]]:
    """Keys of a section with their schema: required keys first, sections last."""
    required = section.get("required", [])
    entries = [(key, resolve(node, schema)) for key, node in section["properties"].items()]

    def rank(entry: tuple[str, Node]) -> int:
        key, node = entry
        return (key not in required) + 2 * ("properties" in node and key != "overrides")

    yield from sorted(entries, key=rank)


def type_words(node: Node) -> str:
    """Type and range of a key, for people.

    >>> type_words({"type": "integer", "minimum": 4, "maximum": 512})
    'integer 4 to 512'
    """
    match node:
        case {"const": value}:
            words = f"`{value}`"
        case {"enum": values}:
            *most, last = [f"`{value}`" for value in values]
            words = " or ".join(filter(None, [", ".join(most), last]))
        case {"anyOf": choices}:
            words = " or ".join(type_words(choice) for choice in choices)
        case {"type": "array", "prefixItems": items}:
            words = f"[{', '.join(type_words(item) for item in items)}]"
        case {"type": "array", "items": {"enum": _} as items}:
            words = f"any of {type_words(items).replace(' or ', ', ')}"
        case {"type": "array", "items": items}:
            item, space, limits = type_words(items).partition(" ")
            words = f"list of {item}s{space}{limits}"
        case {"patternProperties": named}:
            (values,) = named.values()
            words = f"name: {type_words(values)}, …"
        case {"type": "string"}:
            named = "name" if node.get("pattern") == NAME else "text"
            words = "path" if node.get("format") == "path" else named
        case {"type": "number" | "integer" as number}:
            words = number + _range(node)
        case _:
            words = {"boolean": "true or false", "null": "none"}.get(
                node.get("type", ""), "section"
            )
    return words


def _range(node: Node) -> str:
    if "minimum" in node and "maximum" in node:
        return f" {node['minimum']:g} to {node['maximum']:g}"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {node[key]:.12g}" for key, sign in bounds.items() if key in node]
    return " " + ", ".join(limits) if limits else ""


def config_yaml() -> str:
    """The documented default campaign."""
    schema = schema_of(config.Campaign, "")
    return "\n".join([YAML_HEADER, *_yaml_lines(schema, schema, "")])


def _yaml_lines(section: Node, schema: Node, indent: str) -> Iterator[str]:
    for key, node in keys_of(section, schema):
        yield from _comment(_sentence(node), indent)
        if choices := kinds(node, schema):
            yield f"{indent}{key}:"
            chosen = choices.pop(default_kind(node) or DEFAULT_REFERENCE)
            yield from _yaml_lines(chosen, schema, f"{indent}  ")
            for tag, other in choices.items():
                yield ""
                yield from _comment(f"Or, with {tag}:", indent)
                yield f"{indent}# {key}:"
                for line in _yaml_lines(other, schema, ""):
                    yield f"{indent}#   {line}".rstrip()
        elif "properties" in node:
            yield f"{indent}{key}:"
            yield from _yaml_lines(node, schema, f"{indent}  ")
        else:
            backend = section["properties"].get("backend", {}).get("const", "")
            example = EXAMPLES.get(f"{backend} {key}", EXAMPLES.get(key))
            value = node.get("default", node.get("const", example))
            yield f"{indent}{key}: {_scalar(value)}"
        if not indent and section is schema:
            yield ""


def _sentence(node: Node) -> str:
    """Description of a key, with its range or choices where it has any."""
    description = node.get("description", "")
    words = type_words(node).replace("`", "")
    plain = {"section", "path", "path or none", "name", "text", "true or false"}
    plain |= {"list of names", "list of sections"}
    if "const" in node or words in plain:
        return description
    if len(words) < WIDTH / 2:
        words = words.replace(" ", NO_BREAK)
    return f"{description} ({words})"


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    lines = textwrap.wrap(
        text, WIDTH - 6, initial_indent=prefix, subsequent_indent=prefix, break_on_hyphens=False
    )
    return [line.replace(NO_BREAK, " ") for line in lines]


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=WIDTH, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def page() -> str:
    """The reference page."""
    parts = [PAGE_HEADER]
    for model, title, about in (
        (config.Campaign, "A campaign", "`config/<campaign>.yaml`"),
        (config.System, "A system", "`config/systems/<name>.yaml`"),
    ):
        schema = schema_of(model, title)
        parts.append(f"## {title}: {about}\n\n{_table(schema, schema)}")
        parts += _sections(schema, schema)
    return "\n".join(parts)


def _sections(section: Node, schema: Node, above: str = "") -> Iterator[str]:
    """Tables of the sections within a section, and within those."""
    for key, entry in keys_of(section, schema):
        if key == "overrides":
            continue
        name, each = f"`{above}{key}`", ", each" if "items" in entry else ""
        node = resolve(entry.get("items", entry), schema)
        for tag, choice in kinds(node, schema).items():
            with_kind = f", with `{node['discriminator']['propertyName']}: {tag}`"
            yield _section(name + each + with_kind, choice, schema)
            yield from _sections(choice, schema, f"{above}{key}.")
        if "properties" in node:
            yield _section(name + each, node, schema)
            yield from _sections(node, schema, f"{above}{key}.")


def _section(title: str, section: Node, schema: Node) -> str:
    about = f"{section['description']}\n\n" if "description" in section else ""
    return f"### {title}\n\n{about}{_table(section, schema)}"


def _table(section: Node, schema: Node) -> str:
    rows = ["| key | type, range | unit | default | description |", "|---|---|---|---|---|"]
    for key, node in keys_of(section, schema):
        required = key in section.get("required", [])
        nested = "properties" in node or bool(kinds(node, schema))
        words = "section" if nested else type_words(node)
        if required:
            default = "required"
        elif "discriminator" in node:
            default = f"`{node['discriminator']['propertyName']}: {default_kind(node)}`"
        elif nested:
            default = ""
        else:
            value = node["default"]
            default = "" if value in (None, "", {}) else f"`{_scalar(value)}`"
        cells = [f"`{key}`", words, unit(key), default, node.get("description", "")]
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def generate() -> dict[str, str]:
    """All generated files: path from the repository's root → content."""
    campaign = schema_of(config.Campaign, "Halcyon campaign")
    system = schema_of(config.System, "Halcyon system")
    return {
        "config/schema/campaign.schema.json": _json(campaign),
        "config/schema/system.schema.json": _json(system),
        "config/schema/certificate.schema.json": _json(certificate_schema()),
        "config/config.yaml": config_yaml(),
        "docs/configuration.md": page(),
    }


def _json(schema: Node) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def out_of_date() -> list[str]:
    """Generated files that are missing or not what would be generated now."""
    return [
        name
        for name, text in generate().items()
        if not (ROOT / name).exists() or (ROOT / name).read_text(encoding="utf-8") != text
    ]


def main() -> None:
    """Parse the arguments, write or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    arguments = parser.parse_args()
    old = out_of_date()
    if arguments.check:
        for name in old:
            print(f"{name}: out of date; run python scripts/generate_config_docs.py")
        sys.exit(bool(old))
    for name in old:
        files.write_text(ROOT / name, generate()[name])
        print(f"{name}: written")


if __name__ == "__main__":
    main()
