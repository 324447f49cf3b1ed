"""A campaign whose files are there, in the order of their times, without any job having run."""

import io
import itertools
import os
import time
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from conftest import ROOT
from halcyon.campaign import paths
from halcyon.campaign.campaign import Campaign
from halcyon.verdict.forms import Audit, ReplicaEnd, Verdict

CONTENT = {
    "campaign": "trial",
    "systems": ["methanol"],
    "reference": {"backend": "xtb"},
    "limits": {"max_generations": 4, "label_budget": 200},
}


def _of(write):
    content = io.BytesIO()
    write(content)
    return content.getvalue()


WHOLE = {
    ".json": b"{}",
    ".parquet": _of(lambda content: pq.write_table(pa.table({"key": []}), content)),
    ".model": _of(lambda content: zipfile.ZipFile(content, "w").close()),
}
"""Content of files that are whole, and empty otherwise, by their endings."""


def campaign(folder, **changes):
    """Resolve and write a campaign below `folder`, whose configuration is `trial.yaml`."""
    content = CONTENT | {
        "results": str(folder / "results"),
        "label_store": str(folder / "results/labels"),
        "systems_folder": str(folder / "systems"),
    }
    system = yaml.safe_load((ROOT / "config/systems/methanol.yaml").read_text())
    xml = folder / "small-molecules.xml"
    if not xml.exists():
        xml.write_bytes((ROOT / "config/forcefields/small-molecules.xml").read_bytes())
        os.utime(xml, (time.time() - 1e5,) * 2)
    system["forcefield"]["files"] = [str(xml)]
    (folder / "systems").mkdir(exist_ok=True)
    (folder / "systems/methanol.yaml").write_text(yaml.safe_dump(system))
    (folder / "trial.yaml").write_text(yaml.safe_dump(content | changes))
    found = Campaign.resolve(content | changes, "trial.yaml")
    found.write()
    return found


def replica_end(replica, time_ps, *, failure=None, **more):
    """How a replica ended."""
    known = {"structure": "methanol", "temperature_K": 500.0, "atoms": 3}
    return ReplicaEnd(**known | more, replica=replica, time_ps=time_ps, failure=failure)


def eight_ends(time_ps, active, *, failed=0, **more):
    """How eight replicas ended, unreliable between these times, ps; the first ones failed."""
    return [
        replica_end(
            number,
            time_ps,
            failure="bond broken" if number < failed else None,
            activity_ps=active,
            molecules=1,
            **more,
        )
        for number in range(8)
    ]


def calm_traces(ends, gains=None, *, points_per_ps=10):
    """Traces of replicas whose expected error is new at each point, and whose Λ grows evenly.

    `gains` are the Λ at the end of each, ps; by default 0.
    """
    random = np.random.default_rng(1)
    parts = []
    for end, gain in zip(ends, gains or [0.0] * len(ends), strict=True):
        times = np.arange(1, round(end.time_ps * points_per_ps) + 1) / points_per_ps
        index = gain * times / end.time_ps
        parts.append(
            pd.DataFrame(
                {
                    "replica": end.replica,
                    "structure": end.structure,
                    "target_temperature": end.temperature_K,
                    "time": times,
                    "cli_error": index,
                    "cli_error_max": index,
                    "cli_label": index,
                    "cli_label_max": index,
                    "cli_guard": index,
                    "expected_error": 0.05 + 0.01 * random.normal(size=len(times)),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def made_up_verdict(decision, *, generation=1, **more):
    """A verdict; what is not given is as in the earliest release's files."""
    assessment = {"finding": "not saturated", "reason": "made up", "excursions": 3}
    assessment |= {"atom_time_ps": 36.0, "rate_per_atom_ps": 0.08, "rate_bound_per_atom_ps": 0.2}
    assessment |= {"rate_limit_per_atom_ps": 0.1, "confidence": 0.95, "replicas": 4, "failed": 0}
    content = {"system": "methanol", "generation": generation, "decision": decision}
    content |= {"reason": "made up", "labels": {"spent": 10}, "label_budget": 500}
    return Verdict.model_validate(
        content | {"saturation": assessment | {"homogeneity_p": None}} | more
    )


def made_up_audit(finding, reason):
    """An audit that found this, without its parts."""
    return Audit(
        finding=finding,
        reason=reason,
        parts=[],
        forces_goal_meV_per_A=43.0,
        energy_goal_meV_per_atom=None,
        confidence=0.95,
    )


def finish(found, generations, decision="continue"):
    """Put down the outputs of so many generations, a second between two files."""
    clock = itertools.count(time.time() - 50_000)
    jobs = paths.start_jobs(found, "methanol")
    for number in range(generations):
        jobs += paths.generation_jobs(found, "methanol", number)
    if decision != "continue":
        jobs += paths.end_jobs(found, "methanol", decision)
    for job in jobs:
        for path in (*job.outputs, job.log):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(WHOLE.get(path.suffix, b""))
            if job.stage == "verdict" and path.suffix == ".json":
                labels = {"train": 20, "validation": 15, "test": 20, "bad": 0}
                labels["spent"] = 55 + 20 * (job.generation + 1)
                made_up_verdict(decision, generation=job.generation, labels=labels).write(path)
            when = next(clock)
            os.utime(path, (when, when))
