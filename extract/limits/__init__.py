"""What a stranger's file may take: bytes, pixels, processor time, memory."""
