"""Checks a choreography: rules over what the services of a package declare, and over their code."""
