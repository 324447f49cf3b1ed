"""What may not change in a campaign: seed, level of theory, structures, number of label shards.

    from halcyon.campaign.identity import check_identity, level_of_theory

    check_identity(campaign, level_of_theory(campaign))

The identity is written to `identity.json` when the campaign begins. Everything else may change, and
holds for new work.

Not for: whether the settings are good (`checks`), or who runs the campaign (`checked.begin_run`).
"""

import hashlib
import json
from typing import Any

from halcyon import config, files
from halcyon.campaign.campaign import Campaign
from halcyon.errors import InputError


def level_of_theory(campaign: Campaign) -> str:
    """Hash of the level of theory that labels are computed at."""
    from halcyon.labels.store import level_hash

    return level_hash(campaign.reference().level)


def check_identity(campaign: Campaign, level: str, *, dry: bool = False) -> None:
    """Refuse to go on with a campaign whose identity has changed; write a new one down.

    Seed, level of theory, structures and the number of label shards decide which jobs exist and
    which labels fit together. A system that comes later is added.

    Args:
        campaign: as its configuration has it now.
        level: hash of its level of theory.
        dry: write nothing.

    Raises:
        InputError: the message names what has changed.
    """
    path = campaign.folder / "identity.json"
    now: dict[str, Any] = {
        "seed": campaign.settings.seed,
        "level_of_theory": level,
        "systems": {
            name: {
                "structures": content_hash(
                    [_structure_identity(structure) for structure in plan.system.structures]
                ),
                "label_shards": plan.settings.resources.label_shards,
            }
            for name, plan in campaign.systems.items()
        },
    }
    if not path.exists():
        if not dry:
            files.write_json(path, now)
        return
    try:
        before = files.read_object(path, now)
    except InputError as error:
        raise InputError(
            f"{error}. This file has what may not change in a campaign. To go on: make sure that "
            "the configuration is the one that the campaign began with, and delete the file"
        ) from error
    changed = [key for key in ("seed", "level_of_theory") if before[key] != now[key]]
    for name, entry in now["systems"].items():
        earlier = before["systems"].get(name, entry)
        changed += [f"{name}: {key}" for key in entry if earlier[key] != entry[key]]
    if changed:
        raise InputError(
            f"{path}: this campaign began with another {', '.join(changed)}. Its results would "
            f"not fit together: give the new one another name (campaign), or move "
            f"{campaign.folder} away. Labels in {campaign.settings.label_store} are kept and "
            "used again where they fit"
        )
    merged = before | {"systems": before["systems"] | now["systems"]}
    if merged != before and not dry:
        files.write_json(path, merged)


def _structure_identity(structure: config.StructureSettings) -> dict[str, Any]:
    """A structure's settings, without keys of later versions that it does not use."""
    settings = structure.model_dump(mode="json")
    if settings["multiplicities"] == [settings["multiplicity"]]:
        settings["multiplicities"] = []  # the same, said aloud
    unused = {"multiplicities": [], "label": True}
    return {k: v for k, v in settings.items() if k not in unused or v != unused[k]}


def content_hash(content: Any) -> str:
    """Hash of what JSON can express, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
