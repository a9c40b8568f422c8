"""The benchmark suite: choreo beside other ways to build the same services, at one time on one machine."""
