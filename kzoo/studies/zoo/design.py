"""The profile of the zoo's study."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from kzoo.studies.design import Section
from kzoo.studies.sections import NAME


class Profile(Section):
    """A profile of ``params.yaml``: the networks of the zoo that are trained again, and for how many epochs.

    With no ``epochs`` (null) a network is trained for as many as its recipe says.
    """

    networks: list[Annotated[str, StringConstraints(pattern=NAME)]] = Field(min_length=1)
    epochs: int | None = Field(default=None, ge=1)
