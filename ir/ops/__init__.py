"""Every op, one decorated definition each."""
