"""Unit tests of `node/link/peer`."""
