"""The benchmarks run; what they measure is not tested here."""

import importlib.util
import json
import sys

import pytest

from conftest import ROOT


@pytest.fixture
def benchmark(monkeypatch):
    """Load a benchmark by its name, as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look themselves up
        spec.loader.exec_module(module)
        return module

    return load


def test_exploration_speed_explains_itself(benchmark, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark("exploration_speed").main(["--help"])
    assert ended.value.code == 0
    assert "--quick" in capsys.readouterr().out


def test_exploration_speed_gives_its_numbers(benchmark, tmp_path, capsys):
    written = tmp_path / "speed.json"
    options = "--systems ethanol --batches 1 2 --dtypes float32 --steps 2 --rounds 1 --epochs 1"
    benchmark("exploration_speed").main(
        [*options.split(), "--quick", "--profile", "--json", str(written)]
    )
    found = json.loads(written.read_text())
    for key in ("ratio_vs_ase", "monitor_overhead"):
        for batch in ("1", "2"):
            entry = found[key]["ethanol"]["float32"][batch]
            assert entry["min"] <= entry["median"] <= entry["max"]
    assert [case["steps_per_block"]["bare"] for case in found["cases"]] == [2, 2]
    assert found["profile"][0]["ms_per_step"]["model"] > 0
    assert found["machine"]["threads"] == 1
    assert "Halcyon / ASE" in capsys.readouterr().out


def test_teacher_speed_gives_its_numbers(benchmark, tmp_path, capsys):
    written = tmp_path / "speed.json"
    options = ["--systems", "ethanol", "--rounds", "2", "--md-frames", "6"]
    benchmark("teacher_speed").main([*options, "--json", str(written)])
    found = json.loads(written.read_text())
    assert found["frames_per_minute"]["ethanol"] > 0
    (case,) = found["cases"]
    assert case["low"] <= case["frames_per_minute"] <= case["high"]
    assert case["frames"] > 100
    assert "per minute" in capsys.readouterr().out


def test_label_store_gives_its_numbers(benchmark, tmp_path, capsys):
    written = tmp_path / "store.json"
    options = ["--labels", "1500", "--per-shard", "20", "--json", str(written)]
    benchmark("label_store").main(options)
    found = json.loads(written.read_text())
    assert (found["labels"], found["shards"], found["stream"]["labels"]) == (1500, 75, 1500)
    assert found["look_up"]["memory_MiB"] >= found["idle"]["memory_MiB"] > 10
    assert found["look_up"]["cold_s"] > 0
    assert "1,500 labels of 21 atoms" in capsys.readouterr().out
