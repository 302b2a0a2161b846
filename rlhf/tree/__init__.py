"""Search trees over the steps of an answer, and the preferences that they hold."""
