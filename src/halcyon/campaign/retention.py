"""Which scratch files of a campaign are no longer needed, and deleting just those.

    from halcyon.campaign.retention import delete, scraps

    number, size = delete(campaign, scraps(campaign))

A generation is closed when all its outputs exist. Of closed generations these are deleted:

| in `work/<system>/` | what it is | kept if |
|---|---|---|
| `gen###/explore/<hash>.checkpoint`, `<hash>.trajectory/` | state of the exploration | |
| `start/certify/<hash>.checkpoint` | state of the long runs | there is no certificate |
| `gen###/train/mace-run/`, `start/pretrain/mace-run/` | state of a training | |
| `start/label/<batch>-<shard>/journal.jsonl` | records in the store | frames not computed |
| `gen###/second_opinion/journal.jsonl` | records in the store | |
| `start/label/<batch>-<shard>/<key>/` | the program's files of a frame | the frame has no label |

All else stays: labels, models, traces, candidates, verdicts, reports, logs. Only files with names
of these forms are deleted, below `work` of a folder with a `campaign.json`. Links are neither
followed nor removed. The files of a job that is running are left alone.

Not for: the label store, whose shards are never deleted.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from halcyon import files, tables
from halcyon.campaign import paths
from halcyon.campaign.campaign import Campaign
from halcyon.errors import InputError
from halcyon.labels.labelling import NOT_COMPUTED

EXPLORATION = re.compile(
    r"(gen\d{3})/explore/[0-9a-f]{16}(\.checkpoint|\.trajectory/part-\d+\.parquet)"
)
CERTIFICATION = re.compile(
    r"(start)/certify/[0-9a-f]{16}(\.checkpoint|\.trajectory/part-\d+\.parquet)"
)
TRAINING = re.compile(r"(gen\d{3}|start)/(train|pretrain)/mace-run/checkpoint\.pt")
JOURNAL = re.compile(r"start/label/(gen\d{3}|seed)-(\d{3})/journal\.jsonl")
OPINIONS = re.compile(r"(gen\d{3})/second_opinion/journal\.jsonl")
FRAME = re.compile(
    r"start/label/(gen\d{3}|seed)-(\d{3})/([0-9a-f]{32,64})/"
    r"(cp2k\.(inp|out)|forces|stdout|frame[-\w.]*)"  # CP2K's project is called `frame`
)


@dataclass(frozen=True)
class Scrap:
    """A file that is no longer needed.

    Attributes:
        path: relative to the campaign's `work`.
        description: what it is, for people.
        size: bytes.
        lock: file that its job locks while it works.
    """

    path: Path
    description: str
    size: int
    lock: Path


def scraps(
    campaign: Campaign, systems: Sequence[str] = (), *, all_frames: bool = False
) -> list[Scrap]:
    """Files of closed generations that are no longer needed, in order of their paths.

    Args:
        campaign: read from its `campaign.json`.
        systems: names of the systems to look at; empty: all.
        all_frames: also the files of frames that got no label.

    Raises:
        InputError: the campaign's folder is not one, or its `work` is a link.
    """
    work = _work(campaign)
    unneeded: list[Scrap] = []
    for system in systems or campaign.systems:
        rules = _Rules(campaign, system)
        for path, size in _regular_files(work, system):
            if judged := rules.judge(path.as_posix(), all_frames=all_frames):
                description, lock = judged
                unneeded.append(Scrap(Path(system) / path, description, size, lock))
    return sorted(unneeded, key=lambda scrap: scrap.path)


def clean_up(campaign: Campaign, system: str) -> None:
    """Delete a system's scraps, if the settings want that done without asking."""
    settings = campaign.systems[system].settings.retention
    if settings.automatic:
        delete(campaign, scraps(campaign, [system], all_frames=not settings.failed_frames))


def delete(campaign: Campaign, unneeded: Sequence[Scrap]) -> tuple[int, int]:
    """Delete files, and the folders that are empty then; those of running jobs are left alone.

    Args:
        campaign: read from its `campaign.json`.
        unneeded: from `scraps`.

    Returns:
        Number of files deleted, and their bytes.

    Raises:
        InputError: the campaign's folder is not one, or its `work` is a link.
    """
    work, number, size = _work(campaign), 0, 0
    by_lock: dict[Path, list[Scrap]] = {}
    for scrap in unneeded:
        by_lock.setdefault(scrap.lock, []).append(scrap)
    for lock, of_job in by_lock.items():
        try:
            handle = files.take_lock(lock) if lock.exists() else None
        except InputError:
            continue  # its job is running
        try:
            for scrap in of_job:
                if _unlink(work, scrap.path):
                    number, size = number + 1, size + scrap.size
        finally:
            if handle is not None:
                os.close(handle)
    return number, size


