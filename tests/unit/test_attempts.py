"""Attempts at a job: what the next one, and the workflow, learn from those before."""

from halcyon.campaign.attempts import Attempts, Ended, count


def test_how_attempts_ended_is_found_again(tmp_path):
    tried = Attempts(tmp_path / "work/attempts/explore.jsonl")
    assert tried.read() == []
    assert tried.begin("run 1") == 0  # killed: no second line
    assert tried.begin("run 1") == 1
    tried.end(1, Ended.SAVED, 12.34, "")
    assert tried.begin("run 2") == 2
    tried.end(2, Ended.FAILED, 1.0, "no memory")
    found = tried.read()
    assert [one.ended for one in found] == [Ended.KILLED, Ended.SAVED, Ended.FAILED]
    assert [one.seconds for one in found] == [0.0, 12.34, 1.0]
    assert found[2].message == "no memory"
    assert count(found, Ended.KILLED) == 1
    assert count(found, Ended.FAILED, "run 1") == 0
    assert count(found, Ended.FAILED, "run 2") == 1
    tried.clear()
    assert tried.read() == []


def test_a_line_torn_by_a_kill_costs_no_other(tmp_path):
    tried = Attempts(tmp_path / "explore.jsonl")
    tried.end(tried.begin("run"), Ended.SAVED, 5.0)
    whole = tried.path.read_bytes()
    tried.path.write_bytes(whole + b'\n{"run": "run", "beg')
    assert tried.begin("run") == 1
    tried.end(1, Ended.SAVED, 7.0)
    assert [one.seconds for one in tried.read()] == [5.0, 7.0]
