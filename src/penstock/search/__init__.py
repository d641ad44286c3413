"""The solver: the order of work that ends first, at given costs and memory, and how far it is from the best."""

from penstock.search.solver import Options, Solution, solve

__all__ = ["Options", "Solution", "solve"]
