"""Features and labels for training: read, divided and transformed."""
