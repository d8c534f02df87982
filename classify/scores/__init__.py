"""Scores of heads to numbers: metrics, areas under curves, intervals, calibration."""
