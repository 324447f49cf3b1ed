"""Basis sets and pseudopotentials, read from CP2K's data files.

Not for: which of them a level of theory uses (`level`).
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ase.data import atomic_numbers


@dataclass(frozen=True)
class Entry:
    """A basis set or a pseudopotential of one element, as a data file has it.

    Attributes:
        element: chemical symbol.
        names: all its names, upper case.
        text: its lines of numbers, with single blanks between them.
    """

    element: str
    names: tuple[str, ...]
    text: str

    @property
    def sha256(self) -> str:
        """Hash of the element and the numbers; names and layout do not matter."""
        return hashlib.sha256(f"{self.element}\n{self.text}".encode()).hexdigest()

    @property
    def valence_electrons(self) -> int:
        """Electrons that a pseudopotential leaves to the valence: the sum of its first line."""
        return sum(int(count) for count in self.text.splitlines()[0].split())


@lru_cache(maxsize=16)
def read_entries(path: Path) -> tuple[Entry, ...]:
    """Basis sets or pseudopotentials of a data file of CP2K, in the file's order.

    An entry is a line with an element and names, and the lines of numbers that follow it.
    """
    entries: list[tuple[str, tuple[str, ...], list[str]]] = []
    for raw in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = raw.partition("#")[0].partition("!")[0].split()
        if not words:
            continue
        element = words[0].capitalize()
        if element in atomic_numbers and len(words) > 1 and not _is_number(words[1]):
            entries.append((element, tuple(word.upper() for word in words[1:]), []))
        elif entries:
            entries[-1][2].append(" ".join(words))
    return tuple(Entry(element, names, "\n".join(lines)) for element, names, lines in entries)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=16)
def file_sha256(path: Path) -> str:
    """Hash of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
