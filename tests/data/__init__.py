"""Tables that the tests make."""
