"""What of a campaign's scratch files may go, and deleting just that.

A generation is closed when its verdict is there. Of closed generations these go:

| in `work/<system>/` | what | unless |
|---|---|---|
| `gen###/explore/<hash>.checkpoint`, `<hash>.trajectory/` | state of the exploration | |
| `gen###/train/mace-run/`, `start/pretrain/mace-run/` | state of a training | |
| `start/label/<batch>-<shard>/journal.jsonl` | records that the label store has | |
| `start/label/<batch>-<shard>/<key>/` | the program's files of a frame | the frame has no label |

All else stays: labels, models, traces, candidates, verdicts, reports, logs. Only names of these
forms are touched, below `work` of a folder with a `campaign.json`; links are neither followed nor
removed; a folder whose job works at this moment is left alone.

Not for: the label store, whose shards are never deleted.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from halcyon import files
from halcyon.campaign import paths
from halcyon.campaign.campaign import Campaign
from halcyon.errors import InputError

EXPLORATION = re.compile(
    r"(gen\d{3})/explore/[0-9a-f]{16}(\.checkpoint|\.trajectory/part-\d+\.parquet)"
)
TRAINING = re.compile(r"(gen\d{3}|start)/(train|pretrain)/mace-run/checkpoint\.pt")
JOURNAL = re.compile(r"start/label/(gen\d{3}|seed)-(\d{3})/journal\.jsonl")
FRAME = re.compile(
    r"start/label/(gen\d{3}|seed)-(\d{3})/([0-9a-f]{32,64})/"
    r"(cp2k\.(inp|out)|forces|stdout|frame[-\w.]*)"  # CP2K's project is called `frame`
)


@dataclass(frozen=True)
class Scrap:
    """A file that may go.

    Attributes:
        path: where it lies, relative to the campaign's `work`.
        kind: what it is, for people.
        size: bytes.
        lock: file that its job locks while it works.
    """

    path: Path
    kind: str
    size: int
    lock: Path


def scraps(
    campaign: Campaign, systems: Sequence[str] = (), *, all_frames: bool = False
) -> list[Scrap]:
    """Files of closed generations that may go, in order of their paths.

    Args:
        campaign: read from its `campaign.json`.
        systems: only these; none: all.
        all_frames: also the files of frames that got no label.

    Raises:
        InputError: the campaign's folder is not one, or its `work` is a link.
    """
    work = _work(campaign)
    found: list[Scrap] = []
    for system in systems or campaign.systems:
        mine = _System(campaign, system)
        for path, size in _regular_files(work, system):
            kind, lock = mine.kind(path.as_posix(), all_frames=all_frames)
            if kind:
                found.append(Scrap(Path(system) / path, kind, size, lock))
    return sorted(found, key=lambda scrap: scrap.path)


def delete(campaign: Campaign, found: list[Scrap]) -> tuple[int, int]:
    """Delete files that `scraps` found, and the folders that it leaves empty.

    Returns:
        Number of files deleted, and their bytes; those of jobs at work are left.
    """
    work, number, size = _work(campaign), 0, 0
    by_lock: dict[Path, list[Scrap]] = {}
    for scrap in found:
        by_lock.setdefault(scrap.lock, []).append(scrap)
    for lock, mine in by_lock.items():
        try:
            handle = files.take_lock(lock) if lock.exists() else None
        except InputError:
            continue  # its job works at this moment
        try:
            for scrap in mine:
                if _unlink(work, scrap.path):
                    number, size = number + 1, size + scrap.size
        finally:
            if handle is not None:
                os.close(handle)
    return number, size


def _work(campaign: Campaign) -> Path:
    folder = campaign.folder
    if not campaign.file.is_file():
        raise InputError(f"{folder}: no campaign.json in it: nothing is deleted here")
    work = folder / "work"
    if work.is_symlink():
        raise InputError(f"{work}: is a link: nothing is deleted behind it")
    return work


def _regular_files(work: Path, system: str) -> Iterator[tuple[Path, int]]:
    """Regular files below `work/<system>` and their sizes, no link followed."""
    top = work / system
    if top.is_symlink():
        return
    for folder, _, names, descriptor in os.fwalk(top, follow_symlinks=False):
        for name in names:
            with suppress(FileNotFoundError):
                state = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISREG(state.st_mode):
                    yield (Path(folder) / name).relative_to(top), state.st_size


class _System:
    """What is known of a system's scratch files."""

    def __init__(self, campaign: Campaign, system: str) -> None:
        self.campaign, self.system = campaign, system
        # Batches that nothing more is done with; those before the first generation go with it.
        self.closed = {
            f"gen{number:03d}"
            for number in paths.generations(campaign, system)
            if all(job.done for job in paths.generation_jobs(campaign, system, number))
        }
        if "gen000" in self.closed:
            self.closed |= {"seed", "start"}
        self._status: dict[tuple[str, str], dict[str, str]] = {}

    def kind(self, path: str, *, all_frames: bool) -> tuple[str, Path]:
        """What a file is that may go, and the lock of its job; nothing is said of others.

        Args:
            path: relative to the system's scratch folder.
            all_frames: whether the files of frames without label may go.
        """
        nothing = "", Path()
        patterns = (EXPLORATION, TRAINING, JOURNAL, FRAME)
        match = next(filter(None, (pattern.fullmatch(path) for pattern in patterns)), None)
        if match is None or match[1] not in self.closed:
            return nothing
        if match.re is EXPLORATION:
            lock = self.campaign.work(self.system, match[1], "explore") / ".lock"
            return "state of explorations", lock
        if match.re is TRAINING:
            lock = self.campaign.work(self.system, match[1], match[2]) / ".lock"
            return "state of trainings", lock
        lock = paths.label_scratch(self.campaign, self.system, match[1], int(match[2])) / ".lock"
        if match.re is JOURNAL:
            return "journals of labels", lock
        status = self.status(match[1], match[2]).get(match[3])
        if status == "ok":
            return "files of labelled frames", lock
        return ("files of frames without label", lock) if status and all_frames else nothing

    def status(self, batch: str, shard: str) -> dict[str, str]:
        """Key → status of a shard's frames; a shard that cannot be read has none."""
        if (batch, shard) not in self._status:
            path = self.campaign.folder / self.system / batch / f"labels/{shard}.parquet"
            try:
                table = pq.read_table(path, columns=["key", "status"])
                keys, status = (table[name].to_pylist() for name in ("key", "status"))
            except (pa.ArrowException, OSError, ValueError, KeyError):
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
        return False  # gone already, or a link by now
    finally:
        for descriptor in folders:
            os.close(descriptor)
    return True
