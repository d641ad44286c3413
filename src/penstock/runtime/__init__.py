"""Runs plans on real ranks; the only package that imports torch."""
