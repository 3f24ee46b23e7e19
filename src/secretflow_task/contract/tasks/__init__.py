"""What each task type declares: its request, its files, what it reveals, where its body is."""
