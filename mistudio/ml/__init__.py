"""The tensor layer: models, activations, SAEs, features, steering. Imported by workers only."""
