"""Kill a label job at random moments, again and again: python kill_label.py PLAN.json OUT.json

A program of `test_label_kills.py`. What is killed is scripts/label.py itself, from its first line
on; only the imports are there before: this process forks.
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

import tblite.interface  # noqa: F401

import halcyon.reference.ase
import halcyon.reference.xtb
import halcyon.shard
import halcyon.stage  # noqa: F401
from halcyon.journal import NAME, entries


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


def ended(pid: int, seconds: float) -> int | None:
    """Exit code of a process; None if it did not end in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
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
            seconds = dice.uniform(0, whole) if len(kills) < plan["kills"] else 300
            code = ended(pid, seconds)
            if code is not None:
                assert code == 0, f"exit code {code}"
                break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            journaled = [entry["info"]["key"] for entry in entries(Path(folder) / NAME)]
            begun_so_far = Path(log).read_text().splitlines() if Path(log).exists() else []
            kills.append(
                {
                    "round": rounds - 1,
                    "after_s": seconds,
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
