"""Fitting the time model: to measured tables and, on a machine, to what it does."""
