"""The budget of core-hours: what a campaign has spent, and what it left undone for lack of it.

    from halcyon.campaign.budget import Spent

    spent = Spent(campaign, campaign.settings.limits)
    if spent.may_start():
        print(spent.core_hours(), "core-hours so far")

Label jobs run side by side and know nothing of each other; what each has spent is in its journal.
`Spent` reads all journals, each line once. A job asks before every calculation: when the budget is
spent, no more than one calculation per running job is still under way.

Not for: the account that a person reads (`accounts`), or whether the campaign goes on
(`verdict.saturation`).
"""

from pathlib import Path
from typing import Any

from halcyon import files, jsonl, tables
from halcyon.campaign import paths
from halcyon.campaign.campaign import Campaign
from halcyon.config import LimitSettings
from halcyon.errors import InputError
from halcyon.labels import journal
from halcyon.labels.finite_difference import CheckedForces
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.verdict.forms import Decision


class Spent:
    """Core-hours that a whole campaign has spent; they grow as its jobs go on."""

    def __init__(self, campaign: Campaign, limits: LimitSettings) -> None:
        """Set the campaign and its limits; nothing is read yet."""
        self._campaign = campaign
        self._everything = limits.core_hours_of == "everything"
        self._limit = limits.core_hours
        self._read: dict[Path, tuple[int, float]] = {}
        self._paid: dict[Path, float] = {}

    @property
    def limit(self) -> float | None:
        """Core-hours that may be spent; None: no limit."""
        return self._limit

    def core_hours(self) -> float:
        """Core-hours spent so far."""
        seconds = 0.0
        for system in self._campaign.systems:
            seconds += sum(self._tail(path) for path in paths.journals(self._campaign, system))
            seconds += sum(self._tail(path) for path in paths.void_records(self._campaign, system))
            seconds += self._without_journal(system)
        if self._everything:
            seconds += self._tail(paths.ledger(self._campaign.folder))
        return seconds / 3600

    def may_start(self) -> bool:
        """Whether another calculation may be started."""
        return self._limit is None or self.core_hours() < self._limit

    def _tail(self, path: Path) -> float:
        """Core-seconds in a file of JSON lines, of which only new lines are read."""
        begin, seconds = self._read.get(path, (0, 0.0))
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return 0.0
        if size < begin:  # replaced by a shorter one after a systemic failure
            begin, seconds = 0, 0.0
        entries, end = jsonl.read_from(path, begin)
        seconds += sum(map(_core_seconds, entries))
        self._read[path] = end, seconds
        return seconds

    def _without_journal(self, system: str) -> float:
        """Core-seconds of label files whose journal somebody has deleted with the work folder."""
        seconds = 0.0
        for path in paths.label_files(self._campaign, system):
            shard = int(path.stem)
            batch = path.parents[1]
            work = paths.label_scratch(self._campaign, system, batch.name, shard)
            if (work / journal.NAME).exists():
                continue
            if path not in self._paid:
                self._paid[path] = _paid(path) + _check_cost(paths.check_file(path))
            seconds += self._paid[path]
        return seconds


def reopen(campaign: Campaign) -> list[str]:
    """Remove what a spent budget left unfinished, where the budget now allows to finish it.

    Label files with frames that were not computed are removed, and the verdicts that rest on them;
    the workflow makes them again. Labels that are in the store cost nothing the second time. A
    system that has saturated is not touched.

    Returns:
        A line for a person about each system that something was removed of.
    """
    messages = []
    for system, plan in campaign.systems.items():
        limits = plan.settings.limits
        waiting = {
            path: n for path in paths.label_files(campaign, system) if (n := _not_computed(path))
        }
        if not waiting or not Spent(campaign, limits).may_start():
            continue
        verdicts = sorted((campaign.folder / system).glob("gen*/verdict.json"))
        if any(
            files.read_object(path, ["decision"])["decision"] == Decision.SATURATED
            for path in verdicts
        ):
            continue
        seed = any(path.parents[1].name == "seed" for path in waiting)
        first = "" if seed else min(path.parents[1].name for path in waiting)
        for path in (*waiting, *(v for v in verdicts if v.parent.name >= first)):
            path.unlink(missing_ok=True)
        messages.append(
            f"{system}: the budget now allows {sum(waiting.values())} frames that were not computed"
        )
    return messages


def _core_seconds(entry: dict[str, Any]) -> float:
    """Core-seconds of an entry of a journal, or of a stage; label jobs count by their journals."""
    if "info" in entry:
        return float(entry["info"]["core_seconds"])
    return 0.0 if entry["stage"] == "label" else float(entry["seconds"] * entry["cores"])


def _column(path: Path, name: str) -> list[Any]:
    """A column of a label file; empty where it has none, as a file without frames."""
    try:
        return tables.read(path, [name])[name].to_pylist()
    except InputError:
        return []


def _paid(path: Path) -> float:
    return float(sum(value or 0.0 for value in _column(path, "paid")))


def _check_cost(path: Path) -> float:
    return CheckedForces.read(path).core_seconds if path.exists() else 0.0


def _not_computed(path: Path) -> int:
    return _column(path, "status").count(NOT_COMPUTED)
