"""What a program means: types, symbolic sizes, the graph, op definitions, loop IR and the reference evaluator."""
