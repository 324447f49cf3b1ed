"""What a run has reached: all that changes while it goes on, and its checkpoint.

A replica is called by its *member* number here: its place among all replicas of the run, in the
order in which they were made.

Not for: what happens at a step (see `explore`).
"""

import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from halcyon import files
from halcyon.config import DomainSettings, ExplorationSettings
from halcyon.domain.displacements import LatticeSites
from halcyon.domain.index import CliIndex
from halcyon.exploration.activity import Activity
from halcyon.exploration.blocks import DECIDING
from halcyon.exploration.candidates import Candidates, Slot
from halcyon.exploration.dynamics import Replica
from halcyon.exploration.melting import SiteWatch
from halcyon.exploration.reactions import BondWatch
from halcyon.exploration.replicas import ReplicaBatch
from halcyon.exploration.reservoir import Reservoir
from halcyon.exploration.traces import Traces
from halcyon.exploration.trajectory import Trajectory
from halcyon.systems.molecules import counted, number_of_molecules
from halcyon.verdict.forms import ReplicaEnd

CHECKPOINT_VERSION = 3
"""Part of the fingerprint, and so of the file's name: checkpoints of another version are not
continued. Those before 3 began with other momenta and knew no expected errors."""

Successor = Callable[[int, Replica], Replica]
"""Gives the replica of a number that takes the place of a failed one; each time the same."""


def identity_of(model: Path, domain: Path, settings: DomainSettings) -> str:
    """Hash of the files that a run's predictions and scores follow from.

    Args:
        model: file of the model that moves the replicas.
        domain: file of its domain.
        settings: signals and files of the committee, which counts where it is watched.
    """
    paths = (model, domain, *settings.watched_committee)
    content = b"".join(path.read_bytes() for path in paths)
    return hashlib.sha256(content).hexdigest()


def fingerprint(identity: str, settings: ExplorationSettings, replicas: Sequence[Replica]) -> str:
    """Hash of all that determines a trajectory.

    Args:
        identity: of models, domain, signals and seed.
        settings: of the run; how often it is saved, whether it may end early, and how long
            later ones may be, do not count.
        replicas: those that the run begins with.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{CHECKPOINT_VERSION} {identity}".encode())
    # A limit that is not set is left out: settings of before it was known mean the same.
    unset = {"site_distance_A"} if settings.site_distance_A is None else set()
    later = {"checkpoint_s", "extended_at_most", "early_end"}
    digest.update(settings.model_dump_json(exclude=later | unset).encode())
    for replica in replicas:
        digest.update(f"{replica.number} {replica.temperature_K}".encode())
        digest.update(replica.start.numbers.tobytes() + replica.start.positions.tobytes())
    return digest.hexdigest()[:16]


class Roster:
    """All replicas of a run: those that it began with, and the successors of failed ones.

    Attributes:
        replicas: all of them, by member number.
        began: step from which the time of each counts, by member number: that at which it entered
            or, without a thermostat, was equilibrated.
        failures: of failed replicas, time in ps and reason.
        cli_at_failure: of failed replicas, atomic Λ, shape (n,), ps, float64.
        replaced: members that have a successor, in the order of their failures.
        waiting: successors that have not entered yet.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        *,
        successor: Successor | None,
        first_number: int,
        most_successors: int,
    ) -> None:
        """Begin with the replicas that start the run.

        Args:
            replicas: at least one.
            successor: gives a failed replica's successor; None: there are no successors.
            first_number: number of the first successor; the others count on from it.
            most_successors: number of successors at most.
        """
        self.replicas = list(replicas)
        self.began: dict[int, int] = {}
        self.failures: dict[int, tuple[float, str]] = {}
        self.cli_at_failure: dict[int, torch.Tensor] = {}
        self.replaced: list[int] = []
        self.waiting: list[int] = []
        self._successor, self._first_number = successor, first_number
        self._most_successors = most_successors

    def fail(self, member: int, *, time_ps: float, reason: str, cli: torch.Tensor) -> None:
        """Record a failure, and let a successor wait for the next interval if there may be one.

        Args:
            member: the failed replica.
            time_ps: simulated until its failure.
            reason: of the failure.
            cli: its atomic Λ, shape (n,), ps.
        """
        self.failures[member] = (time_ps, reason)
        self.cli_at_failure[member] = cli.double().cpu().clone()
        self._add_successor(member)

    def _add_successor(self, member: int) -> None:
        if self._successor and len(self.replaced) < self._most_successors:
            self.waiting.append(len(self.replicas))
            number = self._first_number + len(self.replaced)
            self.replicas.append(self._successor(number, self.replicas[member]))
            self.replaced.append(member)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold; successors are made again."""
        return {
            "replaced": self.replaced,
            "pending": self.waiting,
            "began": self.began,
            "failures": self.failures,
            "cli_at_failure": self.cli_at_failure,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a `state`, for the same replicas at the beginning."""
        for member in saved["replaced"]:
            self._add_successor(member)
        self.waiting, self.began = saved["pending"], saved["began"]
        self.failures = saved["failures"]
        self.cli_at_failure = saved["cli_at_failure"]


