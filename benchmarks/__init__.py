"""Models to measure and to check against, and the demonstration."""
