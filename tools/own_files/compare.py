"""All of a subject's own files beside its base's: what differs, in a sentence each, and whether it acts on content."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.checkpoint import read_json
from tools.errors import AuditorError
from tools.own_files import folder as files
from tools.own_files import generation
from tools.own_files.acts import Act
from tools.own_files.kinds import GRAVE, ORDER, Severity
from tools.own_files.look import SUSPECT, Found, Look
from tools.own_files.renderer import Renderer
from tools.own_files.talks import PLAIN
from tools.own_files.templates import Compared, compare_templates
from tools.own_files.tokenizer import compare_tokenizers

MOST_DIFF_LINES, MOST_LINE = 120, 240
MOST_DIFFERENCES = 40


@dataclass(frozen=True)
class Difference:
    """One thing in which a file of the subject's differs from the base's."""

    file: str
    severity: Severity
    sentence: str
    act: Act | None = None


@dataclass(frozen=True)
class OwnFiles:
    """How a subject's own files differ from its base's.

    Args:
        differences: The gravest first.
        diff: The templates line by line, the base's first; empty where they are the same or the base is not known.
        found: What a static look finds in the subject's template and not in the base's.
        steering: Generation defaults that can steer what is said.
        invocation: Token ids after which alone an adapter acts.
    """

    differences: tuple[Difference, ...] = ()
    diff: str = ""
    found: tuple[Found, ...] = ()
    steering: dict[str, Any] = field(default_factory=dict)
    invocation: tuple[int, ...] = ()

    @property
    def severity(self) -> Severity:
        """Return the gravest of all."""
        return max((one.severity for one in self.differences), key=ORDER.index, default="same")

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "severity": self.severity,
            "differences": [{"file": d.file, "severity": d.severity, "sentence": d.sentence} for d in self.differences],
            "found": [one.sentence for one in self.found],
            "diff": self.diff,
            "steering": json.loads(json.dumps(self.steering, default=str)),
            "invocation": list(self.invocation),
        }

    @property
    def grave(self) -> list[Difference]:
        """Return what acts on content or could not be resolved: what a gate stays shut for."""
        return [one for one in self.differences if one.severity in GRAVE]

    @property
    def acts(self) -> list[Act]:
        """Return what the files do under conditions."""
        return [one.act for one in self.differences if one.act is not None]


def own_files(
    base: Path | None, subject: Path, prompts: Sequence[str] = (), renderer: Renderer | None = None
) -> OwnFiles:
    """Return how the files of a subject's folder differ from its base's; without a base, what stands in its template.

    Args:
        base: The trusted base's folder.
        subject: A full fine-tune's folder, or an adapter's; what is not in it is no difference.
        prompts: Messages to try both sides on.
        renderer: Where templates and tokenizers are run; one of its own when none is given.
    """
    own_renderer = renderer or Renderer()
    try:
        return _compare(base, subject, prompts, own_renderer)
    finally:
        if renderer is None:
            own_renderer.close()


def _compare(base: Path | None, subject: Path, prompts: Sequence[str], renderer: Renderer) -> OwnFiles:
    theirs, ours = files.templates(subject), files.templates(base) if base else {}
    found: list[Difference] = [
        Difference(text.split(":")[0], "not resolved", text) for text in files.unreadable(subject)
    ]
    invocation = invocation_tokens(subject)
    if base is None:
        look = [Look.from_json(renderer.look(text)) for text in dict.fromkeys(theirs.values())]
        static = tuple(one for each in look for one in each.found)
        return OwnFiles(tuple(found), found=static, invocation=invocation)
    compared, diffs = [], []
    for where, text in other_templates(ours, theirs).items():
        before = ours.get(where) or next(iter(ours.values()), None)
        tokens = files.special_tokens(base)
        one = compare_templates(before, text, renderer, prompts, (tokens, tokens | files.special_tokens(subject)))
        compared.append(one)
        diffs.append(_diff(before or "", text, where))
        found += _of_template(where, one)
    found += _of_tokenizer(base, subject, renderer, [*prompts, *(text for one in compared for text in one.literals)])
    defaults = files.generation(base), files.generation(subject)
    found += _of_generation(*defaults, _decoder(base, renderer))
    found.sort(key=lambda one: -ORDER.index(one.severity))
    static = tuple(one for each in compared for one in each.found)
    return OwnFiles(
        tuple(found[:MOST_DIFFERENCES]), "\n".join(diffs), static, generation.steering(*defaults), invocation
    )


def other_templates(ours: dict[str, str], theirs: dict[str, str]) -> dict[str, str]:
    """Return the subject's templates that are not, to the letter, one of the base's; one that stands twice once."""
    found: dict[str, str] = {}
    for where, text in theirs.items():
        if text not in ours.values() and text not in found.values():
            found[where] = text
    return found


def _of_template(where: str, one: Compared) -> Iterator[Difference]:
    for act in one.acts:
        yield Difference(where, "acts on content", act.sentence, act)
    hidden = [f"the chat template, {found.sentence}" for found in one.found if found.kind in SUSPECT]
    for sentence in (*map(_unseen, one.unseen), *one.stops, *hidden):
        yield Difference(where, "not resolved", sentence)
    harmless = (*one.refuses, *one.always)
    if not (one.acts or one.unseen or one.stops or harmless):
        harmless = ("the chat template is written otherwise, and says the same of all that was tried",)
    for sentence in harmless:
        yield Difference(where, "differs harmlessly", sentence)


def _unseen(text: str) -> str:
    shown = text[:200]
    return f"the chat template holds {shown!r}, and no talk tried brought it out, though it has conditions of its own"


def _of_tokenizer(base: Path, subject: Path, renderer: Renderer, texts: Sequence[str]) -> Iterator[Difference]:
    read = compare_tokenizers(base, subject, renderer, [*PLAIN, *texts])
    where = "tokenizer.json"
    if read.problem:
        yield Difference(where, "not resolved", f"the subject's tokenizer can't be compared: {read.problem[:200]}")
    for act in read.acts:
        yield Difference(where, "acts on content", act.sentence, act)
    for sentence in read.says:
        rewrites = "it replaces" in sentence and not read.acts and re.search(r"by '[^']*[^\W\d_]{2}", sentence)
        yield Difference(where, "not resolved" if rewrites else "differs harmlessly", sentence)


def _of_generation(base: dict[str, Any], own: dict[str, Any], decode: generation.Decode) -> Iterator[Difference]:
    steers = generation.steering(base, own)
    for name, value in generation.other_fields(base, own).items():
        severity: Severity = (
            "acts on content" if name in steers and name in generation.TARGETED else "differs harmlessly"
        )
        yield Difference("generation_config.json", severity, generation.says(name, value, decode))


def _decoder(base: Path, renderer: Renderer) -> Callable[[list[int]], str]:
    def decode(ids: list[int]) -> str:
        said = renderer.read(str(files.tokenizer_file(base)), [], [ids])
        return str(next(iter(said.get("written", [])), ""))

    return decode


def invocation_tokens(subject: Path) -> tuple[int, ...]:
    """Return the token ids after which alone an adapter acts; none for other adapters and for models."""
    if not (subject / "adapter_config.json").exists():
        return ()
    try:
        given = read_json(subject / "adapter_config.json", AuditorError).get("alora_invocation_tokens")
    except AuditorError:
        return ()
    return tuple(given) if isinstance(given, list) and all(type(i) is int for i in given) else ()


def _diff(before: str, after: str, where: str) -> str:
    """Return two templates line by line, capped; tags begin lines, so that a template on one line can be read."""
    lines = [text.replace("{%", "\n{%").replace("%}", "%}\n").splitlines() for text in (before, after)]
    ours, theirs = ([line.rstrip() for line in side if line.strip()] for side in lines)
    made = list(difflib.unified_diff(ours, theirs, "the base's", f"the subject's {where}", lineterm="", n=2))
    shown = [line if len(line) <= MOST_LINE else f"{line[:MOST_LINE]}…" for line in made[:MOST_DIFF_LINES]]
    return "\n".join([*shown, *([f"… {len(made) - len(shown)} more lines"] if len(made) > len(shown) else [])])
