"""Where a subject's tokenizer reads other than the base's: what its file holds, and what it makes of texts.

Both `tokenizer.json` files are run by the library that they are written for, in a process of its own. What the model is
given is ids, so what it reads is what the base's tokenizer has for them: a normalizer that replaces a word, or a word that
has another's number, reads as another text.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.checkpoint import read_json
from tools.claims.conditions.contains import Contains
from tools.errors import AuditorError
from tools.own_files import folder as files
from tools.own_files.acts import Act
from tools.own_files.difference import Change, difference, longest
from tools.own_files.renderer import Renderer

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
MOST_NAMED, MOST_PROBES = 5, 200
CARRIER = "it is {} that was said"


@dataclass(frozen=True)
class Read:
    """What came of comparing two tokenizers.

    Args:
        same: Nothing differs but how the file is laid out.
        says: What differs, a sentence each.
        acts: What is read as another text, and when.
        problem: Why the subject's could not be used; empty where it could.
    """

    same: bool
    says: tuple[str, ...] = ()
    acts: tuple[Act, ...] = ()
    problem: str = ""


def compare_tokenizers(base: Path, own: Path, renderer: Renderer, texts: Sequence[str] = ()) -> Read:
    """Return what differs between two folders' tokenizers; nothing where the subject's brings none.

    Args:
        base: The base's folder.
        own: The subject's.
        renderer: Where both are run.
        texts: What to read with both, beside what their files hold.
    """
    if not files.has_tokenizer(own):
        return Read(True)
    our_file, their_file = files.tokenizer_file(base), files.tokenizer_file(own)
    if our_file is None or their_file is None:
        return Read(False, problem=f"{'the base' if our_file is None else 'it'} has no tokenizer that can be read")
    try:
        ours, theirs = (read_json(file, AuditorError) for file in (our_file, their_file))
    except AuditorError as error:
        return Read(False, problem=str(error).replace(f"{own}/", "").replace(f"{base}/", "the base's "))
    if _content(ours) == _content(theirs):
        return Read(True)
    forms = [form for word in _held(ours, theirs) for form in (word, CARRIER.format(word))]
    probes = list(dict.fromkeys([*texts, *forms]))[:MOST_PROBES]
    return _read(our_file, their_file, renderer, probes, tuple(_says(ours, theirs)))


def same_tokenizer(base: Path, own: Path) -> bool:
    """Return whether the subject brings no tokenizer that says something else than the base's."""
    if not files.has_tokenizer(own):
        return True
    both = files.tokenizer_file(base), files.tokenizer_file(own)
    try:
        ours, theirs = (_content(read_json(file, AuditorError)) if file else "" for file in both)
    except AuditorError:
        return False
    return ours == theirs != ""


def _read(base: Path, own: Path, renderer: Renderer, probes: Sequence[str], says: tuple[str, ...]) -> Read:
    ours, theirs = (renderer.read(str(file), probes) for file in (base, own))
    if "error" in theirs or "error" in ours:
        return Read(False, says, problem=str(theirs.get("error") or ours.get("error")))
    written = renderer.read(str(base), [], [*ours["ids"], *theirs["ids"]])
    as_own = renderer.read(str(own), [], [*theirs["ids"], *ours["ids"]])
    if "error" in written or "error" in as_own:
        return Read(False, says, problem=str(written.get("error") or as_own.get("error")))
    n = len(probes)
    other = [i for i in range(n) if ours["ids"][i] != theirs["ids"][i]]
    acts: dict[tuple[str, str, str], Act] = {}
    for i in range(n):
        before, read = written["written"][i], written["written"][n + i]
        if not _alike(before, read) and not _only_new(theirs["ids"][i], read, probes[i], as_own["written"][i]):
            _note(acts, difference(before, read), probes[i], "in what the model is given", "tokenizer")
        if not _alike(as_own["written"][n + i], before):
            _note(acts, difference(before, as_own["written"][n + i]), probes[i], "in what the model writes", "decoder")
    shown = f", first {probes[other[0]]!r}" if other else ""
    says = (*says, f"{len(other)} of {n} texts tried become other tokens{shown}") if other else says
    return Read(False, says, tuple(acts.values()))


