"""Unit tests of `documents`."""
