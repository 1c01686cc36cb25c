"""Parameters of a method, held against what it may be told; without torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from kzoo.errors import InputError


def checked_parameters(name: str, model: type[BaseModel], values: Mapping[str, Any]) -> BaseModel:
    """The parameters of the method ``name``, whose model is ``model``.

    Raises:
        InputError: one is unknown or has a value that it cannot have.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        fault = error.errors()[0]
        field = str(fault["loc"][0]) if fault["loc"] else "parameters"
        if fault["type"] == "extra_forbidden":
            known = list(model.model_fields)
            near = difflib.get_close_matches(field, known, n=1)
            expected = f"did you mean {near[0]}?" if near else f"expected {', '.join(known) or 'none'}"
            raise InputError(f"method {name} has no parameter {field!r:.80}: {expected}") from None
        raise InputError(f"parameter {field} of method {name}: {fault['msg']}, found {fault['input']!r:.80}") from None
