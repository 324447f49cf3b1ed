"""Cells of a benchmark: small JSON files, each computed once, by whichever run comes first.

    for cell, path in cells.missing(grid(), RESULTS, WORK):
        files.write_json(path, compute(cell))

A killed run goes on when it is started again; two runs started at once share the cells.

Not for: what a cell holds, or how cells are summarised (each benchmark's own).
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from halcyon import files
from halcyon.errors import InputError


class Named(Protocol):
    """What a cell needs."""

    @property
    def name(self) -> str:
        """Of its file."""


Cell = TypeVar("Cell", bound=Named)
Done = TypeVar("Done")


def missing(cells: Iterable[Cell], folder: Path, work: Path) -> Iterator[tuple[Cell, Path]]:
    """Cells that have no file yet, each with the path of it, locked while it is computed.

    Args:
        cells: in order of work.
        folder: of the files; it is made.
        work: of the locks. What another run holds is left to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        path = path_of(cell, folder)
        try:
            with files.only_one(work / f"lock-{cell.name}"):
                if not path.exists():
                    yield cell, path
        except files.Held:
            continue


def path_of(cell: Named, folder: Path) -> Path:
    """A cell's file."""
    return folder / f"{cell.name}.json"


def show_list(cells: Iterable[Named], folder: Path) -> None:
    """Print which cells are done."""
    try:
        for cell in cells:
            print(f"{cell.name:45} {'done' if path_of(cell, folder).exists() else 'missing'}")
        sys.stdout.flush()
    except BrokenPipeError:  # as in `--list | head`: the interpreter flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read(folder: Path, order: Sequence[Named], *, schema: int) -> list[dict[str, Any]]:
    """All cells of a folder, in an order.

    Raises:
        InputError: there is none, or one has another schema.
    """
    known = {path.stem: files.read_json(path) for path in folder.glob("*.json")}
    for name, cell in known.items():
        if cell["schema"] != schema:
            raise InputError(f"{folder}/{name}.json: schema {cell['schema']}: delete it")
    if not known:
        raise InputError(f"{folder}: no cell yet: nothing to summarise")
    return [known[cell.name] for cell in order if cell.name in known]


def parser(docstring: str, *, results: Path | None, work: Path) -> argparse.ArgumentParser:
    """Options that such benchmarks share.

    Args:
        docstring: of the benchmark: help.
        results: where its cells are kept; None: it decides itself where `--cells` is not given.
        work: where labels and models are kept.
    """
    first, _, rest = docstring.partition("\n\n")
    made = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--list", action="store_true", help="say what is done and what is missing")
    made.add_argument("--summary", action="store_true", help="compute nothing: read the cells")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all numbers as JSON")
    made.add_argument("--cells", type=Path, metavar="DIR", default=results, help="of the cells")
    made.add_argument("--work", type=Path, metavar="DIR", default=work, help="labels and models")
    made.add_argument(
        "--only",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="cells whose names begin so (default: all)",
    )
    return made


def chosen(every: Iterable[Cell], beginnings: Sequence[str]) -> list[Cell]:
    """Cells whose names begin with one of these; all, if there is none.

    Raises:
        SystemExit: no cell's name begins with one of them.
    """
    known = list(every)
    for beginning in beginnings:
        if not any(cell.name.startswith(beginning) for cell in known):
            sys.exit(
                f"--only {beginning}: no cell begins so. Known are, for example: "
                f"{', '.join(cell.name for cell in known[:3])}; `--list` shows all."
            )
    return [cell for cell in known if cell.name.startswith(tuple(beginnings) or "")]


def carry_out(
    args: argparse.Namespace,
    chosen: Iterable[Named],
    folder: Path,
    *,
    compute: Callable[[], object],
    done: Callable[[], Done],
) -> Done | None:
    """Do what the options of `parser` ask for: list the cells, or compute some, and read all.

    Args:
        args: the options.
        chosen: cells to list.
        folder: where they are kept.
        compute: computes what is missing; not called for a summary.
        done: reads the cells, or what is made of them.

    Returns:
        What `done` gives; None: they were listed, and there is no more to do.

    Raises:
        SystemExit: with the message of an `InputError`.
    """
    if args.list:
        show_list(chosen, folder)
        return None
    try:
        if not args.summary:
            import torch

            torch.set_num_threads(1)
            compute()
        return done()
    except InputError as error:
        sys.exit(str(error))
