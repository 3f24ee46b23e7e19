"""Unit tests of `node/store`."""
