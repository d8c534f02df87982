"""Errors, settings and console of stage one, and what every other room needs."""
