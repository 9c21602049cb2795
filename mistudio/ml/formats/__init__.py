"""SAE files of this and other programs."""
