"""A campaign that is harmed in twenty ways at random moments ends as an undisturbed one.

Whatever happens (kills, second commands, edits, files that are cut, emptied, overwritten or
deleted), a run either goes on, or ends with a message that names a file and says what to do. Who
does that gets the labels and the verdict of a campaign that nobody disturbed.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import yaml

from halcyon import files
from halcyon.frames import read_frames

SEED = 19
REPAIRS = 12
"""Runs after the last harm that may end with a message before the campaign must be done."""
GENERATIONS = int(os.environ.get("HARMED_GENERATIONS", "1"))
"""Generations of the campaign; with 1 the test takes some 4 minutes of one core."""
SMALLER = {
    "teacher": {"md_frames": 40},
    "pretraining": {"epochs": 1},
    "training": {"epochs": 2},
    "seed_labels": {"train": 6, "validation": 6, "test": 5},
    "exploration": {
        "replicas": 4,
        "time_ps": 0.4,
        "equilibration_ps": 0.1,
        "checkpoint_s": 0.2,
        "replacements": 0,
    },
    "selection": {"frames": 4},
    "certificate": {"when": "never"},
    "limits": {"max_generations": GENERATIONS},
    "resources": {"label_shards": 1},
}
DAMAGED = re.compile(r"^  (?P<path>/?\S+): .+$", re.MULTILINE)
REMEDY = re.compile(r"(?P<path>\S*results/\S+?): .*[Dd]elete (this|the) file")


class Harmed:
    """A campaign at work, and the ways to harm it. Each way gives its name."""

    def __init__(self, checkout, name):
        self.checkout, self.name = checkout, name
        self.config = checkout.configure(name, **SMALLER, label_store=f"results/{name}-labels")
        self.random = random.Random(SEED)
        self.folder = checkout / f"results/{name}"
        self.output = checkout / f"{name}.log"
        self.process = None

    # The campaign's runs

    def start(self):
        with self.output.open("ab") as log:
            self.process = subprocess.Popen(
                self.checkout.command(self.config),
                cwd=self.checkout.folder,
                env=self.checkout.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for_a_stage(self):
        """Until another stage is done, and a moment longer; or until the run has ended."""
        ledger, before = self.folder / "stages.jsonl", self._size()
        while self.process.poll() is None and self._size() <= before:
            time.sleep(0.1)
        assert ledger.parent.exists()
        time.sleep(self.random.uniform(0, 1.5))

    def _size(self):
        ledger = self.folder / "stages.jsonl"
        return ledger.stat().st_size if ledger.exists() else 0

    def stop(self):
        """End the run and all its jobs, if they still live."""
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, kind)
            except ProcessLookupError:
                break
            time.sleep(self.random.choice((0, 0.5)))
        self.process.wait()

    def command(self, *more, config=None):
        """What another person's command prints meanwhile."""
        done = subprocess.run(
            self.checkout.command(config or self.config, *more),
            cwd=self.checkout.folder,
            env=self.checkout.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert "Traceback (most recent call last)" not in done.stdout, done.stdout
        return done

    def _edited(self):
        content = yaml.safe_load((self.checkout / self.config).read_text())
        content["exploration"]["temperatures_K"] = [900.0]
        path = self.checkout / "edited.yaml"
        path.write_text(yaml.safe_dump(content))
        return path.name

    def _any(self, *patterns, folder=None):
        """One of the campaign's files that are there, or None."""
        found = [p for pattern in patterns for p in sorted((folder or self.folder).glob(pattern))]
        return self.random.choice(found) if found else None

    # Commands

    def second_command(self):
        alive = self.process.poll() is None
        before = (self.folder / "campaign.json").read_bytes() if alive else b""
        # Should the run end just now, the command may have the campaign, and finds this rule done.
        more = ("--until", "forcefield")
        done = self.command(*more, config=self._edited()) if alive else None
        if done is not None and self.process.poll() is None:
            assert done.returncode
            assert "another Halcyon process works here" in done.stdout
            assert (self.folder / "campaign.json").read_bytes() == before

    def look(self):
        self.command("-n", config=self._edited())

    def summary(self):
        self.command("--summary")

    def broken_config(self):
        text = (self.checkout / self.config).read_text()
        broken = self.checkout / "broken.yaml"
        broken.write_text(text + "\nexploration: {time_ps: 9}\n")
        done = self.command(config=broken.name)
        assert done.returncode
        assert "broken.yaml" in done.stdout

    # Kills

    def kill_all(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def kill_the_workflow_alone(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def ask_it_to_stop(self):
        self.process.terminate()

    # Files

    def cut_a_table(self):
        return self._cut(self._any("methanol/*/*.parquet", "methanol/*/labels/*.parquet"))

    def cut_a_model(self):
        return self._cut(self._any("methanol/*/*.model"))

    def cut_a_checkpoint(self):
        return self._cut(
            self._any(
                "work/methanol/*/*/*.checkpoint",
                "work/methanol/*/*/mace-run/checkpoint.pt",
                "work/methanol/**/*.npz",
            )
        )

    def cut_the_ledger(self):
        return self._cut(self._any("stages.jsonl"), 20)

    def cut_a_shard_of_the_store(self):
        store = self.checkout / f"results/{self.name}-labels"
        return self._cut(self._any("*/*.parquet", folder=store))

    def empty_a_form(self):
        return self._write(self._any("methanol/*/*.json"), b"")

    def overwrite_a_form(self):
        return self._write(self._any("methanol/*/*.json"), b"\x00 {]")

    def overwrite_what_the_campaign_is(self):
        return self._write(self._any("campaign.json", "identity.json"), b"{")

    def overwrite_what_the_checks_left(self):
        checked = self.checkout / "results/prepared/checked"
        return self._write(self._any("*.json", folder=checked), b"")

    def delete_an_output(self):
        path = self._any("methanol/gen*/*.*", "methanol/teacher/*.*", "methanol/seed/*.parquet")
        if path is not None:
            path.unlink(missing_ok=True)
        return path

    def delete_labels(self):
        path = self._any("methanol/*/labels/*.parquet")
        if path is not None:
            path.unlink(missing_ok=True)
        return path

    def delete_the_work(self):
        self.stop()  # the locks of running jobs are in it
        shutil.rmtree(self.folder / "work", ignore_errors=True)

    def touch_everything(self):
        for path in self.folder.glob("methanol/*/*.*"):
            path.touch()

    def _cut(self, path, size=100):
        return None if path is None else self._write(path, path.read_bytes()[:-size])

    def _write(self, path, content):
        if path is not None:
            path.write_bytes(content)
        return path


HARMS = (
    "second_command",
    "look",
    "summary",
    "broken_config",
    "kill_all",
    "kill_the_workflow_alone",
    "ask_it_to_stop",
    "cut_a_table",
    "cut_a_model",
    "cut_a_checkpoint",
    "cut_the_ledger",
    "cut_a_shard_of_the_store",
    "empty_a_form",
    "overwrite_a_form",
    "overwrite_what_the_campaign_is",
    "overwrite_what_the_checks_left",
    "delete_an_output",
    "delete_labels",
    "delete_the_work",
    "touch_everything",
)


def labels(folder):
    """All labels of a campaign: key, split, energy and forces of each frame of each batch."""
    return {
        path.relative_to(folder).as_posix(): [
            (
                *(frame.info.get(name) for name in ("key", "split", "status", "energy")),
                frame.arrays.get("forces"),
            )
            for frame in read_frames(path)
        ]
        for path in sorted(folder.glob("methanol/*/labels/*.parquet"))
    }


def verdicts(folder):
    """All verdicts of a campaign, without what they cost."""
    contents = [files.read_json(path) for path in sorted(folder.glob("methanol/*/verdict.json"))]
    return [{k: v for k, v in content.items() if k != "core_hours"} for content in contents]


def repaired(folder, output):
    """Do what a message says: delete the files that it names. Gives these files."""
    named = {match["path"] for match in REMEDY.finditer(output)}
    if "damaged files; nothing was run or removed" in output:
        named |= {match["path"] for match in DAMAGED.finditer(output)}
    paths = [path for name in named if (path := folder / name).is_file()]
    for path in paths:
        path.unlink()
    return paths


def test_twenty_harms_at_random_moments_change_neither_labels_nor_verdict(checkout):
    undisturbed = Harmed(checkout, "unharmed")
    assert undisturbed.command().returncode == 0
    expected = labels(undisturbed.folder), verdicts(undisturbed.folder)
    assert len(expected[1]) == GENERATIONS

    campaign = Harmed(checkout, "harmed")
    order = campaign.random.sample(HARMS, len(HARMS))
    assert len(order) == 20
    history = []
    for harms in zip(order[::2], order[1::2], strict=True):
        campaign.start()
        campaign.wait_for_a_stage()
        for harm in harms:
            history += [(harm, getattr(campaign, harm)())]
        campaign.stop()
        # Who finds that the last command was refused does what it says, as a person would.
        done = campaign.command("-n")
        if done.returncode:
            assert repaired(checkout.folder, done.stdout), f"{history[-2:]}\n{done.stdout}"
    for _ in range(REPAIRS):
        done = campaign.command()
        if done.returncode == 0:
            break
        assert repaired(checkout.folder, done.stdout), f"{history}\n{done.stdout}"
    assert done.returncode == 0, f"{history}\n{done.stdout}"
    found = labels(campaign.folder), verdicts(campaign.folder)
    assert found[1] == expected[1], history
    assert found[0].keys() == expected[0].keys()
    for name, frames in expected[0].items():
        assert [frame[:4] for frame in found[0][name]] == [frame[:4] for frame in frames], name
        for ours, theirs in zip(found[0][name], frames, strict=True):
            np.testing.assert_array_equal(ours[4], theirs[4])
