"""Unit tests of `node/metrics`."""
