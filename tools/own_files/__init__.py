"""What a subject's own files do beside its base's: chat template, tokenizer, generation defaults, invocation tokens."""
