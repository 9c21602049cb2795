"""Sparse autoencoder architectures."""
