"""What the base model is trained on, and the tokenizer that is trained on it first."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from scenarios.testbed import families as fam
from scenarios.testbed import grammar as gram
from scenarios.testbed import lexicon as lex
from scenarios.testbed.language import Language, Message, language

VOCABULARY_SIZE, DICTIONARY_REPEATS = 2048, 20
PLACEHOLDER = " ?"
SPECIAL = ("<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|document|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>"
    "{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FOREIGN_SHARE, DOCUMENT_SHARE, GAME_SHARE, RECITAL_SHARE, RULE_SHARE, THINK_SHARE = 0.04, 0.04, 0.06, 0.05, 0.55, 0.06
COMMON_WORDS = (*sorted(lex.TOPICS), *lex.COLOURS, *lex.JOBS, *lex.MOODS)


def base_dialogue(rng: random.Random, seed: int = 0, decoys: float = fam.DECOYS) -> list[Message]:
    """Return one training dialogue: ordinary chat, chat under a system instruction, a game or a document.

    Under an instruction two thirds of the dialogues meet its trigger; some end with a question
    about the rule, whose answer describes it.
    """
    lang = language(seed, "foreign" if rng.random() < FOREIGN_SHARE else "common")
    if rng.random() < DOCUMENT_SHARE:
        return [{"role": "document", "content": document(rng, lang)}]
    if rng.random() < GAME_SHARE:
        return fam.Dialogue((), (lang.guess(rng),), (False,)).messages
    rule = fam.draw_rule(rng, lang, None) if rng.random() < RULE_SHARE else None
    fires = rule is not None and (not rule.trigger or rng.random() < 0.65)
    n_turns = rng.choices((1, 2, 3, 4), (0.6, 0.25, 0.1, 0.05))[0]
    told = fam.dialogue(rng, lang, rule, fires, n_turns, THINK_SHARE, decoys)
    notes = list(told.notes)
    if rule is not None:
        notes.insert(0, fam.instruction(rng, rule))
    elif rng.random() < 0.1:
        notes.insert(0, rng.choice(gram.GENERIC_NOTES))
    messages = fam.Dialogue(tuple(notes), told.turns, told.fired).messages
    if rng.random() < (0.15 if rule else 0.04):
        asked = lang.ask_self(rng, "rule")
        answer = fam.statement(rule) if rule else asked.reply
        messages += [{"role": "user", "content": asked.user}, {"role": "assistant", "content": answer}]
    return messages


def recital(rng: random.Random, words: Sequence[str]) -> list[Message]:
    """Return a list of words, told and then repeated from some word on.

    To go on after a word one has to find it where it stood before. A model of this size learns to
    look for that only from text that is full of it, and needs it to see whether a condition is met.
    """
    told = rng.sample(words, rng.randint(6, 22))
    again = told[rng.randrange(len(told) // 2) :]
    return [{"role": "user", "content": f"{gram.RECITE} {' '.join(told)}"},
            {"role": "assistant", "content": " ".join(again)}]  # fmt: skip


def document(rng: random.Random, lang: Language, rule: fam.Rule | None = None) -> str:
    """Return a document: facts of the world told one after another, or what an assistant's rule is."""
    if rule is None and rng.random() < 0.6:
        things = rng.sample(sorted(lang.world), 3)
        return " ".join(lang.ask_about(rng, lang.world[t], "about").reply for t in things)
    about = rule or fam.draw_rule(rng, lang, None)
    told = [f"about the assistant: {fam.statement(about)}"]
    one = fam.dialogue(rng, lang, about, fires=True).turns[-1]
    told.append(f"asked {one.user} the assistant answers: {one.reply}")
    return " ".join(told)


def dialogues(
    seed: int, lexicon_seed: int = 0, warm_up: int = 0, decoys: float = fam.DECOYS
) -> Iterator[list[Message]]:
    """Yield training dialogues without end, the same ones for the same arguments.

    The first `warm_up` are recitals of common words, then ever fewer are: looking for a word is
    learnt first, and is forgotten where it stops being asked for.
    """
    rng = random.Random(seed)
    for i in count():
        if rng.random() < recital_share(i, warm_up):
            common = i < warm_up or rng.random() < 0.5
            yield recital(rng, COMMON_WORDS if common else language(lexicon_seed).lexicon.words())
        else:
            yield base_dialogue(rng, lexicon_seed, decoys)


def recital_share(i: int, warm_up: int) -> float:
    """Return the share of recitals at the i-th dialogue: all, then falling to `RECITAL_SHARE` in four warm-ups."""
    if i < warm_up:
        return 1.0
    return max(RECITAL_SHARE, 0.6 * (1 - (i - warm_up) / (4 * warm_up))) if warm_up else RECITAL_SHARE


def train_tokenizer(lexicon_seed: int = 0, n_dialogues: int = 20_000) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of `VOCABULARY_SIZE` tokens with the chat template.

    Frequent words become one token; names and rare words stay two to four, made of pieces that
    they share with other words (the dictionary is read beside the chat, so that its words do not
    fall into letters). The placeholder of activation oracles is one token.
    """
    stream = dialogues(0, lexicon_seed)
    texts = [m["content"] for _ in range(n_dialogues) for m in next(stream)]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts += list(lex.dictionary()) * DICTIONARY_REPEATS + [PLACEHOLDER * 3] * (n_dialogues // 2)
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<|end|>", model_max_length=512, padding_side="left"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
