"""What travels through Redis."""
