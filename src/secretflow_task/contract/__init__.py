"""What node and job both know; it imports neither."""
