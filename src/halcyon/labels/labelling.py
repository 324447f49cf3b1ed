"""Labelling frames so that none is paid for twice.

    from pathlib import Path
    from halcyon.config import XtbReference
    from halcyon.labels.labelling import Labeller
    from halcyon.labels.reference import make_reference
    from halcyon.labels.store import LabelStore

    reference = make_reference(XtbReference(backend="xtb"))
    labeller = Labeller(
        reference=reference,
        store=LabelStore(Path("labels"), reference.level),
        work=Path("work"),
        cores=1,
        provenance={"campaign": "trial", "system": "water"},
    )
    labeller.label(frames)[0].info["status"]  # "ok"

What the label store has is not computed again. Frames that could not be labelled are stored beside
the labels, with the program's message: they are not paid for a second time, and they are counted,
unless the limits that they failed under are raised (`limits`). A
label that lacks the stress that a campaign learns from is computed again, and kept for its energy
and forces where that fails. A journal keeps every record from the moment it is known.

Not for: how labels are stored (`store`), computing them (`reference`), or whether a label that the
program calls good can be trusted (`sanity`).
"""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from halcyon import jsonl
from halcyon.errors import Interrupted
from halcyon.frames import (
    PER_ATOM,
    VECTORS,
    canonical_order,
    read_frames,
    structure_key,
    structure_only,
)
from halcyon.labels import free_atoms, journal, limits, stress, systemic
from halcyon.labels.journal import Journal
from halcyon.labels.reference.base import NotStartedError, Record, Reference, Status
from halcyon.labels.store import LabelStore
from halcyon.labels.systemic import SystemicFailure

NOT_COMPUTED = "not computed"
"""Status of a frame that the budget did not reach: nothing was computed, nothing is stored."""


