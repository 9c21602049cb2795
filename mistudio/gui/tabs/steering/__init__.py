"""The Steering tab: generate with features added or clamped, beside the unsteered text."""
