"""Measurements, each of which is a command."""
