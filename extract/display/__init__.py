"""Progress, and results as text and tables."""
