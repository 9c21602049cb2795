"""What the Datasets and Models tabs share."""
