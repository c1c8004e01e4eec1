"""The blocking classes."""