@dataclass(frozen=True, kw_only=True)
class Labeller:
    """Labels frames with one reference; what is known already is not computed again.

    Attributes:
        reference: computes what is not known.
        store: where labels are kept.
        work: this label job's own folder; it survives kills, and the journal is in it.
        cores: number of cores for the reference.
        provenance: campaign and system, put on every record.
        needs_stress: whether a label without the stress that its frame could have is computed
            again.
        may_start: called before each calculation; false: the rest is `not computed`.
        systemic: whether a failure that most frames share ends the job; else it is recorded only.
        stop: called after every frame; true: stop in good order, with all records in the journal.
    """

    reference: Reference
    store: LabelStore
    work: Path
    cores: int
    provenance: Mapping[str, str]
    needs_stress: bool = False
    may_start: Callable[[], bool] = lambda: True
    systemic: bool = True
    stop: Callable[[], bool] = lambda: False

    def label(
        self,
        frames: Sequence[Atoms],
        *,
        other_journals: Sequence[Path] = (),
        report: Callable[[int, Record], None] = lambda _n, _record: None,
    ) -> list[Atoms]:
        """Label frames.

        Every record goes to the journal, synced, as soon as it is known: a kill costs the frame in
        progress and no other.

        Args:
            frames: with charge and multiplicity.
            other_journals: journals of the other label jobs of this batch; a failure that the jobs
                share is systemic.
            report: called with the number of frames done and the last record.

        Returns:
            The frames in their own order and with their `info`, plus record and, where ok, energy
            and forces; `paid` is what this job paid for it, core-seconds, 0 where it was in the
            store.

        Raises:
            SystemicFailure: most calculations failed alike; see `systemic`.
            NotStartedError: the reference's program did not start; all records before are kept.
            Interrupted: `stop` became true.
        """
        keys = [structure_key(frame) for frame in frames]
        own_journal = Journal(self.work / journal.NAME)
        journaled = own_journal.read()
        stored = self.store.find(keys)
        records = {key: frame for key, frame in stored.items() if self._suffices(frame)}
        own: dict[str, Atoms] = {}
        for key, frame in zip(keys, frames, strict=True):
            if key not in records:
                own.setdefault(key, frame)
        records |= {
            key: frame
            for key, frame in journaled.items()
            if key not in records and self._suffices(frame)
        }
        missing = {key: frame for key, frame in own.items() if key not in records}
        requested = set(keys)
        fresh = [
            frame
            for key, frame in journaled.items()
            if key in requested and not self._tries_again(frame)
        ]
        expected = len(fresh) + len(missing)
        done = len(frames) - len(missing)
        for labelled, record in self._computed(own, missing):
            # A signal that stops this job reaches the program that it started, too: then a failure
            # of that program says nothing about the frame, and is no record.
            stopped_by_signal = record.status is not Status.OK and self.stop()
            if not stopped_by_signal:
                own_journal.append(labelled)
                records[labelled.info["key"]] = labelled
                fresh.append(labelled)
                done += 1
                report(done, record)
                if record.status is not Status.OK and self.systemic:
                    _check_systemic(own_journal, fresh, other_journals, expected)
            if stopped_by_signal or self.stop():
                raise Interrupted(f"stopped after {done} of {len(frames)} frames; all are kept")
        if self.systemic:
            _check_systemic(own_journal, fresh, other_journals, expected=0)
        # Where another campaign was faster, its record holds: a structure has one label. So does an
        # earlier one without stress, or with lower limits, where no better one could be computed.
        records = journaled | stored | records | self.store.find(sorted(self.store.add(fresh)))
        paid = own_journal.paid()
        return [
            _with_record(frame, records[key], paid.pop(key, 0.0))
            if key in records
            else _not_computed(frame, key, self.store.level)
            for key, frame in zip(keys, frames, strict=True)
        ]

    def _suffices(self, record: Atoms) -> bool:
        """Whether a record need not be computed again."""
        return not (self.needs_stress and stress.lacks(record)) and not self._tries_again(record)

    def _tries_again(self, record: Atoms) -> bool:
        """Whether a record is a failure under lower limits than those of today."""
        return limits.tries_again(record.info, self.reference.limits)

    def _computed(
        self, own: Mapping[str, Atoms], missing: Mapping[str, Atoms]
    ) -> Iterator[tuple[Atoms, Record]]:
        """Compute frames one by one, in the reference's order, as long as another may be started.

        A job that goes on after a kill takes the rest in the order that all its frames had: the
        orbitals that a frame starts from, and with them the last digits of its label, are then the
        same.

        Args:
            own: all frames of this job, computed or not, by key; the reference orders these.
            missing: those of them that are still to be computed.

        Yields:
            The frame with its record and origin, and the record.

        Raises:
            Interrupted: the job was asked to stop, and with it a program that was just starting.
            NotStartedError: the program did not start, and nobody had asked for a stop.
        """
        origin = {**self.provenance, "level": self.store.level, "host": socket.gethostname()}
        items = list(own.items())
        ordered = [items[index] for index in self.reference.order([frame for _, frame in items])]
        waiting = [(key, frame) for key, frame in ordered if key in missing]
        records = self.reference.label([frame for _, frame in waiting], self.work, self.cores)
        for key, frame in waiting:
            if not self.may_start():
                return
            try:
                record = next(records)
            except NotStartedError:
                if self.stop():
                    raise Interrupted("stopped before the next frame; all are kept") from None
                raise
            of_frame = origin | {"key": key}
            if record.status is not Status.OK and self.reference.limits:
                of_frame["limits"] = limits.encoded(self.reference.limits)
            yield _labelled(frame, record, of_frame), record
        next(records, None)  # after its last frame the reference cleans up


def _check_systemic(
    own_journal: Journal, fresh: Sequence[Atoms], other_journals: Sequence[Path], expected: int
) -> None:
    """Stop where one failure explains most calculations, and void its records.

    Raises:
        SystemicFailure: the next run computes the failed frames again; good labels are kept.
    """
    results = [(frame.info["status"], frame.info["message"]) for frame in fresh]
    if not any(status != Status.OK for status, _ in results):
        return
    infos = [entry["info"] for path in other_journals for entry in jsonl.read(path)]
    elsewhere = [(info["status"], info["message"]) for info in infos]
    good_elsewhere = any(status == Status.OK for status, _ in elsewhere)
    cause = systemic.cause(results, expected=expected, good_elsewhere=good_elsewhere)
    if cause is None:
        # Each job may have only a few frames: a failure that they share shows in all together.
        cause = systemic.cause(results + elsewhere, expected=expected + len(elsewhere))
    if cause is None:
        return
    void = Journal(own_journal.path.with_name(journal.REPEATED))
    for frame in fresh:
        if frame.info["status"] != Status.OK:
            void.append(frame)
    records = own_journal.read().values()
    own_journal.keep([frame for frame in records if frame.info["status"] == Status.OK])
    raise SystemicFailure(cause)


