"""`tools=calculator` as an environment: the policy writes `<<12+34=`, and reads `46>>`.

To be used with environment.stop=["="], which ends a turn where the policy has written a call.
"""

from rlhf.tools.calculator import Calculator

MAX_CHARS = 200


class CalculatorEnvironment:
    def __init__(self):
        self.tool, self.said = Calculator(MAX_CHARS), ""

    def reset(self, row):
        self.answer = row["answer"]
        return row["prompt"]

    async def step(self, text):
        """Answers a call; what ends without one is an answer, right if its last line is."""
        self.said += text
        if not text.rstrip().endswith("="):
            last_line = self.said.rpartition("\n")[2].strip()
            return "", True, float(last_line == self.answer)
        _, opens, call = self.said.rstrip()[:-1].rpartition("<<")
        if not opens or "=" in call:
            return "", False, 0.0
        result = f"{await self.tool.use(call)}>>"
        self.said += result
        return result, False, 0.0
