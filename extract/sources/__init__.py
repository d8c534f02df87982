"""Everything that can be a SOURCE, each format in a file of its own."""
