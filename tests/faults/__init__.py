"""Faults at random moments, in real processes; `make faults` prints what came of each."""
