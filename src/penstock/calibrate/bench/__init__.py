"""Measuring this machine: the only part of calibration that imports torch. ``worker`` runs it, one process per rank."""
