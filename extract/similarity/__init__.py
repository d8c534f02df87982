"""Similarity of images by their features: near-duplicates, similar images and outliers."""
