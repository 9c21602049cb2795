"""Talking to the Hugging Face hub."""
