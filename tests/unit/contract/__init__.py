"""Unit tests of `contract`."""
