"""The fast lane: the same promises with less work. See README.md in this folder. Only `choreo.runtime` imports it."""
