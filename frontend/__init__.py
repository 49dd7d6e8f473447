"""People and formats to graphs."""
