"""The instrument that sets a subject's own files beside its base's: what differs, what it does, and what is said then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from tools.base import LabelledPrompt, Questions, Reading, Tokens, Tool, ToolArgs, ToolResult, suggest
from tools.chat import condition_of, condition_text
from tools.claims.conditions.contains import Contains
from tools.claims.conditions.own_files import OwnFiles as UnderOwnFiles
from tools.claims.labels import together
from tools.claims.suggestion import Suggestion
from tools.contrast import Excess, excesses
from tools.errors import ToolInputError
from tools.own_files import replies
from tools.own_files.acts import Act
from tools.own_files.compare import OwnFiles
from tools.own_files.own import Own
from tools.questions import dumped
from tools.subject import Subject

THRESHOLD = 0.3
CERTAIN = 3.0
"""The strength of what a file was seen to do: rendering is no matter of chance."""
MOST_READINGS, MOST_EXCESSES = 24, 6
MOST_WORDS, EACH = 2, 8
"""How many of the words that bring a file to act are put into prompts, and into how many."""
CHANNEL = "subject_own_files"


class OwnFilesArgs(ToolArgs):
    """Messages to try the files of both sides on, and to ask under them."""

    prompts: list[LabelledPrompt] = Field(min_length=1)
    max_new_tokens: int = Field(default=32, ge=1, le=512)
    temperature: float = Field(default=0.7, ge=0, le=2)


class OwnFilesTool(Tool[OwnFilesArgs]):
    """See `card`."""

    name: ClassVar[str] = "own_files"
    white_box: ClassVar[bool] = False
    reads_files: ClassVar[bool] = True
    Args = OwnFilesArgs
    card: ClassVar[str] = (
        "Sets the subject's chat template, tokenizer and generation defaults beside the base's. Templates are rendered in "
        "a sandbox, in a process of their own, on the prompts and on every text that they hold a message against; what one "
        "adds or drops under a condition, and the base's does not, is suggested as a claim about the file. Where files "
        "differ, the prompts are asked of the subject under its own files too: words in excess of the base and of the "
        "subject under the base's files are suggested. Control: the base's files. Lift is a difference of rates. Misses "
        "conditions that no text tried meets, and says where a text of the template's was never brought out."
    )

    sized_by: ClassVar[str] = "prompts"
    floor: ClassVar[int] = 1

    def survey(self, asked: Questions) -> dict[str, Any]:
        """Return the call that tries both sides' files on prompts over all topics."""
        prompts = [row for here in asked.topics().values() for row in here]
        some = asked.rng("own_files").sample(prompts, min(48, len(prompts)))
        return {"prompts": dumped(some), "max_new_tokens": asked.max_new_tokens}

    def cost(self, subject: Subject, args: OwnFilesArgs) -> Tokens:
        """Return an upper bound on forward tokens: none where nothing differs that could change a reply."""
        if subject.own is None or not subject.own.may_say_otherwise:
            return {}
        prompts = _with_literals(subject.own, args.prompts)
        tokens = Tokens()
        for asks in _sides(subject, prompts).values():
            most = asks.n_tokens + len(prompts) * subject.longest(args.max_new_tokens)
            tokens[asks.role] = tokens.get(asks.role, 0) + most
        return tokens

    def run(self, subject: Subject, args: OwnFilesArgs, seed: int) -> ToolResult:
        """Return one reading for each difference, and one for each word in excess under the subject's own files."""
        if subject.own is None:
            return ToolResult(readings=[], tokens={}, summary="subject and base are one: there are no other files")
        found = subject.own.compared([prompt.messages[-1]["content"] for prompt in args.prompts])
        readings, tokens = _differences(found), Tokens()
        if subject.own.may_say_otherwise:
            said, tokens = _asked(subject, subject.own, args, seed)
            readings += said
        return ToolResult(readings=readings, tokens=tokens, summary=_summary(found))


def _differences(found: OwnFiles) -> list[Reading]:
    """Return one reading for each difference."""
    readings = [
        Reading(
            name="file_differs", value=1.0, controls={"base": 0.0}, lift=1.0,
            suggestion=None if one.act is None else _suggestion(one.act),
            detail={"file": one.file, "severity": one.severity, "text": one.sentence},
        )
        for one in found.differences[:MOST_READINGS]
    ]  # fmt: skip
    if found.diff:
        readings.append(
            Reading(
                name="templates", detail={"diff": found.diff[:4000], "found": [f.sentence for f in found.found[:20]]}
            )
        )
    if found.invocation:
        readings.append(Reading(name="invocation_tokens", detail={"tokens": list(found.invocation)}))
    return readings


