"""Unit tests of `data_loader`."""
