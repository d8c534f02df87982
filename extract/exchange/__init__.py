"""Features from other programs, and for them."""
