"""Graph to graph, one transformation a file."""
