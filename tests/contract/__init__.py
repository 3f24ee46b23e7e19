"""One suite for each seam, run on the in-memory twin and on the real part."""
