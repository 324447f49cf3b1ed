"""Reading Parquet so that a damaged file is named, with the way out.

    from pathlib import Path
    from halcyon import tables

    folder = Path("results/quickstart/ethanol")
    traces = tables.read(folder / "gen000/traces.parquet").to_pandas()
    tables.read(folder / "seed/labels/000.parquet", ["status"])["status"].to_pylist()

All of the library reads a campaign's tables through this function. The label store has its own
way, since it repairs what is damaged.

Not for: what the columns mean (`frames`, `exploration.traces`, `models.parity`).
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from halcyon.errors import InputError
from halcyon.files import REMADE


def read(path: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table.

    Args:
        path: Parquet file.
        columns: names of those to read; None: all.

    Raises:
        InputError: the file is missing, cannot be read, or lacks a column; the message names it.
    """
    try:
        with pq.ParquetFile(path) as opened:
            table = opened.read(None if columns is None else list(columns))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path}: damaged: not a readable Parquet file ({error}). {REMADE}"
        ) from error
    if missing := [name for name in columns or () if name not in table.column_names]:
        raise InputError(f"{path}: damaged: no column {', '.join(missing)}. {REMADE}")
    return table
