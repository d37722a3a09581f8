"""A real small model: logistic regression on the classic iris flowers; measures in, class and probabilities out.

Two trained versions ship as JSON, so that v1 and v2 really answer differently: v1 knows the two sepal measures only
(82 % right), v2 knows all four (97 % right).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

FEATURES = 4
VERSIONS = ("v1", "v2")


@dataclass(frozen=True, slots=True)
class Prediction:
    label: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Iris:
    """One trained version. Inference is plain Python: three dot products need no numpy."""

    version: str
    note: str
    accuracy: float
    classes: tuple[str, ...]
    coefficients: tuple[tuple[float, ...], ...]
    intercepts: tuple[float, ...]

    def predict(self, flower: Sequence[float]) -> Prediction:
        scores = [
            sum(weight * value for weight, value in zip(row, flower, strict=True)) + intercept
            for row, intercept in zip(self.coefficients, self.intercepts, strict=True)
        ]
        highest = max(scores)
        powers = [math.exp(score - highest) for score in scores]  # shifted, or a large measure overflows exp()
        total = sum(powers)
        return Prediction(self.classes[scores.index(highest)], tuple(power / total for power in powers))


@cache
def load(trained: str) -> Iris:
    """The version trained as `trained`; any other name serves v1's or v2's weights, odd numbers v1 and even ones v2.

    A demo or a test may name its versions as it likes ("v3", "candidate") and still needs a model behind them.
    """
    digits = "".join(character for character in trained if character.isdigit())
    name = trained if trained in VERSIONS else VERSIONS[(int(digits) + 1) % 2 if digits else 0]
    data = json.loads(files(__package__).joinpath(f"iris_{name}.json").read_text("utf-8"))
    return Iris(
        version=trained,
        note=data["note"],
        accuracy=data["accuracy"],
        classes=tuple(data["classes"]),
        coefficients=tuple(tuple(row) for row in data["coefficients"]),
        intercepts=tuple(data["intercepts"]),
    )
