"""Fitting the time model to measured tables."""
