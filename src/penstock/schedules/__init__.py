"""Schedules as data: one published schedule per file, the phase notation, and the table of names.

A schedule is a pure function ``lane(r, p, m, v)`` of rank, ranks, micro-batches and chunks per rank. It gives what rank
``r`` does, as phases, as rows of (kind, stage, micro-batch), or as any iterable of ops or of words such as ``2F0``.
Or it is a function ``lanes(task)`` that gives all lanes and reads costs, for example by repeating a building block.
"""

from penstock.schedules.build import build
from penstock.schedules.building_block import Block, repeat
from penstock.schedules.phases import expand
from penstock.schedules.table import SCHEDULES, Schedule
from penstock.schedules.task import Task

__all__ = ["SCHEDULES", "Block", "Schedule", "Task", "build", "expand", "repeat"]
