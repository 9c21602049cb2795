"""The Steering tab: texts of a model whose features are turned, beside the unsteered text."""
