"""Trained heads on disk, and on new images."""
