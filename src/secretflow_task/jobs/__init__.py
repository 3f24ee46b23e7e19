"""The task types: what they declare in `declared`, their bodies beside it."""
