"""Tools that every layer uses."""
