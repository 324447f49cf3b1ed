"""Files of a campaign that a disk, a full quota or a person has damaged, found before any job runs.

    from halcyon.campaign.damage import damaged_outputs, renew_products

    for path, fault in damaged_outputs(campaign).items():
        print(path, fault)  # e.g. .../gen002/traces.parquet not a whole Parquet file: …
    renew_products(campaign)  # a final folder that lacks a file is made again

`refuse_damaged` makes one message of them, with the way out.

Snakemake deletes a job's outputs before it runs the job again. Where an input turns out to be
unreadable only then, the good results that rested on it are gone. So all outputs are looked at
first, a few bytes of each: JSON is parsed, of Parquet and of models the beginning and the end are
read. Damage in the middle of a table is found by the job that reads it (`halcyon.tables`).

Snakemake's own process imports this module: neither torch nor pyarrow is loaded by it.

Not for: what the files mean, or the label store (`halcyon labels verify`).
"""

import zipfile
from pathlib import Path

from halcyon import files
from halcyon.campaign import paths
from halcyon.campaign.campaign import Campaign
from halcyon.errors import InputError

PARQUET = b"PAR1"
"""What a Parquet file begins and ends with."""
SHOWN = 10
"""Damaged files that a message names; more are counted."""


def refuse_damaged(campaign: Campaign) -> None:
    """Refuse to go on with damaged files.

    Raises:
        InputError: the message names the files and says what to do.
    """
    damaged = damaged_outputs(campaign)
    if not damaged:
        return
    lines = [f"  {path}: {fault}" for path, fault in list(damaged.items())[:SHOWN]]
    if len(damaged) > SHOWN:
        lines.append(f"  and {len(damaged) - SHOWN} more")
    raise InputError(
        f"{campaign.folder}: damaged files; nothing was run or removed:\n"
        + "\n".join(lines)
        + "\nPut back what a backup has, or delete these files and run the same command: they are "
        "made again, and no frame is labelled a second time"
    )


def damaged_outputs(campaign: Campaign) -> dict[Path, str]:
    """Outputs of a campaign's jobs that exist and cannot be whole, with what is wrong."""
    faults: dict[Path, str] = {}
    for system in campaign.systems:
        for path in _outputs(campaign, system):
            fault = fault_of(path)
            if fault is not None:
                faults[path] = fault
    return faults


def incomplete_products(campaign: Campaign) -> dict[Path, list[str]]:
    """Manifests of folders `final/` that lack files which they list, and the names of these."""
    incomplete = {}
    for system in campaign.systems:
        manifest = campaign.folder / system / paths.MANIFEST
        if manifest.exists():
            listed = [entry["path"] for entry in files.read_object(manifest)["files"]]
            missing = [name for name in listed if not (manifest.parent / name).exists()]
            if missing:
                incomplete[manifest] = missing
    return incomplete


def renew_products(campaign: Campaign) -> list[str]:
    """Have incomplete folders `final/` made again: Snakemake knows them by their manifest.

    Returns:
        A line for a person about each folder.
    """
    messages = []
    for manifest, missing in incomplete_products(campaign).items():
        manifest.unlink()
        messages.append(f"{manifest.parent}: {', '.join(missing)} missing: it is made again")
    return messages


def fault_of(path: Path) -> str | None:
    """What is wrong with a file, by its ending and a look at it; None: nothing, or no such file."""
    if not path.exists():
        return None
    try:
        if path.suffix == ".json":
            files.read_object(path)
        elif path.suffix == ".parquet":
            return _fault_of_parquet(path)
        elif path.suffix == ".model" and not zipfile.is_zipfile(path):
            return "not a model file: its end is missing, or it was overwritten"
    except InputError as error:
        return _reason(path, error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def _outputs(campaign: Campaign, system: str) -> list[Path]:
    """Outputs of all jobs of a system, those of the first generation without any excepted."""
    jobs = paths.start_jobs(campaign, system)
    for number in paths.generations(campaign, system):
        jobs += paths.generation_jobs(campaign, system, number)
    proof = campaign.folder / system / "certificate"
    end = [proof / name for name in paths.CERTIFICATE]
    end.append(campaign.folder / system / paths.MANIFEST)
    return [path for job in jobs for path in job.outputs] + end


def _fault_of_parquet(path: Path) -> str | None:
    size = path.stat().st_size
    with path.open("rb") as opened:
        begins = opened.read(4) == PARQUET
        if size < 12 or not begins:
            return "empty, or not a Parquet file"
        opened.seek(size - 8)
        end = opened.read(8)
    if end[4:] != PARQUET or int.from_bytes(end[:4], "little") > size - 12:
        return "not a whole Parquet file: its end is missing"
    return None


def _reason(path: Path, error: InputError) -> str:
    """The message of an error about a file, without the file and the remedy."""
    text = str(error).removeprefix(f"{path}: ").removesuffix(files.REMADE)
    return text.rstrip(" .")
