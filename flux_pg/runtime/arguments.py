"""Arguments of a call that did not come over HTTP (`ctx.call`, `flux invoke`): by name, from one
object, checked against the function's annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import UsageError
from ..records import FunctionSpec


class InputRefused(UsageError):
    """The input does not fit the function. `faults` names every fault by its path."""

    code = "invalid-input"

    def __init__(self, function: str, faults: list[dict[str, str]]) -> None:
        listed = "; ".join(f"{fault['path']}: {fault['message']}" for fault in faults)
        super().__init__(
            f"the input of {function} is not valid: {listed}",
            "Correct the fields named; the function was not run.",
        )
        self.faults = faults


def bind_arguments(spec: FunctionSpec, input: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for a function from an object.

    Raises:
        InputRefused: Something is missing or of the wrong type.
    """
    bound: dict[str, Any] = {}
    faults: list[dict[str, str]] = []
    for parameter in spec.parameters:
        if parameter.name not in input:
            if parameter.required:
                faults.append({"path": parameter.name, "message": "is required"})
            else:
                bound[parameter.name] = parameter.default
            continue
        try:
            bound[parameter.name] = msgspec.convert(input[parameter.name], parameter.annotation)
        except msgspec.ValidationError as error:
            faults.append({"path": parameter.name, "message": str(error)})
    if faults:
        raise InputRefused(spec.name, faults)
    return bound
