"""Unit tests of `listener`."""
