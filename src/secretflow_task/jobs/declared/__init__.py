"""What each task type declares: its request, what it reads, writes and reveals. Imports `contract` only."""
