"""What an adapter or a fine-tune changes of its base: read from files, put on a model, brought into one form."""
