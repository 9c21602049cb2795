"""The machine: memory, processor, GPU, temperature, disk."""
