"""What is measured: one module per way to build the same services. See `bench.side.Adapter` for what each must have."""
