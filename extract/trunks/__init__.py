"""Pretrained trunks: built, given their weights and cut at a layer."""
