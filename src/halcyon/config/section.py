"""What all sections of the configuration share: strictness, and the types of values."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from halcyon.config.faults import NAME

Name = Annotated[str, Field(pattern=NAME, max_length=60)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
AtomIndex = Annotated[int, Field(ge=0)]
Temperatures = Annotated[list[Annotated[float, Field(gt=0, le=10_000)]], Field(min_length=1)]


class Section(BaseModel):
    """A part of the configuration. Unknown keys are errors; values cannot change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
