"""Editing activations while the model writes."""
