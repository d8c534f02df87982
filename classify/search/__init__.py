"""Evaluation and ranking of candidate heads."""
