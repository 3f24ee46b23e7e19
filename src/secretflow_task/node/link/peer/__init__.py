"""The link between nodes: who the peers are, one encrypted port, and what is agreed over it."""
