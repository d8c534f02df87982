"""What to label next, and images sorted by label."""
