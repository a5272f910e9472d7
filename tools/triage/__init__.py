"""What a platform asks of every adapter it is given, without running it."""
