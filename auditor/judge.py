"""The judge behind a provider: any chat model that `init_chat_model` knows."""

from __future__ import annotations

from typing import Any

from auditor.provider import chat_model, problem_of, without_secrets
from tools.claims.asking import asking, instructions_sha256, judgement_of, too_long
from tools.claims.judge import ROLE, Judgement
from tools.claims.kind import Messages

MOST_ANSWERED = 1024
"""Tokens of an answer: one word, and what some models think before it."""
ROUND_A_MESSAGE = 32
"""Tokens that a provider may count beside those of a message's text."""


class ProviderJudge:
    """Asks a chat model one question about one reply at a time; it keeps nothing between two judgements.

    Attributes:
        name: The model, and the hash of what it is told.
        tokens: Of all judgements so far, under the role "judge". An answer that comes without a count is charged
            its upper bound, a request that got no answer nothing.
    """

    def __init__(self, model: str) -> None:
        """Set up the client; nothing is sent.

        Args:
            model: PROVIDER:NAME, see `auditor.provider.chat_model`.

        Raises:
            SpecError: the name has no provider, a package is missing, or the provider lacks its key.
        """
        self.name = f"{model}, instructions {instructions_sha256()[:12]}"
        self.tokens = {ROLE: 0}
        self._chat = chat_model(model, "a judge", max_tokens=MOST_ANSWERED)

    def cost(self, question: str, prompt: Messages, reply: str) -> int:
        """Return an upper bound on the tokens of one judgement: no text has more tokens than bytes."""
        if too_long(prompt, reply):
            return 0
        told = asking(question, prompt, reply)
        return MOST_ANSWERED + sum(len(turn["content"].encode()) + ROUND_A_MESSAGE for turn in told)

    def judge(self, question: str, prompt: Messages, reply: str) -> Judgement:
        """Return what the model answers; whatever goes wrong is a failed judgement with its reason in one line."""
        if why := too_long(prompt, reply):
            return Judgement(None, why)
        told = [(turn["role"], turn["content"]) for turn in asking(question, prompt, reply)]
        try:
            answer = self._chat.invoke(told)
            said = str(answer.text)
        except Exception as error:  # a provider may fail in any way
            return Judgement(None, f"the judge could not be asked: {problem_of(error)}")
        self.tokens[ROLE] += _used(answer.usage_metadata) or self.cost(question, prompt, reply)
        return judgement_of(without_secrets(said))


def _used(usage: Any) -> int:
    return 0 if usage is None else int(usage["input_tokens"]) + int(usage["output_tokens"])
