"""Engines that run a trunk on batches of images."""
