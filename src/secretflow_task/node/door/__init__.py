"""The door by which an operator of the node's machine speaks to the node."""
