"""Tests with real SecretFlow processes."""
