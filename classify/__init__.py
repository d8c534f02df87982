"""Stage two: train heads on cached features, and use them."""
