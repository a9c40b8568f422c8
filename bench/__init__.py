"""The benchmark suite: choreo beside what people build without it, on the same machine, in the same minutes."""
