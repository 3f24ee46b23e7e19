"""The executions and events that a node keeps."""
