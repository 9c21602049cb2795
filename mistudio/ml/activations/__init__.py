"""Activations of a hook: one truncated forward pass, shuffled token by token."""
