"""Trunk and head as one model for other programs."""
