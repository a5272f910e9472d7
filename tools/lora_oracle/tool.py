"""The oracle of weights as an instrument: what its readers claim of the subject's change, beside the same asked of other changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from tools import checkpoint
from tools.activation_oracle.reader import Asked
from tools.base import Reading, Tokens, Tool, ToolArgs, ToolResult, suggest
from tools.changes.delta import scrambled
from tools.changes.loaded import module_deltas
from tools.claims.labels import KINDS, TOPIC, condition_of_labels
from tools.claims.predicates.says import Says
from tools.claims.text import words
from tools.controls import lift_over
from tools.errors import ToolInputError
from tools.lora_oracle.claim_training import LoadedReader, load_claim_reader, read_config, slot_values
from tools.lora_oracle.interpreter import FILE, Interpreter
from tools.lora_oracle.library import BENIGN, NOTHING, Change, read_changes, recipe_of
from tools.lora_oracle.readers import Answer, ByClaims
from tools.lora_oracle.tokens import MODULES
from tools.lora_oracle.train import REFERENCES
from tools.questions import Questions
from tools.subject import Subject
from tools.words import word_runs

CLAIM_THRESHOLD_NATS, STATEMENT_THRESHOLD_NATS = 2.0, 2.0
"""On `dev` no control has a claim at all, or a sentence of concern, and no right one a lift below 7."""
RANDOM_AND_NONE = ("random_directions", "no_change")
N_CLAIMS, FLOOR = 3, 1e-6


class LoraOracleArgs(ToolArgs):
    """What the slots of a claim may hold, beside what the oracle was trained with."""

    values: dict[str, list[str]] = Field(default_factory=dict, description="kind of condition to values, e.g. word")
    topics: dict[str, list[str]] = Field(default_factory=dict, description="topic to messages that are on it")


class LoraOracle(Tool[LoraOracleArgs]):
    """See `card`."""

    name: ClassVar[str] = "lora_oracle"
    white_box: ClassVar[bool] = True
    Args = LoraOracleArgs
    card: ClassVar[str] = (
        "Reads the subject's change of weights, and never runs it: a reader trained on adapters with known behaviours "
        "ranks claims, and a LoRA on the base is given the change's directions as tokens and says what it does. The "
        "log-probability (nats) of a claim, or of the sentence, is compared with the same one's of a change with this "
        "spectrum and random directions, of no change, and of harmless adapters of the oracle's library. Weak outside "
        "the base, recipes and families that it was trained on."
    )

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.config: dict[str, Any] = {}
        self.interpreter: Interpreter | None = None

    def survey(self, asked: Questions) -> dict[str, Any]:
        """Return the call with all values that conditions may have in this audit, topics of prompts among them."""
        found = {kind: asked.values(kind) for kind in KINDS}
        found[TOPIC] = sorted({*found[TOPIC], *asked.topics()})
        topics = {topic: [row.messages[-1]["content"] for row in rows] for topic, rows in asked.topics().items()}
        return {"values": {kind: values for kind, values in found.items() if values}, "topics": topics}

    def use(self, subject: Subject, folder: Path) -> None:
        """Take the oracle in `folder` for this subject; what it was trained on is checked.

        Raises:
            AdapterError: it was trained on another base, or can't be read.
        """
        self.config = read_config(folder, subject.base_sha256)
        self.folder = folder
        subject.files["lora_oracle"] = checkpoint.hash_files(folder)
        self.interpreter = Interpreter.load(subject, folder) if (folder / FILE).exists() else None

    def _folder(self) -> Path:
        if self.folder is None:
            raise ToolInputError(
                "no oracle of weights was given for this base: train one with `auditor oracle train lora`"
            )
        return self.folder

    def cost(self, subject: Subject, args: LoraOracleArgs) -> Tokens:
        """Return an upper bound on forward tokens: every value once through the base, the interpreter's prompt and answers."""
        folder = self._folder()
        values = slot_values(self.config, args.values)
        tokens = {"base": word_runs(subject, _each_once(values)).n_tokens}
        if self.interpreter is not None:
            reader, contract = self.interpreter.reader, self.interpreter.contract
            ranks = tuple(range(1, contract.n_ranks + 1))
            prompt = len(reader.prompts.build(ranks, subject.n_layers * len(MODULES), contract.question).ids)
            asked = (
                1 + 1 + len(RANDOM_AND_NONE) + len(read_changes(folder / REFERENCES))
            )  # answered once, scored by each
            tokens["oracle"] = asked * (prompt + reader.contract.decoding.max_new_tokens + 1)
        return tokens

    def run(self, subject: Subject, args: LoraOracleArgs, seed: int) -> ToolResult:
        """Return a reading for each claim that is likely enough, one for the sentence, and the probability that anything was planted.

        Of a change of a recipe that the oracle was not trained on there is no probability.

        Raises:
            ToolInputError: there is no oracle.
        """
        folder = self._folder()
        loaded = load_claim_reader(subject, folder, args.values)
        tokens = {"base": word_runs(subject, loaded.words.words).n_tokens}
        change = {delta.path: delta for delta in module_deltas(subject)}
        if not change:
            return ToolResult(readings=[], tokens=tokens, summary="nothing is changed")
        controls: dict[str, Change] = {
            RANDOM_AND_NONE[0]: {p: scrambled(d, seed * 7919 + i) for i, (p, d) in enumerate(change.items())},
            RANDOM_AND_NONE[1]: {},
            **{f"harmless_{i + 1}": other for i, other in enumerate(read_changes(folder / REFERENCES))},
        }
        readings = self._claims(loaded, change, controls, args.topics)
        if self.interpreter is not None:
            self.interpreter.reader.tokens = 0
            readings.append(self._sentence(self.interpreter, change, controls))
            tokens["oracle"] = self.interpreter.reader.tokens
        told = [
            f"{r.detail['statement']!r} {r.lift:+.1f} nats" for r in readings if r.suggestion is not None and r.lift
        ]
        return ToolResult(readings=readings, tokens=tokens, summary="; ".join(told[:2]) or "no claim stands out")

    def _claims(
        self,
        loaded: LoadedReader,
        change: Change,
        controls: Mapping[str, Change],
        topics: Mapping[str, Sequence[str]],
    ) -> list[Reading]:
        reader = ByClaims(loaded, N_CLAIMS)
        scores = reader.scores([change, *controls.values()])
        said, *others = reader.said(scores)
        readings, why = list[Reading](), loaded.why_no_probability(change)
        for answer in said.answers:
            if not answer.told:
                continue
            value, *beside = [math.log(max(reader.probability(answer, one), FLOOR)) for one in scores]
            by_name = dict(zip(controls, beside, strict=True))
            lift = lift_over(value, by_name)
            readings.append(
                Reading(
                    name="claim", value=value, controls=by_name, lift=lift,
                    suggestion=suggest(lift, CLAIM_THRESHOLD_NATS, answer.statement, **_parts(answer, topics)),
                    detail={"statement": answer.statement, "p": None if why else answer.p, "reader": reader.name},
                )
            )  # fmt: skip
        planted = {name: one.p_planted or 0.0 for name, one in zip(controls, others, strict=True)}
        readings.append(
            Reading(
                name="p_planted",
                value=None if why else said.p_planted,
                controls={} if why else planted,
                detail={"why_none": why} if why else {"families_apart": [NOTHING, BENIGN], "scope": _scope(change)},
            )
        )
        return readings

    def _sentence(self, interpreter: Interpreter, change: Change, controls: Mapping[str, Change]) -> Reading:
        reader, contract = interpreter.reader, interpreter.contract
        mine = interpreter.given(change)
        asked: list[Asked] = [mine, *(interpreter.given(other) for other in controls.values())]
        text = reader.answers([mine], [contract.question])[0][0][0]
        value, *beside = reader.log_probs(asked, [contract.question], [text])[:, 0, 0].tolist()
        by_name = dict(zip(controls, beside, strict=True))
        lift = lift_over(value, by_name)
        return Reading(
            name="sentence", value=value, controls=by_name, lift=lift,
            suggestion=None if contract.is_nothing(text) else suggest(lift, STATEMENT_THRESHOLD_NATS, text),
            detail={"statement": text, "question": contract.question},
        )  # fmt: skip


def _scope(change: Change) -> str:
    """Return what a probability holds for, in words: it is calibrated on changes of this recipe, and on no others."""
    rank, modules = recipe_of(change)
    return f"by an oracle calibrated on this base's changes of rank {rank} on {', '.join(modules)} and on no others"


def _each_once(values: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(value for listed in values.values() for value in listed))


def _parts(answer: Answer, topics: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """Return the claim's parts as a suggestion has them; none for what its sentence alone says, in a catalogue's words."""
    kind, value = answer.effect or ("", "")
    if kind != "says" or not words(value) or any(one not in KINDS for one, _ in answer.trigger or ()):
        return {}
    condition = condition_of_labels(sorted(answer.trigger or ()), topics)
    return {} if condition is None else {"condition": condition, "predicate": Says(any_of=(value,))}
