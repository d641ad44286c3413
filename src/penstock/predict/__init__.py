"""The verbs ``predict`` and ``scores``: model, cluster, setups and framework to time and memory of a training step."""

from penstock.predict.grid import Grid
from penstock.predict.prediction import Prediction, Room
from penstock.predict.score import Scores, scores
from penstock.predict.step import predict

__all__ = ["Grid", "Prediction", "Room", "Scores", "predict", "scores"]
