"""The writer and the reader of JSON lines: kills in mid-line, several writers, what is torn."""

import os
import signal
import subprocess
import sys
import time

import pytest

from halcyon import jsonl


def test_entries_come_back_in_order(tmp_path):
    path = tmp_path / "new/folder/lines.jsonl"
    assert jsonl.read(path) == []
    for number in range(3):
        jsonl.append(path, {"number": number})
    assert jsonl.read(path) == [{"number": 0}, {"number": 1}, {"number": 2}]


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_torn_line_costs_itself_only(tmp_path, cut):
    path = tmp_path / "lines.jsonl"
    jsonl.append(path, {"number": 0})
    whole = path.read_bytes()
    jsonl.append(path, {"number": 1})
    line = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + line[: min(cut, len(line) - 1)])  # killed in the middle of a line
    jsonl.append(path, {"number": 2})
    entries = jsonl.read(path)
    assert entries[0] == {"number": 0}
    assert entries[-1] == {"number": 2}


def test_a_line_of_an_older_writer_without_its_end_does_not_join_the_next(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"number": 0}\n{"number": 1, "wo')
    jsonl.append(path, {"number": 2})
    assert jsonl.read(path) == [{"number": 0}, {"number": 2}]


def test_a_line_that_is_no_object_is_passed_over(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'12\n"text"\n\xff\xfe\n\x00\x00\n{"number": 0}\n')
    assert jsonl.read(path) == [{"number": 0}]


def test_reading_goes_on_where_it_ended(tmp_path):
    path = tmp_path / "lines.jsonl"
    jsonl.append(path, {"number": 0})
    first, place = jsonl.read_from(path, 0)
    with path.open("ab") as lines:
        lines.write(b'\n{"number": 1')  # its writer is still at work
    none, same = jsonl.read_from(path, place)
    with path.open("ab") as lines:
        lines.write(b"}\n")
    rest, _ = jsonl.read_from(path, same)
    assert (first, none, rest) == ([{"number": 0}], [], [{"number": 1}])


def test_what_json_does_not_know_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "lines.jsonl"
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsonl.append(path, {"loss": float("nan")})
    assert not path.exists()


WRITER = """
import sys
from pathlib import Path
from halcyon import jsonl

for number in range(10**9):
    jsonl.append(Path(sys.argv[1]), {"writer": sys.argv[2], "number": number, "text": "x" * 5000})
"""


def test_writers_that_are_killed_lose_at_most_the_line_they_were_at(tmp_path):
    path = tmp_path / "lines.jsonl"
    for writer in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, path, str(writer)])
        beside = subprocess.Popen([sys.executable, "-c", WRITER, path, f"beside {writer}"])
        while sum(e["writer"] == str(writer) for e in jsonl.read(path)) < 5:
            time.sleep(0.01)
        for each in (process, beside):
            os.kill(each.pid, signal.SIGKILL)
            each.wait()
    by_writer = {}
    for entry in jsonl.read(path):
        by_writer.setdefault(entry["writer"], []).append(entry["number"])
    assert len(by_writer) >= 6
    for numbers in by_writer.values():
        assert numbers == list(range(len(numbers)))  # none is missing in between
