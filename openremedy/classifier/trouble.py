"""The two ways of asking a model and having no answer.

Trouble
 +- ModelAway   the server cannot be had: the verdict is provisional and redone later
 +- BadAnswer   it answered with something we must not use
"""


class Trouble(Exception):
    """`tokens` is what the question has cost so far, so that the budget stays honest."""

    def __init__(self, message: str, tokens: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.tokens = tokens


class ModelAway(Trouble):
    def __init__(self, reason: str, retry_after: float | None = None, tokens: int = 0) -> None:
        super().__init__(reason, tokens)
        self.reason = reason
        self.retry_after = retry_after


class BadAnswer(Trouble):
    """`text` is what the model wrote; `final` when asking the same again cannot help."""

    def __init__(self, problem: str, text: str = "", tokens: int = 0, final: bool = False) -> None:
        super().__init__(problem, tokens)
        self.problem = problem
        self.text = text
        self.final = final
