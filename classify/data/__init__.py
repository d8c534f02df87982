"""Rows and labels for training: chosen, divided and transformed."""
