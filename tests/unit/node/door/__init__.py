"""Unit tests of `node/door`."""
