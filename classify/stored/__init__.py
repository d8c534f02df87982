"""Features in the file: opened again unchanged, read in parts, with their augmented views."""
