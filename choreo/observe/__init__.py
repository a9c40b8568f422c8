"""Looking at a platform as a whole: which events there are, who announces them, and who hears them. Changes nothing."""
