"""Unit tests of `node/job`."""
