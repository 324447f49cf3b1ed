"""Settings of what is asked of the model where it goes, and of the audit that measures it."""

from typing import Literal

from pydantic import Field

from halcyon.config.section import Count, Section


class AccuracySettings(Section):
    """What the model must reach on the frames that its own dynamics visits."""

    atom_force_eV_per_A: float = Field(
        0.5,
        gt=0,
        description="An atom whose force is expected to be wrong by more than this counts as "
        "unreliable, eV/Å: the domain of the model ends here, and the CLI counts the time beyond. "
        "Of a good model's atoms, some in a thousand are wrong by ten times the mean error of a "
        "component: a tolerance far below that of `forces_mae_meV_per_A` is never kept.",
    )
    forces_mae_meV_per_A: float | None = Field(
        43.0,
        gt=0,
        description="Goal: mean absolute error of force components on audit frames, meV/Å; a "
        "campaign saturates only if the audit's upper bound is under it. 43 is 1 kcal/(mol Å). "
        "null: not asked for.",
    )
    energy_mae_meV_per_atom: float | None = Field(
        5.0,
        gt=0,
        description="Goal: mean absolute error of energies relative to their mean on audit "
        "frames, meV/atom. null: not asked for.",
    )


class AuditSettings(Section):
    """Frames drawn at random from the model's own dynamics and labelled, to measure its errors."""

    frames: Count | None = Field(
        None,
        description="Audit frames of each structure and temperature in each generation. null: 10, "
        "and fewer where a label is dear: at least 5. They count against the label budget, and "
        "later generations learn from them.",
    )
    equilibration: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="First part of each replica's time from which no audit frame is drawn, as a "
        "fraction of `exploration.time_ps`.",
    )
    reservoir: Count = Field(
        200,
        description="Random frames kept of each structure and temperature. The audit takes "
        "some of them, of all replicas in turn; diverse frames are chosen among the others where "
        "the model was calm but wrong.",
    )
    second_opinion: Literal["index", "none", "gfn1", "gfn2"] = Field(
        "index",
        description="Who foretells the force errors of the random frames without a label, so that "
        "those with a label say more. index: the expected errors of the index, at no cost. gfn1 or "
        "gfn2: a second, cheaper Hamiltonian by tblite, not the campaign's own reference, whose "
        "difference from it is learned from earlier labels. The verdict takes the "
        "prediction-powered bound of the force error, which holds however wrong the foretold ones "
        "are, and the plain one stands beside it. none: the plain one alone.",
    )
    second_opinion_frames: int = Field(
        200,
        ge=10,
        description="Random frames of each structure and temperature that gfn1 or gfn2 judge, the "
        "audit's among them; at most as many as `reservoir`. The index judges all of them.",
    )

    @property
    def hamiltonian(self) -> Literal["gfn1", "gfn2"] | None:
        """The second Hamiltonian that is asked, if any."""
        return self.second_opinion if self.second_opinion in ("gfn1", "gfn2") else None
