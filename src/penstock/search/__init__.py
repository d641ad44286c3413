"""The solver: the order of work that ends first, at given costs and memory, and how far it is from the best."""

from penstock.search.judged import Judged, Robust
from penstock.search.solution import Found, Options, Solution
from penstock.search.solver import solve

__all__ = ["Found", "Judged", "Options", "Robust", "Solution", "solve"]
