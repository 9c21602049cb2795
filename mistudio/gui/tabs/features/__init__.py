"""The Features tab: what the latents of an SAE fire on."""
