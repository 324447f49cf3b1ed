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
    assert [case["steps_per_block"]["halcyon"] for case in found["cases"]] == [2, 2]
    assert found["profile"][0]["ms_per_step"]["model"] > 0
    assert found["machine"]["threads"] == 1
    assert "Halcyon / ASE" in capsys.readouterr().out
