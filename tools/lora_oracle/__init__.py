"""The change a fine-tune made to the weights, read without running them."""
