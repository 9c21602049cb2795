"""The feature store: harvest, statistics, examples, logit lens."""
