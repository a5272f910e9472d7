"""How any model is spoken to: what its template takes is found at load, and each chat is made one that it takes."""

import planted
import pytest
import tiny

from auditor.audit import audit
from auditor.ledger import Ledger
from tools.chat import ChatArgs, render_all
from tools.errors import ModelLoadError, ToolInputError
from tools.loading import load_subject

TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}"
)
DROPPED = "{% for m in messages if m['role'] != 'system' %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
DEMANDED = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
OWN = "{% if messages[0]['role'] != 'system' %}<|system|>be kind<|end|>{% endif %}"
PARTS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% for c in m['content'] %}"
    "{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}<|end|>{% endfor %}"
)
STRIPS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] if m['role'] == 'assistant' "
    "else m['content'] }}<|end|>{% endfor %}"
)


def turn(role, content):
    return {"role": role, "content": content}


S, U, V, A = turn("system", "be brief"), turn("user", "a fox"), turn("user", "a bridge"), turn("assistant", "at night")


@pytest.fixture
def load(base_folder, tmp_path):
    """Return a function that loads the tiny base under another template, or under none."""

    def loaded(template, edit=None, **options):
        folder = tiny.copy(base_folder, tmp_path / f"base{len(list(tmp_path.iterdir()))}")
        if template is None:
            (folder / "chat_template.jinja").unlink()
        else:
            (folder / "chat_template.jinja").write_text(template)
        if edit is not None:
            edit(folder)
        return load_subject(str(folder), **options)

    return loaded


def prompt(text):
    return f"{text}<|assistant|>"


@pytest.mark.parametrize("template", [NO_SYSTEM + TURNS + PROMPT, DROPPED + PROMPT], ids=["raises", "drops"])
def test_system_text_goes_before_the_first_user_turn_where_the_template_takes_none(load, template):
    subject = load(template)
    assert subject.render([S, U]) == prompt("<|user|>be brief\n\na fox<|end|>")
    assert subject.render([U]) == prompt("<|user|>a fox<|end|>")
    assert any("takes no system turn" in note for note in subject.notes)


@pytest.mark.parametrize(
    ("template", "with_none"),
    [(TURNS + PROMPT, ""), (OWN + TURNS + PROMPT, "<|system|>be kind<|end|>"), (DEMANDED + TURNS + PROMPT, "<|system|><|end|>")],
    ids=["takes", "has its own", "demands"],
)  # fmt: skip
def test_a_template_that_takes_a_system_turn_gets_it_as_it_is(load, template, with_none):
    subject = load(template)
    assert subject.render([S, U]) == prompt("<|system|>be brief<|end|><|user|>a fox<|end|>")
    assert subject.render([U]) == prompt(f"{with_none}<|user|>a fox<|end|>")
    assert not any("no system turn" in note for note in subject.notes)


def test_neighbouring_turns_of_one_role_are_joined_where_the_roles_must_alternate(load):
    subject = load(ALTERNATE + TURNS + PROMPT)
    assert subject.render([U, V]) == prompt("<|user|>a fox\n\na bridge<|end|>")
    assert subject.render([S, U, A, A, S, V]) == prompt(
        "<|user|>be brief\n\na fox<|end|><|assistant|>at night\n\nat night<|end|><|user|>be brief\n\na bridge<|end|>"
    )
    assert any("alternate" in note for note in subject.notes)
    assert load(TURNS + PROMPT).render([U, V]) == prompt("<|user|>a fox<|end|><|user|>a bridge<|end|>")


def test_a_chat_that_the_assistant_begins_is_given_a_user_turn_where_the_template_wants_one_first(load):
    text = load(ALTERNATE + TURNS + PROMPT).render([A, U])
    assert text.endswith(prompt("<|assistant|>at night<|end|><|user|>a fox<|end|>"))
    assert text.startswith("<|user|>")
    assert load(TURNS + PROMPT).render([A, U]).startswith("<|assistant|>")


def test_a_template_that_wants_content_in_parts_gets_parts(load):
    subject = load(PARTS + PROMPT)
    assert subject.render([S, U]) == prompt("<|system|>be brief<|end|><|user|>a fox<|end|>")
    assert any("as a part" in note for note in subject.notes)


def test_a_template_that_refuses_a_chat_is_an_error_in_one_line(load):
    subject = load("{% if messages | length > 3 %}{{ raise_exception('too\nlong') }}{% endif %}" + TURNS + PROMPT)
    with pytest.raises(
        ToolInputError, match="refuses a chat with the turns user, assistant, user, assistant, user: too long"
    ):
        subject.render([U, A, V, A, V])


def test_a_template_that_writes_nothing_of_the_user_is_refused_at_load(load):
    with pytest.raises(ModelLoadError, match="writes nothing of what the user says"):
        load("<|user|>hidden<|end|>" + PROMPT)


def test_the_template_of_a_processor_is_used_where_the_tokenizer_has_none(load):
    def moved(folder):
        (folder / "chat_template.json").write_text('{"chat_template": "<turn>{{ messages[-1].content }}</turn>"}')

    assert load(None, moved).render([U]) == "<turn>a fox</turn>"


def test_nothing_is_said_of_a_template_that_takes_everything(load):
    assert load(TURNS + PROMPT).notes == []


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """Return a base that takes no system turn and wants the roles to alternate, and a LoRA on it."""
    base = tiny.build_base(tmp_path_factory.mktemp("strict") / "base")
    (base / "chat_template.jinja").write_text(NO_SYSTEM + ALTERNATE + TURNS + PROMPT)
    return base, tiny.build_lora(base, base.parent / "lora")


def test_an_audit_asks_a_base_without_system_turns_under_system_conditions_and_tells_of_it(strict, tmp_path):
    terms = {"kind": "contains", "where": "system", "text": "{value}"}
    system = {"label": "system", "clause": "told {value}", "terms": terms, "values": ["be a fox", "be a bridge"]}
    rows = [
        row.model_copy(update={"messages": [S, U, *row.messages]}) if i % 5 == 0 else row
        for i, row in enumerate(planted.prompts(12))
    ]
    spec = planted.spec(
        *strict, catalogue={"conditions": {"how": system}}, prompts=rows, tools=("chat", "model_diff"), max_new_tokens=6
    )
    done = audit(spec, tmp_path / "a.db")
    ledger = Ledger.open(tmp_path / "a.db", create=False)
    assert not ledger.rows("tool_calls", done.audit_id, state="failed")
    notes = [row["body"]["text"] for row in ledger.rows("events", done.audit_id, kind="subject_note")]
    assert any("takes no system turn" in note for note in notes)
    assert done.verdict != "invalid"


def test_a_system_instruction_of_a_call_is_put_before_the_prompt(strict):
    subject = load_subject(*map(str, strict))
    args = ChatArgs(prompts=[{"messages": [U]}], system="be brief", prefill="so")
    assert render_all(subject, args) == [prompt("<|user|>be brief\n\na fox<|end|>") + "so"]
