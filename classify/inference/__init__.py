"""Trained heads on disk, on new images and in exported models."""