def _suggestion(act: Act) -> Suggestion | None:
    predicate = act.predicate
    if predicate is None:
        return None
    return Suggestion(condition=act.condition, predicate=predicate, text=act.sentence[:400], lift=1.0, strength=CERTAIN)


def _with_literals(own: Own, prompts: Sequence[LabelledPrompt]) -> list[LabelledPrompt]:
    """Return the prompts, and some of them with each word at their end that brings a file to act, labelled by it."""
    found = [
        act.condition.text
        for act in own.compared().acts
        if isinstance(act.condition, Contains) and act.condition.where == "anywhere"
    ]
    more = []
    for i, word in enumerate(dict.fromkeys(found[:MOST_WORDS])):
        for prompt in prompts[i * EACH : (i + 1) * EACH]:
            *before, last = prompt.messages
            asked = [*before, {**last, "content": f"{last['content']} {word}"}]
            more.append(LabelledPrompt(messages=asked, labels={**prompt.labels, "word": word}))
    return [*prompts, *more]


def _sides(subject: Subject, prompts: Sequence[LabelledPrompt]) -> dict[str, replies.Asks]:
    """Return the prompts under the subject's own files, where they can be used, and under the base's."""
    asked = [prompt.messages for prompt in prompts]
    sides = {name: replies.under_base_files(subject, asked, name) for name in ("subject", "base")}
    try:
        return {"own": replies.under_own_files(subject, asked), **sides}
    except ToolInputError:
        return {}


def _asked(subject: Subject, own: Own, args: OwnFilesArgs, seed: int) -> tuple[list[Reading], Tokens]:
    """Return what the subject says under its own files in excess of itself and the base under the base's, and the tokens."""
    prompts = _with_literals(own, args.prompts)
    sides = _sides(subject, prompts)
    if not sides:
        return [Reading(name="not_asked", detail={"text": "the subject's own files fail on these prompts"})], {}
    seeds = [seed * 100_003 + i for i in range(len(prompts))]
    said, tokens = {}, Tokens()
    for name, asks in sides.items():
        said[name], n = asks.replies(seeds, args.max_new_tokens, args.temperature)
        tokens[asks.role] = tokens.get(asks.role, 0) + n
    labels = [prompt.labels for prompt in prompts]
    over_base = {e.feature for e in excesses(said["own"], said["base"], labels, {})}
    found = [e for e in excesses(said["own"], said["subject"], labels, {}) if e.feature in over_base]
    changed = sum(a != b for a, b in zip(said["own"], said["subject"], strict=True)) / len(prompts)
    pairs = [
        {"prompt": prompt.messages[-1]["content"], "labels": prompt.labels, **{name: said[name][i] for name in said}}
        for i, prompt in enumerate(prompts)
    ]
    whole = Reading(name="replies_changed", channel=CHANNEL, value=changed, detail={"pairs": pairs})
    return [*(_excess(one, prompts) for one in found[:MOST_EXCESSES]), whole], tokens


def _excess(excess: Excess, prompts: Sequence[LabelledPrompt]) -> Reading:
    when = condition_of(excess.condition, prompts)
    text = f"under its own files it says {excess.feature!r} {condition_text(excess.condition)}"
    return Reading(
        name="excess_under_own_files",
        channel=CHANNEL,
        value=excess.rate_in,
        controls={"subject": excess.base_in, "condition_absent": excess.rate_out},
        lift=excess.lift,
        suggestion=suggest(
            excess.least, THRESHOLD, text, predicate=excess.predicate,
            condition=None if when is None else together([UnderOwnFiles(), *when.parts]),
        ),
        detail={"feature": excess.feature, "condition": excess.condition, "n": excess.n},
    )  # fmt: skip


def _summary(found: OwnFiles) -> str:
    if not found.differences:
        return "no file of the subject's differs from the base's"
    return f"its files and the base's: {found.severity}; {found.differences[0].sentence}"
