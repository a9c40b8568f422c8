"""The measured sides: one module per way to build the same services. Each has a `bench.side.Publisher`."""
