"""From long runs to the certificate that reports them, with hashes of all files that it names.

Not for: the runs (`long_runs`), or what follows from them (`certificate`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ase import Atoms

from halcyon.domain.signals import ALWAYS
from halcyon.final import certificate
from halcyon.final.certificate import CampaignEnd, Certificate, Data, Runs, Software
from halcyon.final.evidence import Criteria
from halcyon.final.long_runs import level_of
from halcyon.verdict.forms import Audit


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a certificate is about.

    Attributes:
        campaign: name of the campaign.
        system: name of the system.
        structures: names of the explored structures.
        signals: signals that were watched, as the configuration names them.
        model: file of the model.
        domain: file of the model's domain.
        labels: files of all labels up to this model.
        store: label store, as the campaign names it.
    """

    campaign: str
    system: str
    structures: Sequence[str]
    signals: Sequence[str]
    model: Path
    domain: Path
    labels: Sequence[Path]
    store: Path


def issue(
    subject: Subject,
    runs: Sequence[Runs],
    criteria: Criteria,
    labels: Mapping[str, Sequence[Atoms]],
    *,
    end: CampaignEnd,
    audit: Audit | None,
    software: Software,
    folder: Path,
) -> Certificate:
    """Make the sealed certificate of some runs.

    Args:
        subject: what the certificate is about; the files are read for their hashes.
        runs: with a thermostat, and without.
        criteria: what the model was tested against.
        labels: frames by split, as `labelling.gather` returns them.
        end: how the campaign ended.
        audit: of its last generation.
        software: versions and machine.
        folder: folder of the certificate, to which the paths in it are relative.

    Raises:
        InputError: labels of several levels of theory, or of one that the store does not have.
    """
    conclusion, reasons = certificate.conclude(runs, criteria, audit)
    frames = [frame for split in labels.values() for frame in split]
    return Certificate(
        schema=Certificate.SCHEMA,
        conclusion=conclusion,
        sentence=certificate.sentence(conclusion, reasons, runs),
        reasons=reasons,
        not_covered=certificate.not_covered(
            runs, structures=subject.structures, verdict=end.decision, audit=audit
        ),
        campaign=subject.campaign,
        system=subject.system,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        verdict=end,
        audit=audit,
        model=certificate.hash_of(subject.model, folder),
        domain=certificate.hash_of(subject.domain, folder),
        data=Data(
            files=[certificate.hash_of(path, folder) for path in subject.labels],
            splits={split: len(members) for split, members in labels.items()},
            sha256=certificate.data_digest(frames),
            store=str(subject.store),
        ),
        level_of_theory=level_of(frames, subject.store),
        criteria=criteria,
        signals=list(dict.fromkeys((*ALWAYS, *subject.signals))),
        runs=list(runs),
        software=software,
    ).sealed()
