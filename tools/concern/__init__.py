"""How bad what is said is, told by labelled sentences."""
