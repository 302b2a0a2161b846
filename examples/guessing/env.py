"""A game: the policy guesses a number, and hears whether the one it looks for is higher or lower.

The number is the row's answer, which the policy never reads.
"""

MAX_GUESSES = 3


class Guessing:
    def reset(self, row):
        """What the policy is asked: the lowest and the highest number that it may be."""
        self.number, self.num_guesses = int(row["answer"]), 0
        return row["prompt"]

    def step(self, text):
        """What is said to a guess, whether the game is over, and what the guess has earned."""
        self.num_guesses += 1
        is_last = self.num_guesses == MAX_GUESSES
        if not (text.isascii() and text.isdigit()):
            return "numbers", is_last, 0.0
        if int(text) == self.number:
            return "yes", True, 1.0
        return "higher" if self.number > int(text) else "lower", is_last, 0.0
