"""The KServe V2 (Open Inference) protocol of the iris model without a wire: tensors in, tensors or a Refusal out.

`v2_rest.py` and `v2_grpc.py` put it on JSON and protobuf; both give the same answers and the same complaints.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Any

from headgate.demo.behaviour import Behaviour, Counts
from headgate.demo.iris import FEATURES, Iris

SERVER_NAME = "headgate-demo"
SERVER_VERSION = "1"
PLATFORM = "headgate_logistic_regression"
SHADOW_HEADER = "x-shadow"
VMODEL_HEADER = "mm-vmodel-id"
"""ModelMesh's header: which of a shared server's versions a request is for."""

INPUT = {"name": "input", "datatype": "FP32", "shape": [-1, FEATURES]}
OUTPUTS = (
    {"name": "label", "datatype": "BYTES", "shape": [-1]},
    {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
)
MOST_FLOWERS = 10_000


class Fault(Enum):
    """Why there is no answer, as (HTTP status, gRPC status name)."""

    INVALID = (400, "INVALID_ARGUMENT")
    UNKNOWN = (404, "NOT_FOUND")
    BROKEN = (500, "INTERNAL")
    UNREADY = (503, "UNAVAILABLE")


class Refusal(Exception):
    """The request cannot be answered; both wires turn it into their own error."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Sequence[Any]


def infer(model: Iris, inputs: Sequence[Tensor], outputs: Sequence[str]) -> tuple[Tensor, ...]:
    """Check the tensors, predict, and give the wanted outputs (all of them when none is named)."""
    known = [str(output["name"]) for output in OUTPUTS]
    if unknown := [name for name in outputs if name not in known]:
        raise Refusal(Fault.INVALID, f"there is no output {unknown[0]!r}; there are {', '.join(known)}")
    values = _values(inputs)
    flowers = len(values) // FEATURES
    predictions = [model.predict(values[at * FEATURES : (at + 1) * FEATURES]) for at in range(flowers)]
    tensors = {
        "label": Tensor("label", "BYTES", (flowers,), [prediction.label for prediction in predictions]),
        "probabilities": Tensor(
            "probabilities",
            "FP32",
            (flowers, len(model.classes)),
            [probability for prediction in predictions for probability in prediction.probabilities],
        ),
    }
    return tuple(tensors[name] for name in (outputs or known))


def _values(inputs: Sequence[Tensor]) -> list[float]:
    if len(inputs) != 1:
        raise Refusal(Fault.INVALID, f"one input tensor named 'input' is needed, got {len(inputs)}")
    tensor = inputs[0]
    if tensor.name != "input":
        raise Refusal(Fault.INVALID, f"there is no input {tensor.name!r}; it is called 'input'")
    if tensor.datatype not in ("FP32", "FP64"):
        raise Refusal(Fault.INVALID, f"input 'input' must have datatype FP32 or FP64, got {tensor.datatype!r}")
    if len(tensor.shape) != 2 or tensor.shape[1] != FEATURES or not 1 <= tensor.shape[0] <= MOST_FLOWERS:
        raise Refusal(
            Fault.INVALID,
            f"input 'input' must have shape [n, {FEATURES}] with n from 1 to {MOST_FLOWERS}, got {list(tensor.shape)}",
        )
    if len(tensor.data) != tensor.shape[0] * FEATURES:
        raise Refusal(
            Fault.INVALID,
            f"input 'input' of shape {list(tensor.shape)} needs {tensor.shape[0] * FEATURES} values, "
            f"got {len(tensor.data)}",
        )
    for at, value in enumerate(tensor.data):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise Refusal(Fault.INVALID, f"input 'input' must hold finite numbers, value {at} is {value!r}")
    return [float(value) for value in tensor.data]


@dataclass
class Served:
    """The state both wires share: the versions of one named model, the behaviour and the counts.

    Several versions make a shared server as in ModelMesh: `mm-vmodel-id` or the version in the request chooses, and
    without either the first one answers.
    """

    name: str
    models: Mapping[str, Iris]
    behaviour: Behaviour = field(default_factory=Behaviour)
    random: Random = field(default_factory=lambda: Random(0))
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._released = asyncio.Event()
        self._counted = asyncio.Event()

    def behave(self, behaviour: Behaviour) -> None:
        """Change the behaviour from now on; requests on hold go on when it no longer holds."""
        self.behaviour = behaviour
        if not behaviour.hold:
            self._released.set()
            self._released = asyncio.Event()

    def model(self, name: str, version: str, vmodel: str = "") -> Iris:
        """The version asked for; a Refusal names those that exist."""
        if name != self.name:
            raise Refusal(Fault.UNKNOWN, f"there is no model {name!r}; this server has {self.name!r}")
        wanted = version or vmodel or next(iter(self.models))
        found = self.models.get(wanted)
        if found is None:
            raise Refusal(
                Fault.UNKNOWN, f"model {name!r} has no version {wanted!r}; there are {', '.join(self.models)}"
            )
        return found

    async def answer(self, model: Iris, inputs: Sequence[Tensor], outputs: Sequence[str]) -> tuple[Tensor, ...]:
        """One infer request under the present behaviour. Unready servers still answer, as real ones often do."""
        seconds, fails = self.behaviour.draw(self.random)
        tensors = infer(model, inputs, outputs)
        while self.behaviour.hold:
            await self._released.wait()
        if seconds:
            await asyncio.sleep(seconds)
        if fails:
            self.counts.errors += 1
            raise Refusal(Fault.BROKEN, "an error as ordered by error_rate")
        return tensors

    def arrived(self, shadow: str, *, grpc: bool = False) -> None:
        """Count one infer request, a mirrored copy apart; `left` must follow."""
        if shadow:
            self.counts.shadows += 1
            self.counts.grpc_shadows += grpc
        else:
            self.counts.requests += 1
        self.counts.in_flight += 1
        self._changed()

    def left(self, refusal: Refusal | None) -> None:
        self.counts.in_flight -= 1
        if refusal is not None and refusal.fault in (Fault.INVALID, Fault.UNKNOWN):
            self.counts.refused += 1
        self._changed()

    def asked_ready(self) -> bool:
        self.counts.readiness_checks += 1
        self._changed()
        return self.behaviour.ready

    async def wait_changed(self) -> None:
        """Return when a count has changed, so that a test can wait on what the server saw."""
        await self._counted.wait()

    def _changed(self) -> None:
        self._counted.set()
        self._counted = asyncio.Event()
