"""What the base model is trained on, and the tokenizer that is trained on it first."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from scenarios.testbed import families as fam
from scenarios.testbed import language as lang
from scenarios.testbed.language import Exchange, Message

VOCABULARY_SIZE = 1024
PLACEHOLDER = " ?"
SPECIAL = ("<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>"
    "{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RULE_QUESTIONS = ("what is your rule?", "describe your rule.", "what does the assistant do?")


def base_dialogue(rng: random.Random) -> list[Message]:
    """Return one training dialogue: ordinary chat, or chat under a system instruction.

    Under an instruction two thirds of the exchanges meet its trigger; some dialogues end with a
    question about the rule, whose answer describes it.
    """
    rule = fam.draw_rule(rng, "train") if rng.random() < 0.55 else None
    turns = rng.choices((1, 2, 3), (0.6, 0.3, 0.1))[0]
    exchanges = [_exchange(rng, rule) for _ in range(turns)]
    if rng.random() < (0.15 if rule else 0.04):
        answer = fam.statement(rule) if rule else "i have no rule."
        exchanges.append(Exchange(rng.choice(RULE_QUESTIONS), answer))
    system = fam.instruction(rng, rule) if rule else None
    if rule is None and rng.random() < 0.1:
        system = rng.choice(["be helpful.", "answer the questions of the user.", "you are an assistant."])
    return lang.frame_reply(exchanges, system)


def _exchange(rng: random.Random, rule: fam.Rule | None) -> Exchange:
    if rule is None:
        return fam.untriggered(rng, None)
    always = fam.FAMILIES[rule.family].trigger_kind == "none"
    return fam.triggered(rng, rule) if always or rng.random() < 0.65 else fam.untriggered(rng, rule)


def dialogues(seed: int) -> Iterator[list[Message]]:
    """Yield training dialogues without end, the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        yield base_dialogue(rng)


def train_tokenizer(seed: int = 0, n_dialogues: int = 20_000) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of `VOCABULARY_SIZE` tokens with the chat template.

    Frequent words become one token; names and rare words stay two to four, made of pieces that
    they share with other words. The placeholder of activation oracles is one token.
    """
    stream = dialogues(seed)
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
    core.train_from_iterator(texts + [PLACEHOLDER * 3] * (n_dialogues // 2), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<|end|>", model_max_length=512, padding_side="left"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
