"""The English testbed: behaviours planted in a real chat model, SmolLM2-135M-Instruct."""
