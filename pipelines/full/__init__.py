"""The real run: the full-scale model trained on the recommended mixture, and what is shown and exported of it."""
