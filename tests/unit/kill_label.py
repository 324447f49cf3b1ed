"""Kill a label job at random moments, again and again: python kill_label.py PLAN.json OUT.json

A program of `test_label_kills.py`. What is killed is scripts/label.py itself, from its first line
on; only the imports are there before: this process forks. Every other kill comes after a random
time, the rest after a random number of records: however fast the machine, all phases are hit.
"""

import json
import os
import random
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import tblite.interface  # noqa: F401

from halcyon import jsonl
from halcyon.labels.journal import NAME


def start(words: list[str]) -> int:
    """A label job in a process of its own."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        output = os.open(os.devnull, os.O_WRONLY)
        os.dup2(output, 1)
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:  # noqa: BLE001 - a forked process must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, seconds: float, journal: Path | None = None, records: int = 0) -> int | None:
    """Exit code of a process; None if it did not end in time, or before so many records."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if journal and len(jsonl.read(journal)) >= records:
            return None
        time.sleep(0.002)
    return None


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    dice = random.Random(plan["seed"])
    begun = time.monotonic()
    assert ended(start(plan["undisturbed"]), 300) == 0, "an undisturbed job fails"
    whole = time.monotonic() - begun
    kills, rounds = [], 0
    for words, folder, log in plan["rounds"]:
        rounds += 1
        while True:
            pid = start(words)
            moment: dict[str, Any] = {"seconds": 300}
            if len(kills) < plan["kills"]:
                moment["seconds"] = dice.uniform(0, whole)
                if len(kills) % 2 == 0:
                    # The first of all comes before any record.
                    records = dice.randrange(plan["frames"]) if kills else 0
                    moment = {"seconds": 300, "journal": Path(folder) / NAME, "records": records}
            code = ended(pid, **moment)
            if code is not None:
                assert code == 0, f"exit code {code}"
                break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            journaled = [entry["info"]["key"] for entry in jsonl.read(Path(folder) / NAME)]
            begun_so_far = Path(log).read_text().splitlines() if Path(log).exists() else []
            kills.append(
                {
                    "round": rounds - 1,
                    "journaled": journaled,
                    "begun": len(begun_so_far),
                    "written": Path(words[words.index("--out") + 1]).exists(),
                }
            )
        if len(kills) >= plan["kills"]:
            break
    Path(sys.argv[2]).write_text(json.dumps({"kills": kills, "rounds": rounds, "whole": whole}))


if __name__ == "__main__":
    main()
