"""The native window."""
