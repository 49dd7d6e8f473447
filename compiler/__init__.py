"""The driver: from a model to something that runs, and everything a person asks of it."""
