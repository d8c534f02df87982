"""Errors, settings and console of stage one, and helpers of all other packages."""
