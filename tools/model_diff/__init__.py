"""How the subject's next-token distributions differ from the base's."""
