"""Settings of the certificate: how long and how hot the final model is put to the test."""

from typing import Literal

from pydantic import Field

from halcyon.config.section import Count, Section, Temperatures


class CertificateSettings(Section):
    """Long runs with the final model, after the campaign; what they show is its certificate."""

    when: Literal["saturated", "always", "never"] = Field(
        "saturated",
        description="Which models get a certificate. saturated: if the campaign saturated; always: "
        "also if it ended at a limit; never: none.",
    )
    temperatures_K: Temperatures | None = Field(
        None, description="Thermostat temperatures, K; by default exploration.temperatures_K."
    )
    replicas: Count = Field(
        8,
        description="Replicas of each explored structure at each temperature, without and with "
        "a thermostat.",
    )
    time_ps: float = Field(
        1000.0, gt=0, description="Simulated time of each replica with a thermostat (nvt), ps."
    )
    nve_time_ps: float = Field(
        20.0, gt=0, description="Simulated time of each replica without a thermostat (nve), ps."
    )
    timestep_fs: float | None = Field(
        None, gt=0, le=5, description="Time step, fs; by default exploration.timestep_fs."
    )
    trace_points_per_ps: int = Field(
        10, ge=1, le=2000, description="Points kept of each replica's traces, 1/ps."
    )
    max_drift_meV_per_atom_ps: float = Field(
        1.0,
        gt=0,
        description="Without a thermostat the total energy of no replica may drift faster than "
        "this, meV/(atom ps).",
    )
