"""The bytes of an image -> pixels, and augmented views of them."""
