"""Unit tests of `node/link`."""
