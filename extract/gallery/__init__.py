"""Small images of rows, and pages of them."""