def _work(campaign: Campaign) -> Path:
    folder = campaign.folder
    if not campaign.file.is_file():
        raise InputError(
            f"{folder}: has no campaign.json, so it is not a campaign's folder: nothing was deleted"
        )
    work = folder / "work"
    if work.is_symlink():
        raise InputError(
            f"{work}: is a link: nothing was deleted; replace it by the folder that it points to"
        )
    return work


def _regular_files(work: Path, system: str) -> Iterator[tuple[Path, int]]:
    """Regular files below `work/<system>` and their sizes, no link followed."""
    top = work / system
    if top.is_symlink() or not top.is_dir():  # not there: the system has not begun
        return
    for folder, _, names, descriptor in os.fwalk(top, follow_symlinks=False):
        for name in names:
            with suppress(FileNotFoundError):
                state = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISREG(state.st_mode):
                    yield (Path(folder) / name).relative_to(top), state.st_size


class _Rules:
    """Which scratch files of a system are no longer needed."""

    def __init__(self, campaign: Campaign, system: str) -> None:
        self.campaign, self.system = campaign, system
        # Folders of closed generations; what comes before the first is closed with it.
        self.closed = {
            paths.batch_name(number)
            for number in paths.generations(campaign, system)
            if all(job.done for job in paths.generation_jobs(campaign, system, number))
        }
        if "gen000" in self.closed:
            self.closed |= {"seed", "start"}
        # Snakemake removes the outputs before the runs begin: where they are, the runs are over.
        proof = campaign.folder / system / "certificate"
        self.certified = all((proof / name).exists() for name in paths.CERTIFICATE)
        self._status: dict[tuple[str, str], dict[str, str]] = {}

    def judge(  # noqa: PLR0911 - one per sort of file
        self, path: str, *, all_frames: bool
    ) -> tuple[str, Path] | None:
        """What a file is that is no longer needed, and the lock of its job; None: keep the file.

        Args:
            path: relative to the system's scratch folder.
            all_frames: whether the files of frames without a label are not needed either.
        """
        patterns = (EXPLORATION, CERTIFICATION, TRAINING, JOURNAL, OPINIONS, FRAME)
        match = next(filter(None, (pattern.fullmatch(path) for pattern in patterns)), None)
        unfinished = match is not None and match.re is CERTIFICATION and not self.certified
        if match is None or match[1] not in self.closed or unfinished:
            return None
        if match.re in (EXPLORATION, CERTIFICATION):
            stage = "explore" if match.re is EXPLORATION else "certify"
            lock = self.campaign.work(self.system, match[1], stage) / ".lock"
            return "state of explorations", lock
        if match.re is TRAINING:
            lock = self.campaign.work(self.system, match[1], match[2]) / ".lock"
            return "state of trainings", lock
        if match.re is OPINIONS:
            lock = self.campaign.work(self.system, match[1], "second_opinion") / ".lock"
            return "journals of labels", lock
        lock = paths.label_scratch(self.campaign, self.system, match[1], int(match[2])) / ".lock"
        if match.re is JOURNAL:
            # With a raised budget the label file is made anew; only the journal has what was paid.
            # Of a label file that cannot be read nobody knows whether frames wait.
            statuses = self.status(match[1], match[2]).values()
            waiting = not statuses or NOT_COMPUTED in statuses
            return None if waiting else ("journals of labels", lock)
        status = self.status(match[1], match[2]).get(match[3])
        if status == "ok":
            return "files of labelled frames", lock
        return ("files of frames without a label", lock) if status and all_frames else None

    def status(self, batch: str, shard: str) -> dict[str, str]:
        """Key → status of a shard's frames; a shard that cannot be read has none."""
        if (batch, shard) not in self._status:
            path = self.campaign.folder / self.system / batch / f"labels/{shard}.parquet"
            try:
                table = tables.read(path, ["key", "status"])
                keys, status = (table[name].to_pylist() for name in ("key", "status"))
            except InputError:
                keys, status = [], []
            self._status[batch, shard] = dict(zip(keys, status, strict=True))
        return self._status[batch, shard]


def _unlink(work: Path, path: Path) -> bool:
    """Delete one file without ever following a link on the way, and the folders left empty."""
    folders = [os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)]
    try:
        for part in path.parent.parts:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            folders.append(os.open(part, flags, dir_fd=folders[-1]))
        os.unlink(path.name, dir_fd=folders[-1])
        with suppress(OSError):  # not empty: there is more in it
            for part, parent in zip(reversed(path.parent.parts), folders[-2::-1], strict=True):
                os.rmdir(part, dir_fd=parent)
    except OSError:
        return False  # deleted by somebody else, or a link by now
    finally:
        for descriptor in folders:
            os.close(descriptor)
    return True
