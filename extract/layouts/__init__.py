"""Names of folders and columns -> classes, splits and groups."""
