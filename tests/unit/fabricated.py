"""A campaign whose files are there, in the order of their times, without any job having run."""

import itertools
import os
import time

import yaml

from conftest import ROOT
from halcyon import files
from halcyon.campaign import paths
from halcyon.campaign.campaign import Campaign

CONTENT = {
    "campaign": "trial",
    "systems": ["methanol"],
    "reference": {"backend": "xtb"},
    "limits": {"max_generations": 4, "label_budget": 200},
}


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


def finish(found, generations, decision="continue"):
    """Put down the outputs of so many generations, a second between two files."""
    clock = itertools.count(time.time() - 50_000)
    jobs = paths.start_jobs(found, "methanol")
    for number in range(generations):
        jobs += paths.generation_jobs(found, "methanol", number)
    if decision != "continue":
        jobs += paths.end_jobs(found, "methanol", {**paths.SATURATED, "decision": decision})
    for job in jobs:
        for path in (*job.outputs, job.log):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            if job.stage == "verdict" and path.suffix == ".json":
                labels = {"train": 20, "validation": 15, "test": 20, "bad": 0}
                labels["spent"] = 55 + 20 * (job.generation + 1)
                files.write_json(
                    path,
                    {
                        "generation": job.generation,
                        "decision": decision,
                        "reason": "made up",
                        "labels": labels,
                        "saturation": {},
                    },
                )
            when = next(clock)
            os.utime(path, (when, when))
