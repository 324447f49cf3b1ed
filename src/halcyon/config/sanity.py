"""Settings of the checks that decide whether a label is trusted."""

from pydantic import Field

from halcyon.config.section import Section


class SanitySettings(Section):
    """Which labels are trusted. docs/labels.md says what each check finds."""

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
        description="A label is rejected if its energy differs from the median of its "
        "composition's labels by more than this plus the thermal energy, eV. The thermal energy "
        "is 3/2 k_B T per atom at the highest temperature of exploration. null: not checked.",
    )
    distortion_range_eV_per_atom: float = Field(
        3.0,
        ge=0,
        description="The range extends upwards by this much more, eV/atom, because frames before "
        "a failure are distorted. Random ones of ethanol with forces under 50 eV/Å reach 2.8 "
        "eV/atom.",
    )
    reaction_range_eV_per_atom: float = Field(
        1.0,
        ge=0,
        description="The range of a `reactive` system extends downwards by this much more, "
        "eV/atom, because reactions release energy; those of hydrogen and oxygen release 0.8.",
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
        description="With fewer labels of a composition, energies are not checked.",
    )
    xtb: bool = Field(
        True,
        description="Compare labels of another method with GFN2-xTB: a label whose difference is "
        "unusual for its composition is flagged, and a label whose energy GFN2-xTB confirms is "
        "not rejected for it. It takes milliseconds per frame.",
    )
    xtb_widths: float = Field(
        6.0,
        gt=0,
        description="A label is flagged if energy or forces differ from GFN2-xTB's by so many "
        "robust standard deviations more than usual.",
    )
    finite_difference: bool = Field(
        True,
        description="Compare the forces of one frame of the seed and of each generation with the "
        "slope of its energy, which takes two more calculations; where labels have a stress, "
        "compare that of one frame, too.",
    )
    force_error_eV_per_A: float = Field(
        0.1,
        gt=0,
        description="The force along a direction may differ from the slope of the energy by this "
        "and 5 % of the slope, eV/Å.",
    )
    stress_error_GPa: float = Field(
        0.3,
        gt=0,
        description="The stress along a strain may differ from the slope of the energy by this and "
        "5 % of the slope, GPa.",
    )
