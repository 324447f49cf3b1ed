"""What CP2K wrote about one frame: a label, or why there is none.

    from halcyon.labels.reference.cp2k.output import read_result

    result = read_result(" SCF run NOT converged", "", 3)
    result.status  # "unconverged"

Not for: starting CP2K (`program`).
"""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.units import Bohr, Hartree

from halcyon.labels.reference.base import Status
from halcyon.labels.stress import converted, voigt

ENERGY = re.compile(
    r"^ ENERGY\| Total FORCE_EVAL .*?[\[(](?:a\.u\.|hartree)[\])]:?[ ]+(\S+)", re.MULTILINE
)
BOX = re.compile(
    r"^ \*{20,}\n((?: \*.*\*\n)*? \* *\[ABORT\].*\n(?: \*.*\*\n)*?) \*{20,}", re.MULTILINE
)
UNITS = re.compile(
    r"^ (?:ATOMIC FORCES in|FORCES\| Atomic forces) *[\[(](?:a\.u\.|hartree/bohr)[\])]",
    re.MULTILINE,
)
STRESS = re.compile(
    r"^ STRESS\| (?:Analytical|Numerical) stress tensor \[(GPa|bar)\] *\n"
    r"(?: STRESS\| +x +y +z *\n)"
    r"((?: STRESS\| +[xyz](?: +\S+){3} *\n){3})",
    re.MULTILINE,
)
"""The stress in its file: in bar up to CP2K 2022, in GPa later; positive where the cell would
expand."""
VERSION = re.compile(r"^ CP2K\| version string:\s+CP2K version (.+?)\s*$", re.MULTILINE)
LAST_WORDS = re.compile(
    r"^.*(?:Fortran runtime error|No space left|File too large|[Cc]annot allocate|[Oo]ut of memory|"
    r"[Aa]llocation would exceed|[Ii]nsufficient virtual memory|signal SIG|exited on signal|"
    r"[Oo]om.?[Kk]ill).*$",
    re.MULTILINE,
)
"""Last messages of a Fortran program, a launcher or the system when a program dies."""
HINTS = {
    "SIGKILL": "out of memory, perhaps, or ended by the queueing system",
    "SIGSEGV": "out of memory or stack, perhaps",
    "SIGBUS": "the disk is full, perhaps",
    "SIGXFSZ": "a file became larger than the limit on files allows",
    "SIGXCPU": "the limit on processor time was reached",
}
"""The most likely cause, by the signal that ended CP2K."""
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][-+]?\d+)?"


@dataclass(frozen=True, kw_only=True)
class Cp2kResult:
    """What CP2K's files say about one frame; fields as in `Record`."""

    status: Status
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: Sequence[float] | None = None
    message: str = ""
    scf_steps: int | None = None


def read_result(
    output: str,
    forces: str | None,
    atoms: int,
    *,
    stress: str | None = None,
    stdout: str = "",
    exit_status: int = 0,
    version: str = "",
) -> Cp2kResult:
    """Judge one frame by CP2K's files; its exit status and its closing banner say too little.

    A label needs all of these: the SCF reported as converged and never as not converged, one
    energy, one force for every atom, all of them finite and in known units, and no abort. Both
    formats are known: that of CP2K up to 2024, and that from 2025 on. Energies and forces are
    converted with ASE's units (CODATA 2014).

    Args:
        output: CP2K's output file.
        forces: content of the file of PRINT/FORCES; None: only orbitals were asked for.
        atoms: number of atoms.
        stress: content of the file of PRINT/STRESS_TENSOR; None: no stress was asked for.
        stdout: standard output and standard error of CP2K and its launcher.
        exit_status: of the process; only the message uses it.
        version: CP2K's version at this level of theory, with or without the revision; empty: any.
    """
    # Some aborts come before CP2K has opened its output file.
    everything = output + stdout
    steps = re.findall(
        r"(?:SCF run converged in|Leaving inner SCF loop after reaching)\s+(\d+) step", everything
    )
    scf_steps = sum(int(count) for count in steps) if steps else None
    abort = abort_message(everything)
    if "SCF run NOT converged" in everything:
        return Cp2kResult(
            status=Status.UNCONVERGED,
            message=abort or f"SCF run NOT converged after {scf_steps or '?'} steps",
            scf_steps=scf_steps,
        )
    energies = ENERGY.findall(output)
    energy = _number(energies[0]) if len(energies) == 1 else None
    vectors = np.zeros((atoms, 3)) if forces is None else _forces(forces)
    six = None if stress is None else _stress(stress)
    ran = VERSION.findall(output) if version else []
    if abort:
        fault = abort
    elif "SCF run converged" not in output:
        fault = _death(output, stdout, exit_status)
    elif ran and not version.startswith(ran[0]):
        fault = f"the output is of CP2K {ran[0]}, the level of theory of {version}"
    elif energy is None:
        fault = (
            f"CP2K wrote {len(energies) or 'no'} {'energies' if energies else 'energy'}, in a "
            f"format known here; {_death(output, stdout, exit_status)}"
        )
    elif not np.isfinite(energy):
        fault = f"the energy is {energy}"
    elif vectors.shape != (atoms, 3) and (not forces or UNITS.search(forces)):
        fault = (
            f"CP2K wrote {len(vectors)} forces for {atoms} atoms; "
            f"{_death(output, stdout, exit_status)}"
        )
    else:
        fault = _slopes_fault(forces, vectors, stress, six)
    if not fault and energy is not None:
        return Cp2kResult(
            status=Status.OK,
            energy=energy * Hartree,
            forces=vectors * (Hartree / Bohr),
            stress=six,
            scf_steps=scf_steps,
        )
    return Cp2kResult(status=Status.CRASHED, message=fault, scf_steps=scf_steps)


