"""The verb ``explain``: a prediction whose every figure can be opened, down to operators, formulas and sources."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.core.architecture import Architecture
from penstock.core.cluster import Cluster
from penstock.core.setup import Setup
from penstock.cost.stack import Stack
from penstock.predict.explain_memory import memory_of
from penstock.predict.explain_time import Opened
from penstock.predict.figure import Figure
from penstock.predict.prediction import Prediction
from penstock.predict.roofline import Roofline, roofline_of
from penstock.predict.step import begun


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """A prediction, opened.

    Args:
        prediction: what is explained.
        time: seconds of the step, of the pipeline rank that ends last.
        memory: bytes of a device of each pipeline rank.
        roofline: of the operators of the rank that ends last.
    """

    prediction: Prediction
    time: Figure
    memory: tuple[Figure, ...]
    roofline: Roofline


def explain(model: Architecture, cluster: Cluster, setup: Setup, stack: Stack) -> Explanation:
    """Return what ``predict`` does, with every figure opened.

    Args:
        model, cluster, setup, stack: as there.

    Raises:
        ValueError: as there.

    >>> from penstock.core.config import gpt
    >>> from penstock.cost.stack import stack
    >>> model = gpt(layers=2, hidden=1024, heads=16, vocab=32000)
    >>> found = explain(model, Cluster.read("h100:8"), Setup(seq=2048, batch=8, dp=8), stack("megatron-core"))
    >>> [(path, one)] = found.time.find("blocks/mlp.up")
    >>> path, one.value < found.prediction.parts["blocks"]
    (('blocks', 'attention and mlp', 'mlp.up'), True)
    >>> [part.name for part in one.parts]
    ['forward', 'input gradient', 'weight gradient']
    """
    step = begun(model, cluster, setup, stack)
    opened, prediction = Opened(step), step.prediction()
    return Explanation(
        prediction=prediction,
        time=opened.time(),
        memory=tuple(memory_of(step, prediction.rooms)),
        roofline=roofline_of(step, opened.r),
    )