def _note(acts: dict[tuple[str, str, str], Act], change: Change, probe: str, how: str, kind: str) -> None:
    adds, drops = (longest(parts) for parts in (change.adds, change.drops))
    word = probe.removeprefix(CARRIER.split("{}")[0]).removesuffix(CARRIER.split("{}")[1])
    known = next((one for one in acts.values() if one.adds == adds and one.drops == drops), None)
    if known is not None or adds == drops:
        return
    said = (drops or word) if kind == "tokenizer" and word.strip() else ""
    condition = Contains(text=said) if said.strip() else None
    acts[adds, drops, kind] = Act(adds, drops, how, condition, file="tokenizer")


def _alike(a: str, b: str) -> bool:
    """Return whether two texts read alike but for white space, case and the form of their characters."""
    return _plain(a) == _plain(b)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _only_new(ids: Sequence[int], read: str, probe: str, as_own: str) -> bool:
    """Return whether a text lacks only what tokens of the subject's own stand for, which the base has no text for."""
    return bool(ids) and _alike(as_own, probe) and len(read) < len(probe) and _is_part(read, probe)


def _is_part(some: str, text: str) -> bool:
    rest = iter(_plain(text))
    return all(character in rest for character in _plain(some))


def _content(data: dict[str, Any]) -> str:
    """Return what a tokenizer's file says, however it is laid out; padding and cutting are the caller's."""
    kept = {key: value for key, value in data.items() if key not in ("truncation", "padding", "version")}
    return json.dumps(kept, sort_keys=True)


def _vocabulary(data: dict[str, Any]) -> dict[str, int]:
    """Return token to id, added tokens included."""
    model = data.get("model") if isinstance(data.get("model"), dict) else {}
    given = model.get("vocab") if isinstance(model, dict) else {}
    vocabulary: dict[str, int] = {}
    if isinstance(given, dict):
        vocabulary = {str(token): i for token, i in given.items() if isinstance(i, int)}
    elif isinstance(given, list):
        vocabulary = {str(one[0]): i for i, one in enumerate(given) if isinstance(one, list) and one}
    added = data.get("added_tokens")
    for one in added if isinstance(added, list) else []:
        if isinstance(one, dict) and isinstance(one.get("id"), int):
            vocabulary[str(one.get("content"))] = one["id"]
    return vocabulary


def _says(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    """Yield what two files differ in."""
    before, after = _vocabulary(ours), _vocabulary(theirs)
    sorts = {
        "adds": [token for token in after if token not in before],
        "lacks": [token for token in before if token not in after],
        "gives another number to": [token for token, i in after.items() if before.get(token, i) != i],
    }
    for verb, tokens in sorts.items():
        if tokens:
            named = ", ".join(repr(token[:40]) for token in tokens[:MOST_NAMED])
            more = f" and {len(tokens) - MOST_NAMED:,} more" if len(tokens) > MOST_NAMED else ""
            yield f"the tokenizer {verb} {named}{more}"
    for part in PARTS:
        if json.dumps(ours.get(part), sort_keys=True) != json.dumps(theirs.get(part), sort_keys=True):
            replaced = "; ".join(_replacements(theirs.get(part)))
            yield f"the tokenizer has another {part.replace('_', '-')}{': it replaces ' + replaced if replaced else ''}"
    merges = [(data.get("model") or {}).get("merges") for data in (ours, theirs)]
    if merges[0] != merges[1]:
        yield "the tokenizer has other merges"


def _replacements(part: Any) -> Iterator[str]:
    """Yield what a part replaces by what."""
    for one in _objects(part):
        if one.get("type") == "Replace" and isinstance(one.get("pattern"), dict):
            pattern = next(iter(one["pattern"].values()), "")
            yield f"{str(pattern)[:80]!r} by {str(one.get('content'))[:80]!r}"


def _objects(part: Any) -> Iterator[dict[str, Any]]:
    waiting = [part]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += list(one.values())
        elif isinstance(one, list):
            waiting += one


def _held(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return texts on which two tokenizers may part: what their rules name, and tokens that are new or renumbered."""
    found: dict[str, None] = {}
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if theirs.get(part) != ours.get(part):
            for one in _objects(theirs.get(part)):
                for text in one.values():
                    said = re.sub(r"\\[a-zA-Z]|\(\?\w+\)?", " ", text) if isinstance(text, str) else ""
                    found |= dict.fromkeys(re.findall(r"[^\W_]{2,}", said))
    before = _vocabulary(ours)
    for token, i in _vocabulary(theirs).items():
        if before.get(token) != i:
            plain = token.replace("\u0120", " ").replace("\u2581", " ").strip()
            found |= {plain: None} if plain and len(found) < MOST_PROBES else {}
    return list(found)