def abort_message(output: str) -> str:
    """CP2K's own reason for an abort, on one line: the text of its first box; empty without one."""
    box = BOX.search(output)
    if box is None:
        return ""
    # The text stands right of a drawing that is 11 columns wide.
    words = [line[11:].rstrip().removesuffix("*").strip() for line in box[1].splitlines()]
    return " ".join(" ".join(words).split())


def _forces(text: str) -> np.ndarray:
    """Forces in hartree/bohr, shape (N, 3); what CP2K could not print as a number is nan."""
    vectors = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 6 and words[0] == "FORCES|" and words[1].isdigit():  # 2025 and later
            vectors.append([_number(word) for word in words[2:5]])
        elif len(words) == 6 and words[0].isdigit() and words[1].isdigit():  # up to 2024
            vectors.append([_number(word) for word in words[3:6]])
    return np.reshape(np.array(vectors, dtype=float), (-1, 3))


def _slopes_fault(
    forces: str | None, vectors: np.ndarray, stress: str | None, six: Sequence[float] | None
) -> str:
    """What is wrong with forces, or with a stress that was asked for; empty if nothing is."""
    if forces and not UNITS.search(forces):
        return f"the file of forces has an unknown format: it begins {forces[:120]!r}"
    if not np.isfinite(vectors).all():
        return "a force is not a finite number"
    if stress is None or (six is not None and np.isfinite(six).all()):
        return ""
    return f"no stress that can be read in its file, which begins {stress[:120]!r}"


def _stress(text: str) -> list[float] | None:
    """The stress, eV/Å³, tension positive; None where the file has none that is known here."""
    tables = STRESS.findall(text)
    if len(tables) != 1:
        return None
    unit, rows = tables[0]
    pressure = np.array([[_number(word) for word in row.split()[2:]] for row in rows.splitlines()])
    return voigt(converted(-pressure, unit))


def _number(word: str) -> float:
    return float(re.sub("[Dd]", "E", word)) if re.fullmatch(NUMBER, word) else float("nan")


def _death(output: str, stdout: str, exit_status: int) -> str:
    """Why CP2K ended before its work was done: the signal, the last message, or its last lines."""
    cause = ""
    if exit_status < 0:
        name = signal.Signals(-exit_status).name
        cause = f"killed by {name}" + (f" ({HINTS[name]}); " if name in HINTS else "; ")
    words = LAST_WORDS.search(stdout) or LAST_WORDS.search(output)
    if words:
        return f"CP2K ended early: {cause}{words[0].strip()[-300:]}"
    if cause:
        return f"CP2K ended early: {cause.removesuffix('; ')}"
    tail = [line.strip() for line in (output + stdout).splitlines() if line.strip()]
    return (
        "CP2K ended without saying whether SCF converged; its last lines: "
        f"{' / '.join(tail[-3:])[-300:] or 'nothing'}"
    )
