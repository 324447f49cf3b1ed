"""Settings of what makes a label, that the program calls good, trusted."""

from pydantic import Field

from halcyon.config.section import Section


class SanitySettings(Section):
    """Which labels are trusted. See docs/labels.md for what each check catches."""

    net_force_eV_per_A: float | None = Field(
        0.2,
        gt=0,
        description="A label is rejected if its forces do not sum to zero: the length of their "
        "sum, divided by the square root of the number of atoms, is larger than this, eV/Å. "
        "Noise of a grid is 0.05 for methanol at the shipped CP2K level. null: not checked.",
    )
    energy_range_eV: float | None = Field(
        10.0,
        gt=0,
        description="A label is rejected if its energy is further than this, and heat, from the "
        "median of the labels of its composition, eV. Heat is 3/2 k_B T per atom at the highest "
        "temperature of exploration. null: not checked.",
    )
    distortion_range_eV_per_atom: float = Field(
        3.0,
        ge=0,
        description="What the range is wider by upwards, eV/atom: frames before a failure are "
        "distorted. Random ones of ethanol with forces under 50 eV/Å reach 2.8 eV/atom.",
    )
    reaction_range_eV_per_atom: float = Field(
        1.0,
        ge=0,
        description="What the range of a `reactive` system is wider by downwards, eV/atom: "
        "reactions release energy, those of hydrogen and oxygen 0.8.",
    )
    energy_widths: float = Field(
        20.0,
        gt=0,
        description="An energy within so many robust standard deviations (1.4826 times the median "
        "absolute deviation) of the median is never out of range.",
    )
    least_labels: int = Field(
        8,
        ge=3,
        description="With fewer labels of a composition nothing is said of energies.",
    )
    xtb: bool = Field(
        True,
        description="GFN2-xTB is the second witness where the reference is another method: it "
        "flags labels that differ from it as no other of the composition does, and a label that "
        "it confirms is not rejected for its energy. Milliseconds a frame.",
    )
    xtb_widths: float = Field(
        6.0,
        gt=0,
        description="A label is flagged if energy or forces differ from GFN2-xTB's by so many "
        "robust standard deviations more than usual.",
    )
    finite_difference: bool = Field(
        True,
        description="One frame of the seed, and of each generation, has its forces held against "
        "the slope of the energy: two calculations more.",
    )
    force_error_eV_per_A: float = Field(
        0.1,
        gt=0,
        description="What a force along a direction may differ from the slope of the energy by, "
        "besides 5 % of it, eV/Å.",
    )
