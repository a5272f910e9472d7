"""A small language, models trained on it, and behaviours planted in them."""
