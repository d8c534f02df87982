"""Solvers of heads: arrays in, arrays out."""
