"""How the parties of an execution agree, at one node or several."""
