"""Predictions as CSV, JSON lines, a chart or class folders."""
