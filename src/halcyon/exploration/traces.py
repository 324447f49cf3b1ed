"""Traces: the numbers that are written down of every replica, at a set number of points per ps.

Cumulative columns are exact at each point, however few points there are.

Not for: what the index is (see `domain.index`), or drawing (see `report`).
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from halcyon import files

TRACES_VERSION = 2
"""2: `kinetic_energy`, and a temperature about the centre of mass. 1 had the temperature
2K/(3N k_B), which counts the centre of mass among the degrees of freedom."""
_OF_BIAS = ("bias_energy", "variable_")
CUMULATIVE = ("cli_{}", "cli_{}_max", "excursions_{}")
"""Columns of each signal that add up along a trajectory."""

_BEFORE = {
    "replica": ("", "replica number"),
    "structure": ("", "start structure"),
    "target_temperature": ("K", "thermostat temperature the replica began with"),
    "time": ("ps", "simulated time of the replica"),
}
_EXPECTED = {
    "expected_error": ("eV/Å", "expected force error at this point, mean over atoms"),
    "expected_error_max": ("eV/Å", "greatest expected force error of an atom at this point"),
}
_AFTER = {
    "potential_energy": ("eV", "potential energy, without bias"),
    "temperature": ("K", "kinetic temperature about the centre of mass"),
    "kinetic_energy": ("eV", "kinetic energy, that of the centre of mass included"),
}


def trace_columns(signals: Sequence[str], variables: int = 0) -> dict[str, tuple[str, str]]:
    """Columns of traces: unit and meaning by name.

    Args:
        signals: the endings of their columns, e.g. `error`, `label`, `guard`, `latent`.
        variables: greatest number of collective variables of a bias.
    """
    of_signals: dict[str, tuple[str, str]] = {}
    for name in signals:
        domain = f"the {name} domain" if name in ("label", "guard") else f"the signal {name}"
        if name == "error":
            domain = "the tolerance for expected force errors"
        of_signals |= {
            f"cli_{name}": ("ps", f"mean over atoms of the CLI against {domain}"),
            f"cli_{name}_max": ("ps", f"greatest atomic CLI against {domain}"),
            f"rate_{name}": ("", "dΛ/dt since the last point: fraction of predictions outside"),
            f"excursions_{name}": ("", "excursions begun so far, summed over atoms"),
        }
    of_bias = {
        f"variable_{number}": ("Å, 1 or °", "collective variable of the bias, as configured")
        for number in range(1, variables + 1)
    }
    if variables:
        of_bias = {"bias_energy": ("eV", "energy of the bias")} | of_bias
    expected = _EXPECTED if "error" in signals else {}
    return _BEFORE | of_signals | expected | _AFTER | of_bias


TRACE_COLUMNS = trace_columns(["error", "label", "guard", "latent"])
"""Columns that all traces have; further signals add theirs."""


class Traces:
    """Points of all replicas in the order in which they were made."""

    def __init__(self, signals: Sequence[str], variables: int = 0) -> None:
        """Begin without points; signals and variables are as for `trace_columns`."""
        self.signals = list(signals)
        self.columns = trace_columns(signals, variables)
        at_point = _EXPECTED | _AFTER
        after = [name for name in self.columns if name in at_point or name.startswith(_OF_BIAS)]
        self._read = ["member", "time"]
        for pattern in CUMULATIVE:
            self._read += [pattern.format(name) for name in signals]
        self._read += after
        self._points: list[torch.Tensor] = []

    def add(self, points: torch.Tensor) -> None:
        """Add rows.

        Args:
            points: shape (rows, columns), float64: index of the replica among all of the run, time
                in ps, `CUMULATIVE` of each signal, and the columns that follow them.
        """
        self._points.append(points)

    def state(self) -> torch.Tensor:
        """What a checkpoint must hold: all points so far, shape (P, columns), float64."""
        if len(self._points) != 1:
            empty = torch.empty(0, len(self._read), dtype=torch.float64)
            self._points = [torch.cat([empty, *self._points])]
        return self._points[0]

    def restore(self, points: torch.Tensor) -> None:
        """Go on from a `state`."""
        self._points = [points]

    def table(
        self, numbers: Sequence[int], structures: Sequence[str], temperatures_K: Sequence[float]
    ) -> pd.DataFrame:
        """All points, by replica and time, with rates.

        Args:
            numbers: number of each replica of the run.
            structures: start structure of each.
            temperatures_K: temperature that the thermostat of each began with.
        """
        table = pd.DataFrame(self.state().numpy(), columns=self._read)
        members = table.pop("member").astype(int)
        table["replica"] = [numbers[i] for i in members]
        table["structure"] = [structures[i] for i in members]
        table["target_temperature"] = [float(temperatures_K[i]) for i in members]
        table = table.sort_values(["replica", "time"], ignore_index=True)
        by_replica = table.groupby("replica")
        elapsed = by_replica["time"].diff().fillna(table["time"])
        for name in self.signals:
            cli = table[f"cli_{name}"]
            gained = by_replica[f"cli_{name}"].diff().fillna(cli)
            # No time has passed where a replica failed while it was equilibrated.
            table[f"rate_{name}"] = (gained / elapsed).where(elapsed > 0, 0.0)
            table[f"excursions_{name}"] = table[f"excursions_{name}"].astype(int)
        return table[list(self.columns)]


def write_traces(path: Path, traces: pd.DataFrame) -> None:
    """Write traces as Parquet with units and meanings in the columns' metadata, atomically."""
    table = pa.Table.from_pandas(traces, preserve_index=False)
    signals = [name.removeprefix("rate_") for name in traces.columns if name.startswith("rate_")]
    variables = sum(name.startswith("variable_") for name in traces.columns)
    fields = [
        table.schema.field(name).with_metadata({"unit": unit, "meaning": meaning})
        for name, (unit, meaning) in trace_columns(signals, variables).items()
    ]
    schema = pa.schema(fields, metadata={"halcyon.traces": str(TRACES_VERSION)})
    with files.replacing(path) as temporary:
        pq.write_table(table.cast(schema), temporary, compression="zstd")
