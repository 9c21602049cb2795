"""Datasets on disk: reading text, tokenising and packing it."""