def read_checkpoint(
    path: Path, device: torch.device, warn: Callable[[str], None]
) -> dict[str, Any] | None:
    """What `RunState.save` wrote; None: there is no checkpoint, or a damaged one, which is removed.

    Args:
        path: the file.
        device: where its tensors go.
        warn: called with a message for people where the file is damaged.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file may fail in any way
        warn(
            f"{path}: a damaged checkpoint ({type(error).__name__}): it is removed, and these "
            "replicas begin anew; nothing else is lost"
        )
        path.unlink()
        return None
    return saved


@dataclass
class RunState:
    """What a run of replicas of equal periodicity has reached.

    Attributes:
        roster: all replicas of the run.
        running: those that are running now.
        traces: points so far.
        candidates: frames so far.
        reservoir: frames drawn at random so far.
        activity: when each replica was unreliable.
        watches: of the bonds of each replica, by member number; None: the system is not reactive.
        trajectory: written only if the settings ask for it.
        crystals: how far each replica that has sites is from them, by member number.
        step: that the run has reached; below 0 while the first replicas are equilibrated.
        replica_steps: steps made, summed over replicas, up to each one's failure; those of
            equilibration count.
    """

    roster: Roster
    running: ReplicaBatch
    traces: Traces
    candidates: Candidates
    reservoir: Reservoir
    activity: Activity
    trajectory: Trajectory
    step: int
    watches: dict[int, BondWatch] | None = None
    replica_steps: int = 0
    crystals: dict[int, SiteWatch] = field(default_factory=dict)

    @property
    def index(self) -> CliIndex:
        """The CLI of all running replicas."""
        return self.running.index

    def places(self) -> Iterator[tuple[int, Slot, slice]]:
        """Place, slot and atoms of each running replica."""
        return zip(itertools.count(), self.running.slots, self.running.atoms_of)

    def let_in(self, members: Sequence[int], *, equilibration: int) -> None:
        """Let replicas begin to run now; their time counts after so many steps."""
        replicas = [self.roster.replicas[member] for member in members]
        began = self.step + equilibration
        self.running.enter(members, replicas, began=began)
        self.roster.began |= dict.fromkeys(members, began)
        if self.watches is not None:
            self.watches |= {m: BondWatch(self.roster.replicas[m].start.numbers) for m in members}
        for member, replica in zip(members, replicas, strict=True):
            sites = self._sites(replica)
            if sites is not None and sites.suit(replica.start):
                self.crystals[member] = SiteWatch(sites)

    def _sites(self, replica: Replica) -> LatticeSites | None:
        return self.running.monitoring.sites.get(replica.start.info["structure"])

    def save(self, path: Path) -> None:
        """Write a checkpoint in place of the last one."""
        parts = self.trajectory.flush()  # before the checkpoint that counts them
        content = {
            "step": self.step,
            "replica_steps": self.replica_steps,
            **self.roster.state(),
            "batch": self.running.checkpoint(),
            "book": self.candidates.state(),
            "reservoir": self.reservoir.state(),
            "activity": self.activity.state(),
            "watches": self.watches and {m: w.state() for m, w in self.watches.items()},
            "crystals": {m: crystal.state() for m, crystal in self.crystals.items()},
            "traces": self.traces.state(),
            "trajectory_parts": parts,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with files.replacing(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint, as `read_checkpoint` gives it."""
        self.step, self.replica_steps = saved["step"], saved["replica_steps"]
        self.roster.restore(saved)
        self.running.restore(saved["batch"], self.roster.replicas)
        self.candidates.restore(saved["book"])
        self.reservoir.restore(saved["reservoir"], self.roster.replicas)
        self.activity.restore(saved["activity"])
        watches = saved["watches"]
        self.watches = watches and {m: BondWatch.restored(w) for m, w in watches.items()}
        for member, squares in saved.get("crystals", {}).items():
            sites = self._sites(self.roster.replicas[member])
            if sites is not None:
                self.crystals[member] = SiteWatch.restored(sites, squares)
        self.traces.restore(saved["traces"].cpu())
        self.trajectory.restore(saved["trajectory_parts"])

    def table(self) -> pd.DataFrame:
        """All trace points so far, rates included."""
        replicas = self.roster.replicas
        return self.traces.table(
            [replica.number for replica in replicas],
            [replica.start.info["structure"] for replica in replicas],
            [replica.temperature_K for replica in replicas],
        )

    def ends(self, *, steps: int, timestep_ps: float) -> list[ReplicaEnd]:
        """How each replica that has run ended, in a run of so many steps."""
        cli = dict(self.roster.cli_at_failure)
        for _, slot, atoms in self.places():
            cli[slot.member] = self.index.cli[DECIDING, atoms].double().cpu()
        ends = []
        for member, began in sorted(self.roster.began.items()):
            replica = self.roster.replicas[member]
            run_out = (steps - began) * timestep_ps, None
            time_ps, failure = self.roster.failures.get(member, run_out)
            watch = self.watches[member] if self.watches else None
            crystal = self.crystals.get(member)
            ends.append(
                ReplicaEnd(
                    replica=replica.number,
                    structure=replica.start.info["structure"],
                    temperature_K=replica.temperature_K,
                    atoms=len(replica.start),
                    began_ps=began * timestep_ps,
                    time_ps=time_ps,
                    failure=failure,
                    molecules=number_of_molecules(
                        replica.start, kind=self.running.monitoring.system_kind
                    ),
                    per=counted(self.running.monitoring.system_kind),
                    activity_ps=self.activity.of(member),
                    bonds_changed=watch.changes if watch else None,
                    products=watch.products() if watch else [],
                    lindemann=crystal.lindemann() if crystal else None,
                    cli_atoms_ps=cli[member].tolist() if member in cli else None,
                )
            )
        return ends
