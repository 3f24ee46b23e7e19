"""Fast tests without an engine; one module for each module of the package."""
