"""The verb ``predict``: model, cluster, setup and framework to time and memory of a training step."""

from penstock.predict.prediction import Prediction, Room
from penstock.predict.step import predict

__all__ = ["Prediction", "Room", "predict"]
