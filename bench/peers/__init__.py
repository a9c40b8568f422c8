"""The same work on other libraries, each in an environment of its own. Only what that environment has is imported."""
