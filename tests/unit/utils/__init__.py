"""Unit tests of `utils`."""
