"""What all sections of the configuration share: strictness, and the types of values."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from halcyon.config.faults import NAME

Name = Annotated[str, Field(pattern=NAME, max_length=60)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
AtomIndex = Annotated[int, Field(ge=0)]
Hamiltonian = Literal["GFN2-xTB", "GFN1-xTB", "IPEA1-xTB"]
"""The Hamiltonians of tblite."""
CalculatorPath = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
"""Import path of a calculator of ASE."""
Temperatures = Annotated[list[Annotated[float, Field(gt=0, le=10_000)]], Field(min_length=1)]


class Section(BaseModel):
    """A part of the configuration. Unknown keys are errors; values cannot change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
