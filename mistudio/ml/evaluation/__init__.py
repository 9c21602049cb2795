"""Quality of an SAE on held-out documents."""
