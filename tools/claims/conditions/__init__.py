"""The kinds of conditions, a file each; a further one is a class in a file and a line under `auditor.conditions`."""
