"""One job process, as the node starts, watches and ends it."""
