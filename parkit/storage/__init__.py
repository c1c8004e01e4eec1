"""Namespaces, and the transactions on them, for the blocking face."""
