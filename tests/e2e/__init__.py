"""The product as its users start it: the command line, a node of its own, a real Redis."""
