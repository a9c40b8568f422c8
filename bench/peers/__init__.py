"""The same work on other libraries, each in its own environment. A module imports only packages of that environment."""
