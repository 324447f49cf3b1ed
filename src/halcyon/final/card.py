"""The model card in numbers: `card.json` of the folder `final/`.

    from pathlib import Path
    from halcyon.final.card import Card

    card = Card.read(Path("results/quickstart/ethanol/final/card.json"))
    print(card.errors["test"].forces_mae_meV_per_A, card.watch.rate)

Not for: computing one (`card_of_result`), or the card in words (`model_card`).
"""

from typing import ClassVar

from pydantic import Field

from halcyon.domain.margins import Margin
from halcyon.final.certificate import HANDED_ON, CampaignEnd, Conclusion, Level
from halcyon.final.monitor.watch import Thresholds
from halcyon.models.metrics import SetErrors
from halcyon.verdict.forms import File, Form


class Model(Form):
    """The MACE model."""

    file: str
    description: str = Field(description="Elements and size, for people.")
    elements: list[str] = Field(description="Chemical symbols in the order of the model.")


class Structure(Form):
    """A start structure."""

    name: str
    file: str = Field(description="Extended XYZ, relative to the card's folder.")
    formula: str
    atoms: int = Field(description="Number of atoms.")
    charge: int = Field(description="Total charge, e.")
    multiplicity: int = Field(description="Spin multiplicity 2S + 1.")
    periodic: bool
    fixed_atoms: list[int] = Field(
        [],
        exclude_if=lambda value: not value,  # most have none; cards of early releases lack it
        description="Atoms, from 0, that no dynamics moved; constraints of the file, as ASE reads "
        "them.",
    )


class LevelOfTheory(Level):
    """Level of theory of the labels, also in words."""

    words: str = Field(description="The level in a few words.")


class DomainSummary(Form):
    """The domain in short."""

    file: str
    words: str = Field(description="Classes of atoms and margin, for people.")
    margin: Margin
    exceedance: dict[str, int | float] = Field(
        description="Fraction of held-out atomic energies outside the label domain, with its "
        "interval and their number; empty where no frames were held out."
    )


class CertificateSummary(Form):
    """What the certificate concludes."""

    file: str
    conclusion: Conclusion
    sentence: str = Field(description="The conclusion with its scope, for people.")


class LammpsExport(Form):
    """The model as LAMMPS reads it, and how well it agrees."""

    file: str
    frames: int = Field(description="Labelled frames that the export was compared on.")
    largest_difference: float = Field(
        description="Largest difference from the model, eV/atom or eV/Å, in double precision."
    )


class Card(File):
    """Model card: what a model is, what it learned, how good it is, and what it is not good for."""

    REMEDY: ClassVar[str] = f"{HANDED_ON} run `snakemake` again: it makes the folder again."

    campaign: str
    system: str
    kind: str = Field(description="Kind of system: molecule, liquid, reactive, solid or slab.")
    halcyon: str = Field(description="Version of Halcyon.")
    model: Model
    dtype: str = Field(description="Precision of the campaign's dynamics: float32 or float64.")
    timestep_fs: float = Field(description="Time step of the certificate's runs.")
    temperatures_K: list[float] = Field(description="Temperatures of the certificate's runs.")
    structures: list[Structure]
    level_of_theory: LevelOfTheory
    data: dict[str, int] = Field(description="Number of frames by split.")
    start: str = Field(description="What training started from, for people.")
    errors: dict[str, SetErrors] = Field(description="By set; a set without frames is left out.")
    domain: DomainSummary
    verdict: CampaignEnd
    certificate: CertificateSummary | None
    no_certificate: str = Field(description="Why there would be no certificate, for people.")
    watch: Thresholds = Field(description="Recommended thresholds of the monitor.")
    lammps: LammpsExport
    limits: list[str] = Field(description="What the model is not good for, or untested for.")
    caveats: list[str] = Field(
        [],
        exclude_if=lambda value: not value,  # cards of early releases lack it
        description="Which energy differences mean nothing, and what it cannot tell apart.",
    )
