"""Which prompts a run asks: from its sources, in which round."""
