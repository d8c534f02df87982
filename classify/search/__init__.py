"""Candidates fitted, evaluated and ranked."""
