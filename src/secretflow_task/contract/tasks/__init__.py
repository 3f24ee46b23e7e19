"""What each task type declares: its request, what it reads, writes and reveals, and where its body is."""