def gather(paths: Sequence[Path]) -> dict[str, list[Atoms]]:
    """Good labels of some label files by set, in the order of the files.

    Args:
        paths: label files that the label stage wrote.

    Returns:
        `train`, `validation`, `test` and `free_atoms`; and, of any set, `bad`: frames without a
        label, and `not_computed`: frames that the budget did not reach.
    """
    parts = ("train", "validation", "test", free_atoms.SPLIT, "bad", "not_computed")
    frames: dict[str, list[Atoms]] = {part: [] for part in parts}
    for path in paths:
        for frame in read_frames(path):
            status = frame.info["status"]
            if status == Status.OK:
                part = frame.info["split"]
            else:
                part = "not_computed" if status == NOT_COMPUTED else "bad"
            frames[part].append(frame)
    return frames


NOT_STORED = ("energy", "stress", "limits", "split", "role", "draw", "model_energy", "model_stress")
"""Entries of `info` that a label is not stored with: they belong to a campaign, or to a model."""
PREDICTED = (*(name for name in VECTORS if name != "forces"), *PER_ATOM)
"""Arrays of the model that visited a frame, which stay with it; labels are stored without them."""


def _labelled(frame: Atoms, record: Record, origin: dict[str, str]) -> Atoms:
    """A new frame that carries its record and its origin."""
    labelled = structure_only(frame)
    labelled.info = {k: v for k, v in frame.info.items() if k not in NOT_STORED} | origin
    labelled.info |= {
        "status": record.status.value,
        "message": record.message,
        "rung": record.rung,
        "seconds": record.seconds,
        "core_seconds": record.core_seconds,
    }
    if record.scf_steps is not None:
        labelled.info["scf_steps"] = record.scf_steps
    if record.status is Status.OK and record.forces is not None:
        labelled.info["energy"] = record.energy
        if record.stress is not None:
            labelled.info["stress"] = [float(value) for value in record.stress]
        labelled.arrays["forces"] = record.forces
    return labelled


RECORD_KEYS = (  # entries of `info` that belong to the record, not to the frame
    "key",
    "level",
    "status",
    "message",
    "limits",
    "rung",
    "seconds",
    "core_seconds",
    "scf_steps",
    "host",
    "campaign",
    "system",
    "energy",
    "stress",
)


def _with_record(frame: Atoms, stored: Atoms, paid: float) -> Atoms:
    """The frame, in its own order of atoms, with the record of its structure."""
    labelled = _with_predictions(frame)
    labelled.info = {k: v for k, v in frame.info.items() if k not in RECORD_KEYS}
    labelled.info |= {k: stored.info[k] for k in RECORD_KEYS if k in stored.info} | {"paid": paid}
    if "forces" in stored.arrays:
        forces = np.empty((len(frame), 3))
        forces[canonical_order(frame)] = stored.arrays["forces"][canonical_order(stored)]
        labelled.arrays["forces"] = forces
    return labelled


def _not_computed(frame: Atoms, key: str, level: str) -> Atoms:
    """The frame with a record that says that the budget did not reach it."""
    unlabelled = _with_predictions(frame)
    unlabelled.info = {k: v for k, v in frame.info.items() if k not in RECORD_KEYS}
    unlabelled.info |= {"key": key, "level": level, "status": NOT_COMPUTED, "paid": 0.0}
    unlabelled.info["message"] = "the budget of core-hours was spent (limits.core_hours)"
    return unlabelled


def _with_predictions(frame: Atoms) -> Atoms:
    """Copy of a frame without its label, but with what the model that visited it predicted."""
    copy = structure_only(frame)
    for name in PREDICTED:
        if name in frame.arrays:
            copy.arrays[name] = frame.arrays[name].copy()
    return copy
