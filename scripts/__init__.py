"""What builds the environment and the reference pages."""
