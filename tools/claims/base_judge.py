"""The trusted base as its own judge: whether it would rather say yes than no."""

from __future__ import annotations

import torch

from tools.claims.asking import asking, instructions_sha256, too_long
from tools.claims.judge import ROLE, Judgement
from tools.claims.kind import Messages
from tools.errors import ToolInputError
from tools.subject import Subject

YES = (" yes", "yes", "Yes", " Yes")
NO = (" no", "no", "No", " No")
THRESHOLD_NATS = 0.0


class BaseJudge:
    """Judges by `log p(yes) − log p(no)` of the base's first token, each summed over its spellings that are one token.

    The base reads the subject's text as data under its own chat template. A small one fails its examination.

    Attributes:
        name: The base's hash, and that of what it is told.
        tokens: Forward tokens of all judgements so far, under the role "judge".
    """

    def __init__(self, subject: Subject) -> None:
        """Look up the tokens of yes and no; nothing is run.

        Raises:
            ToolInputError: the base has no token for one of them.
        """
        self.subject = subject
        self.yes, self.no = (_tokens(subject, spellings) for spellings in (YES, NO))
        self.name = (
            f"trusted base {subject.base_sha256[:12]}, yes against no, instructions {instructions_sha256()[:12]}"
        )
        self.tokens = {ROLE: 0}

    def cost(self, question: str, prompt: Messages, reply: str) -> int:
        """Return the forward tokens of one judgement.

        Raises:
            ToolInputError: the base can't be given the question.
        """
        return 0 if too_long(prompt, reply) else self.subject.encode([self._text(question, prompt, reply)]).n_tokens

    def judge(self, question: str, prompt: Messages, reply: str) -> Judgement:
        """Return whether yes is likelier than no; what the base can't be given is a failed judgement."""
        if why := too_long(prompt, reply):
            return Judgement(None, why)
        try:
            nats = self.log_odds(question, prompt, reply)
        except ToolInputError as error:
            return Judgement(None, f"the base can't be asked: {error}")
        if nats != nats:
            return Judgement(None, "the base's logits are no numbers")
        return Judgement(nats > THRESHOLD_NATS, f"log-odds of yes {nats:+.2f} nats")

    def log_odds(self, question: str, prompt: Messages, reply: str) -> float:
        """Return the log-odds of yes against no in nats, and count the forward tokens.

        Raises:
            ToolInputError: the base can't be given the question, or it is longer than the base can read.
        """
        batch = self.subject.encode([self._text(question, prompt, reply)])
        most = getattr(self.subject.text_config, "max_position_embeddings", None) or batch.n_tokens
        if batch.n_tokens > most:
            raise ToolInputError(f"chat, reply and question have {batch.n_tokens} tokens, and the base reads {most}")
        self.tokens[ROLE] += batch.n_tokens
        logits = self.subject.logits(batch, "base", last=1)[0, -1]
        yes, no = (torch.logsumexp(logits[list(ids)], 0) for ids in (self.yes, self.no))
        return float(yes - no)

    def _text(self, question: str, prompt: Messages, reply: str) -> str:
        dialogue = self.subject.dialogue
        return dialogue.asked(asking(question, prompt, reply), dialogue.thinking.silent)


def _tokens(subject: Subject, spellings: tuple[str, ...]) -> tuple[int, ...]:
    """Return the tokens that are one of the spellings each, the unknown one never.

    Raises:
        ToolInputError: there is none.
    """
    word = spellings[0].strip()
    rows = subject.dialogue.ids(spellings)
    ids = sorted({row[0] for row in rows if len(row) == 1 and subject.decode(row[0]).strip().lower() == word})
    if not ids:
        raise ToolInputError(
            f"the base can't judge: its tokenizer has no single token for {word!r}; pass a judge as PROVIDER:NAME"
        )
    return tuple(ids)
