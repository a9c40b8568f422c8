"""The pages of a platform: `choreo web`, and the same pages inside Flower. Needs Tornado (the extra ``web``)."""
