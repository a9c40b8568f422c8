"""
A platform that makes every mistake, on purpose: see tests/unit/test_bad_platform.py.

The comment ``finds CH101`` names what `choreo check` finds in its line.
"""
