"""One image: where it is, how its bytes are read, decoded and augmented."""
