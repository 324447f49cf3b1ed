"""A copy of the repository to run campaigns in, as a user would: with snakemake."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "workflow", "profiles", "scripts", "src", "config", "envs")

LONGEST = ("test_campaign.py", "test_harm.py", "test_slurm.py", "test_watched.py", "test_budget.py")
"""Files that take minutes, longest first: shorter ones then fill both processes to the end."""

TINY = {
    "systems": ["methanol"],
    "reference": {"backend": "xtb"},
    "model": {"channels": 8, "r_max_A": 3.0},
    "teacher": {
        "md_frames": 90,
        "displaced_frames": 4,
        "stretched_frames": 2,
        "contact_frames": 2,
        "dissociated_frames": 2,
        "temperatures_K": [300.0, 600.0],
    },
    "pretraining": {"epochs": 3},
    "training": {"epochs": 4, "updates": None},
    "seed_labels": {"train": 10, "validation": 6, "test": 5},
    "exploration": {
        "temperatures_K": [300.0],
        "replicas": 6,
        "time_ps": 0.6,
        "candidate_interval_fs": 20.0,
        "checkpoint_s": 0.5,
    },
    "selection": {"frames": 6},
    "saturation": {"events_per_ns": 1e5},
    "limits": {"max_generations": 2, "label_budget": 60},
    "resources": {"train_cores": 1, "explore_cores": 1},
}


def pytest_collection_modifyitems(items) -> None:
    """Long files first; within a file all stays in order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


class Checkout:
    """A working copy; campaigns run in it through the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in PARTS:
            source = ROOT / part
            if source.is_symlink():
                (folder / part).symlink_to(source.readlink())
            elif source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, folder / part, ignore=ignored)
            else:
                shutil.copy(source, folder / part)

    def configure(self, name: str, **changes) -> str:
        """Write a campaign's file; `changes` replace whole sections of the tiny campaign."""
        content = {"campaign": name} | TINY
        for section, values in changes.items():
            merge = isinstance(values, dict) and section != "reference"
            content[section] = content.get(section, {}) | values if merge else values
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path.name

    def command(self, config: str, *more: str) -> list[str]:
        snakemake = Path(sys.executable).with_name("snakemake")
        return [str(snakemake), "--configfile", config, "--cores", "2", *more]

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return os.environ | {"PATH": path, "COLUMNS": "200"}

    def start(self, config: str, *more: str) -> subprocess.Popen:
        """Start a campaign in a process group of its own."""
        return subprocess.Popen(
            self.command(config, *more),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def run(self, config: str, *more: str, fails: bool = False) -> str:
        """Run a campaign to its end; all that it printed."""
        done = subprocess.run(
            self.command(config, *more),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout

    def __truediv__(self, path: str) -> Path:
        return self.folder / path


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def finished(checkout) -> tuple[str, str]:
    """A tiny campaign that ran undisturbed: its configuration file and what it printed."""
    config = checkout.configure("undisturbed")
    return config, checkout.run(config)


@pytest.fixture
def cheap_level(checkout):
    """The shipped level of theory on a coarse grid: real, but seconds a frame."""
    level = yaml.safe_load((checkout / "config/cp2k/pbe-d3-dzvp.yaml").read_text())
    text = json.dumps(level)
    assert '"cutoff": ' in text.lower()
    dft = level["force_eval"]["dft"]
    dft["mgrid"]["cutoff"] = 120
    (checkout / "cheap.yaml").write_text(yaml.safe_dump(level))
    (checkout / "config/systems/water.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "water",
                "forcefield": {
                    "kind": "forcefield_xml",
                    "files": ["config/forcefields/small-molecules.xml"],
                },
                "structures": [{"name": "water", "smiles": "O", "box_A": 6.0}],
            }
        )
    )
    return checkout
