"""Limits that a failed calculation had, and whether higher ones are worth another try.

    from halcyon.labels.limits import encoded, tries_again

    failed = {"status": "timeout", "limits": encoded({"frame_timeout_s": 600.0})}
    tries_again(failed, {"frame_timeout_s": 3600.0})  # True

A failure is a fact under its limits only. It stays in the store, beside the record of a later try;
a campaign whose limits are higher takes the frame as not tried.

Not for: a label that is good; or `rejected`, which no limit changes.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from halcyon.config import Cp2kReference, XtbReference

Limits: TypeAlias = Mapping[str, float | list[str]]
"""Numbers, or names of what is tried, by the name of the setting; a time ends in `_s`."""
FORMER: Limits = {
    name: settings.model_fields[name].default
    for settings, names in (
        (Cp2kReference, ("frame_timeout_s", "rescue")),
        (XtbReference, ("max_iterations",)),
    )
    for name in names
}
"""Limits of failures that were stored before they carried them: the defaults."""
FORMER_TIMEOUT = re.compile(r"not done after ([0-9.e+]+) s \(frame_timeout_s\)")
"""CP2K's timeouts have always had their limit in the message."""


def encoded(limits: Limits) -> str:
    """Limits as they are stored, JSON."""
    return json.dumps(dict(limits), sort_keys=True)


def tries_again(record: Mapping[str, Any], now: Limits) -> bool:
    """Whether a stored record counts as not tried.

    Args:
        record: its entries status, message and limits.
        now: limits of the campaign that needs the label.

    Returns:
        True for a timeout where a time is longer now, and for a calculation that did not converge
        or crashed where another limit is higher: a greater number, or a way that was not tried.
    """
    if record["status"] not in ("timeout", "unconverged", "crashed"):
        return False
    before = _of_record(record)
    return any(
        _raised(limit, before.get(name))
        for name, limit in now.items()
        if name.endswith("_s") == (record["status"] == "timeout")
    )


def rank(record: Mapping[str, Any]) -> tuple[float, ...]:
    """Orders failures of a structure: the one with the highest limits says most.

    Numbers are compared in the order of their names; of ways that were tried, how many.
    """
    limits = _of_record(record)
    return tuple(
        float(limit if isinstance(limit, float | int) else len(limit))
        for _, limit in sorted(limits.items())
    )


def _of_record(record: Mapping[str, Any]) -> dict[str, float | list[str]]:
    if "limits" in record:
        return dict(FORMER) | json.loads(record["limits"])
    former = dict(FORMER)
    if timeout := FORMER_TIMEOUT.search(record.get("message", "")):
        former["frame_timeout_s"] = float(timeout[1])
    return former


def _raised(now: float | list[str], before: float | list[str] | None) -> bool:
    if isinstance(now, list):
        return bool({*now} - {*(before if isinstance(before, list) else ())})
    return not isinstance(before, float | int) or now > before
