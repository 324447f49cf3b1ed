"""The budget of core-hours: what a campaign has spent, and what it left undone for want of it.

Label jobs run side by side and know nothing of each other; what each has spent stands in its
journal. `Spent` reads them all, each line once. A job asks before every calculation: when the
budget is spent, no more than one calculation per running job is still under way.

    spent = Spent(campaign)
    if spent.core_hours() < limit: …

Not for: the ledger that a person reads (`ledgers`), or whether the campaign goes on (`saturation`).
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from halcyon import files
from halcyon.campaign import paths
from halcyon.campaign.campaign import Campaign
from halcyon.config import LimitSettings
from halcyon.labels import journal
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.verdict.saturation import Decision


class Spent:
    """Core-hours of a whole campaign; grows as its jobs go on."""

    def __init__(self, campaign: Campaign, limits: LimitSettings) -> None:
        """Nothing is read yet."""
        self._campaign = campaign
        self._everything = limits.core_hours_of == "everything"
        self._limit = limits.core_hours
        self._read: dict[Path, tuple[int, float]] = {}
        self._paid: dict[Path, float] = {}

    @property
    def limit(self) -> float | None:
        """Core-hours that may be spent; None: any number."""
        return self._limit

    def core_hours(self) -> float:
        """What has been spent so far."""
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
            with path.open("rb") as opened:
                if opened.seek(0, 2) < begin:  # written anew after a systemic failure
                    begin, seconds = 0, 0.0
                opened.seek(begin)
                content = opened.read()
        except FileNotFoundError:
            return 0.0
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines():
            seconds += _core_seconds(line)
        self._read[path] = begin + len(whole), seconds
        return seconds

    def _without_journal(self, system: str) -> float:
        """Core-seconds of label files whose journals are gone: somebody tidied the work folder."""
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
    """Take away what a spent budget left unfinished, if the budget now allows to finish it.

    Label files with frames that were not computed are removed, and the verdicts that rest on them;
    the workflow makes them again. Labels that are known come from the store, for nothing. A system
    that has saturated is left in peace.

    Returns:
        A line for a person about each system.
    """
    told = []
    for system, plan in campaign.systems.items():
        limits = plan.settings.limits
        waiting = {
            path: n for path in paths.label_files(campaign, system) if (n := _not_computed(path))
        }
        if not waiting or not Spent(campaign, limits).may_start():
            continue
        verdicts = sorted((campaign.folder / system).glob("gen*/verdict.json"))
        if any(files.read_json(path)["decision"] == Decision.SATURATED for path in verdicts):
            continue
        seed = any(path.parents[1].name == "seed" for path in waiting)
        first = "" if seed else min(path.parents[1].name for path in waiting)
        for path in (*waiting, *(v for v in verdicts if v.parent.name >= first)):
            path.unlink(missing_ok=True)
        told.append(f"{system}: the budget allows {sum(waiting.values())} frames that it did not")
    return told


def _core_seconds(line: bytes) -> float:
    """Of a line of a journal, or of a stage that is not a label job (those have journals)."""
    try:
        entry = json.loads(line)
    except ValueError:
        return 0.0  # torn by a kill
    if "info" in entry:
        return float(entry["info"]["core_seconds"])
    return 0.0 if entry["stage"] == "label" else float(entry["seconds"] * entry["cores"])


def _column(path: Path, name: str) -> list:
    try:
        return pq.read_table(path, columns=[name])[name].to_pylist()
    except (KeyError, pa.ArrowException, OSError):
        return []  # a file without frames has no such column


def _paid(path: Path) -> float:
    return float(sum(value or 0.0 for value in _column(path, "paid")))


def _check_cost(path: Path) -> float:
    slopes = files.read_json(path)["slopes"] if path.exists() else []
    return float(sum(slope["core_seconds"] for slope in slopes))


def _not_computed(path: Path) -> int:
    return _column(path, "status").count(NOT_COMPUTED)
