"""Small language models, the token store, and the one training loop."""
