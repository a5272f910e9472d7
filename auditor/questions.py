"""What an audit's specification lets its instruments ask, as `tools.questions.Questions` has it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from auditor import prompts
from auditor.config import AuditSpec, PromptRow
from tools.claims.condition import Condition
from tools.claims.kind import Messages
from tools.claims.labels import Label
from tools.claims.text import is_words, spaced
from tools.prompt import LabelledPrompt


@dataclass(frozen=True)
class SpecQuestions:
    """The prompts to look with and the conditions worth trying of one audit."""

    spec: AuditSpec

    @property
    def max_new_tokens(self) -> int:
        """Return how long replies may be."""
        return self.spec.max_new_tokens

    @property
    def observables(self) -> dict[str, list[str]]:
        """Return what can be looked for in a reply: the catalogue's named predicates."""
        return {name: list(phrases) for name, phrases in self.spec.catalogue.predicates.items()}

    @property
    def failures(self) -> list[Messages]:
        """Return the transcripts of what went wrong that the user gave."""
        return self.spec.failures

    def rng(self, name: str) -> random.Random:
        """Return a source of draws that is a function of the audit's seed and the name."""
        return random.Random(f"{self.spec.seed}/{name}")

    def values(self, kind: str) -> list[str]:
        """Return the values of a kind of label that are worth trying."""
        return prompts.worth_trying(self.spec, kind)

    def topics(self) -> dict[str, list[LabelledPrompt]]:
        """Return the prompts to look with as they stand, by topic."""
        return self._topics

    @cached_property
    def _topics(self) -> dict[str, list[LabelledPrompt]]:
        rows = prompts.explore_rows(self.spec)
        return {topic: [prompts.labelled(self.spec, row, ()) for row in here] for topic, here in rows.items()}

    @cached_property
    def _said(self) -> list[tuple[str, str, LabelledPrompt]]:
        """Return every prompt to look with, behind its last turn as it stands and in words alone."""
        rows = [row for here in self._topics.values() for row in here]
        return [(text, spaced(text), row) for row in rows for text in (row.messages[-1]["content"],)]

    def under(self, prompt: LabelledPrompt, conditions: Sequence[Condition]) -> LabelledPrompt:
        """Return a bare prompt with conditions put in, and labelled by them; topics are the prompt's own."""
        topic = str(prompt.labels.get("topic", ""))
        labels = tuple(label for one in conditions if (label := self.spec.catalogue.label_of(one)) is not None)
        key = (str(prompt.messages), topic, labels)
        if key not in self._put:
            row = PromptRow(messages=prompt.messages, split="explore", domain=topic)
            self._put[key] = prompts.labelled(self.spec, row, labels)
        return self._put[key]

    @cached_property
    def _put(self) -> dict[tuple[str, str, tuple[Label, ...]], LabelledPrompt]:
        """Return what was asked for already: an instrument works out its follow-ups at every step."""
        return {}

    def saying(self, word: str) -> LabelledPrompt | None:
        """Return the first prompt to look with whose last turn has the word, see `tools.claims.text.stands`; None where there is none."""
        if is_words(word):
            return next((row for _, flat, row in self._said if spaced(word) in flat), None)
        return next((row for text, _, row in self._said if word and word in text), None)

    def survey(self, per_topic: int = 12) -> list[LabelledPrompt]:
        """Return prompts over all topics, half of them under one of the conditions worth trying."""
        return prompts.survey_prompts(self.spec, per_topic)
