"""What a node counts and shows."""
