"""What a campaign takes on the disk, by sort of file.

    from pathlib import Path
    from halcyon.commands.status.disk import disk_use

    disk_use(Path("results/quickstart"))  # bytes: {"models": 1203112, "scratch (work/)": 80511, …}

Not for: what of it may be deleted (`campaign.retention`).
"""

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

ENDINGS = {
    "models": (".model",),
    "labels and frames": (
        "frames.parquet",
        "selected.parquet",
        "candidates.parquet",
        "reservoir.parquet",
        "second_opinion.parquet",
    ),
    "traces": ("traces.parquet", "parity.parquet"),
    "trajectories": ("trajectory.parquet",),
    "pages": (".html",),
    "logs": (".log", ".jsonl"),
}


def disk_use(folder: Path) -> dict[str, int]:
    """Bytes by sort of file, the most first; links are not followed.

    Args:
        folder: of the campaign.
    """
    sizes: Counter[str] = Counter()
    for place, _, names in os.walk(folder):
        parts = Path(place).relative_to(folder).parts
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                size = os.lstat(Path(place) / name).st_size
                sizes[_sort(parts, name)] += size
    return dict(sizes.most_common())


def _sort(parts: tuple[str, ...], name: str) -> str:
    if parts[:1] == ("work",):
        return "scratch (work/)"
    if parts[-1:] == ("labels",):
        return "labels and frames"
    return next((sort for sort, ends in ENDINGS.items() if name.endswith(ends)), "other")
