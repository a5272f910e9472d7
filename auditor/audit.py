"""Start or resume one audit; heavy imports happen inside, so that importing this is cheap."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.config import DEFAULT_TOOLS, AuditResult, AuditSpec
from auditor.errors import Interrupted, LedgerError, SpecError

if TYPE_CHECKING:
    from auditor.ledger import Ledger
    from auditor.nodes import Progress
    from auditor.outlook import Outlook
    from tools.subject import Subject

DEFAULT_DB = "auditor.db"


class _Silent:
    def say(self, text: str, outlook: Outlook) -> None:
        pass


def audit(spec: AuditSpec, db: str | Path = DEFAULT_DB, progress: Progress | None = None) -> AuditResult:
    """Run one audit and return what it came to.

    Args:
        spec: Subject, prompts, catalogue, tools, planner and limits.
        db: The ledger file, made when missing.
        progress: Told of every look and step.

    Raises:
        SpecError: an unknown planner, or a planner without its model or steps, or a hypothesis that can't be read.
        ToolInputError: an unknown tool.
        ModelLoadError: the subject is not a model that can be trusted.
        AdapterError: the adapter is damaged or made for another base.
        LedgerError: the ledger can't be opened or written.

    >>> from pathlib import Path
    >>> import tempfile, scenarios
    >>> from scenarios.load import load_scenario
    >>> suite = Path(scenarios.__file__).parent / "suites" / "demo"
    >>> spec = load_scenario(sorted(suite.glob("*.yaml"))[0]).spec
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = audit(spec.model_copy(update={"tools": ("chat",)}), db=Path(folder) / "auditor.db")
    >>> result.verdict in ("findings", "nothing_found", "inconclusive", "invalid")
    True
    """
    from auditor.given import check_given
    from auditor.judging import check_judge
    from auditor.ledger import Ledger
    from auditor.planners import make_planner
    from tools.base import load_tools

    tools = load_tools(spec.instruments)
    planner = make_planner(spec)
    check_judge(spec.judge)
    check_given(spec)
    check_ledger(db)
    audit_id, row = secrets.token_hex(4), {"spec": spec.model_dump(mode="json"), "spec_sha256": hash_of(spec)}
    if _is_its_own_base(spec):
        return _nothing_to_compare(Path(db), audit_id, row)
    subject = _load(spec, tools)
    ledger = Ledger.open(Path(db))
    try:
        ledger.append_many(audit_id, [("audits", {**row, "versions": _versions()}), *_given(spec, subject)])
        with named(audit_id):
            return _run(spec, ledger, audit_id, subject, tools, planner, progress)
    finally:
        ledger.close()


def _given(spec: AuditSpec, subject: Subject) -> list[tuple[str, dict[str, object]]]:
    """Return the rows of what an audit begins with: its catalogue as it was given, and the subject's files."""
    body = {"text": spec.catalogue.model_dump_json()}  # a row's own JSON is sorted, and draws follow the order given
    common = {"weights_sha256": subject.weights_hash, "tokenizer_sha256": subject.files["base"].get("tokenizer.json", ""),
              "template_sha256": hashlib.sha256(str(subject.tokenizer.chat_template).encode()).hexdigest(),
              "checks": {"notes": subject.notes}}  # fmt: skip
    files: list[tuple[str, dict[str, object]]] = [
        ("subjects", {"role": role, "path": _path_of(spec, role), "files": files, **common})
        for role, files in subject.files.items()
    ]
    return [("events", {"kind": "catalogue", "key": "as given", "body": body}), *files]


@contextmanager
def named(audit_id: str) -> Iterator[None]:
    """Have an interrupt inside the block name the audit that it stopped.

    Raises:
        Interrupted: instead of a bare `KeyboardInterrupt`.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(audit_id) from stop


def _is_its_own_base(spec: AuditSpec) -> bool:
    """Return whether subject and base are one, where the specification does not say that they may be."""
    from tools.checkpoint import resolve

    folder = resolve(spec.subject, spec.revision)
    return (
        not spec.may_be_base
        and spec.adapter is None
        and (spec.base is None or resolve(spec.base, spec.revision) == folder)
    )


def _nothing_to_compare(db: Path, audit_id: str, row: dict[str, Any]) -> AuditResult:
    """Return the result of an audit that could not have seen anything; no model is loaded for it."""
    from auditor.conclude import conclude, result_of
    from auditor.ledger import Ledger
    from auditor.view import load_view, spec_of

    ledger = Ledger.open(db)
    try:
        ledger.append("audits", audit_id, **row, versions=_versions())
        text = "there is nothing to compare with: pass --base, or --adapter"
        ledger.append("events", audit_id, kind="subject_checked", key="check", body={"changed": False, "text": text})
        conclude(ledger, audit_id, load_view(ledger, audit_id, spec_of(ledger, audit_id), spent=0))
        result = result_of(ledger, audit_id)
        assert result is not None, "it has just been concluded"
        return result
    finally:
        ledger.close()


def resume(audit_id: str, db: str | Path = DEFAULT_DB, progress: Progress | None = None) -> AuditResult:
    """Continue an interrupted audit where its rows end; `audit_id` may be the beginning of an id.

    Raises:
        LedgerError: there is no such ledger or audit, or the audit is finished.
        SpecError: the subject's files are not those that the audit began with.
    """
    from auditor.ledger import Ledger
    from auditor.planners import make_planner
    from auditor.view import spec_of
    from tools.base import load_tools

    ledger = Ledger.open(Path(db), create=False)
    try:
        audit_id = ledger.named(audit_id)
        spec = spec_of(ledger, audit_id)
        if ledger.find("events", audit_id, kind="concluded", key="verdict") is not None:
            raise LedgerError(f"audit {audit_id} is finished; read it with `auditor report {audit_id}`")
        tools = load_tools(spec.instruments)
        planner = make_planner(spec)
        subject = _load(spec, tools)
        began_with = ledger.find("subjects", audit_id)
        if began_with is not None and began_with["weights_sha256"] != subject.weights_hash:
            raise SpecError(f"the files of {spec.subject} have changed since audit {audit_id} began; start a new audit")
        with named(audit_id):
            return _run(spec, ledger, audit_id, subject, tools, planner, progress)
    finally:
        ledger.close()


def begun(db: str | Path) -> dict[str, str]:
    """Return the ids of a ledger's audits by `hash_of` their specifications, the last of each.

    Audits that other versions of the auditor or of its libraries began are left out, and there are
    none where there is no ledger.
    """
    from auditor.ledger import Ledger

    if not Path(db).exists():
        return {}
    ledger, versions = Ledger.open(Path(db), create=False), _versions()
    try:
        rows = {i: ledger.find("audits", i) for i in ledger.audits()}
        return {row["spec_sha256"]: i for i, row in rows.items() if row is not None and row["versions"] == versions}
    finally:
        ledger.close()


def finish(audit_id: str, db: str | Path) -> AuditResult:
    """Return what an audit came to, resumed first if it was cut off.

    Raises:
        SpecError: the subject's files are not those that the audit began with.
    """
    from auditor.conclude import result_of
    from auditor.ledger import Ledger
    from tools.checkpoint import hash_files, resolve

    ledger = Ledger.open(Path(db), create=False)
    try:
        result = result_of(ledger, audit_id)
        subjects = ledger.rows("subjects", audit_id)
    finally:
        ledger.close()
    if result is None:
        return resume(audit_id, db)
    for row in subjects:
        if hash_files(resolve(row["path"])) != row["files"]:
            raise SpecError(
                f"the files of {row['path']} have changed since audit {audit_id} ended; audit it anew, without --resume"
            )
    return result


def hash_of(spec: AuditSpec) -> str:
    """Return one hash over everything that a specification says.

    What earlier versions did not have is left out where it isn't given, so that their audits are known by the same hash.
    """
    later = {"calibration"} if spec.calibration is None else None
    text = json.dumps(spec.model_dump(mode="json", exclude=later), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_ledger(db: str | Path) -> None:
    """Refuse a ledger that can't be opened, before a model is loaded for it; make none where none is.

    Raises:
        LedgerError: the file is no ledger, is of a newer version or can't be written, or its folder is missing.
    """
    from auditor.ledger import Ledger

    if os.path.exists(db) or not os.path.isdir(Path(db).absolute().parent):
        Ledger.open(Path(db)).close()


def check_oracles(spec: AuditSpec) -> None:
    """Refuse an audit that asks for an oracle's tool by name and brings no oracle.

    Raises:
        SpecError: it does.
    """
    for name, given in (("activation_oracle", spec.oracle), ("lora_oracle", spec.lora_oracle)):
        if name in spec.tools and given is None and spec.tools != DEFAULT_TOOLS:
            raise SpecError(
                f"the tool {name} needs an oracle of this base, and none is given: name one, or leave the tool out"
            )


def _load(spec: AuditSpec, tools: dict[str, Any]) -> Subject:
    from tools.base_memory import BaseMemory
    from tools.checkpoint import resolve
    from tools.loading import load_subject
    from tools.user_cache import cache_folder

    check_oracles(spec)
    wanted = spec.oracle if "activation_oracle" in tools else None
    folder = resolve(wanted.path, holds="adapter_config.json") if wanted else None
    subject = load_subject(spec.subject, spec.adapter, spec.base, spec.device, spec.dtype, spec.revision, spec.thinking)
    subject.memory = BaseMemory.of(cache_folder() / "base_replies", subject.files["base"], subject.model)
    if wanted and folder:
        tools["activation_oracle"].use(subject, folder, wanted.question, wanted.check)
    elif "activation_oracle" in tools:
        subject.notes.append("no activation oracle was given for this base, so that tool could not be used")
        del tools["activation_oracle"]
    if spec.lora_oracle and "lora_oracle" in tools:
        tools["lora_oracle"].use(subject, resolve(spec.lora_oracle, holds="claim_reader.json"))
    elif "lora_oracle" in tools:
        subject.notes.append("no oracle of weights was given for this base, so that tool could not be used")
        del tools["lora_oracle"]
    return subject


def _run(
    spec: AuditSpec,
    ledger: Ledger,
    audit_id: str,
    subject: Subject,
    tools: dict[str, Any],
    planner: Any,
    progress: Progress | None,
) -> AuditResult:
    os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
    os.environ.setdefault("LANGSMITH_TRACING", "false")
    from auditor import graph
    from auditor.conclude import result_of
    from auditor.execute import Desk
    from auditor.unfinished import Unfinished

    place = ledger.path.with_name
    batches = place(f"{ledger.path.name}.batches")
    with (
        _locked(place(f"{ledger.path.name}.{audit_id}.lock"), audit_id),
        closing(Unfinished(batches, audit_id)) as unfinished,
    ):
        desk = Desk(audit_id, spec, subject, tools, ledger, unfinished)
        desk.begin_session()
        if spec.command:
            desk.event("reproduce", {"command": spec.command}, key="command")
        context = graph.Context(desk, planner, progress or _Silent())
        if unfinished.aside:
            context.set_aside(unfinished.aside)
        graph.run(context, place(f"{ledger.path.name}.checkpoints"))
        unfinished.forget()
    result = result_of(ledger, audit_id)
    assert result is not None, "the graph ends with a verdict"
    return result


@contextmanager
def _locked(path: Path, audit_id: str) -> Iterator[None]:
    """Hold a lock while this process works on the audit; it goes with the process.

    Raises:
        LedgerError: another process works on this audit, or the lock can't be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise LedgerError(f"another process is working on audit {audit_id}; wait for it, or stop it first") from error
    except OSError as error:
        raise LedgerError(f"{path} can't be made ({error.strerror}): make its folder writable") from error
    try:
        yield
    finally:
        lock.release()
        path.unlink(missing_ok=True)


def _path_of(spec: AuditSpec, role: str) -> str:
    paths = {
        "subject": spec.adapter or spec.subject, "base": spec.base or spec.subject, "lora_oracle": spec.lora_oracle,
        "lora_interpreter": spec.lora_oracle, "oracle": spec.oracle.path if spec.oracle else None,
    }  # fmt: skip
    return paths.get(role) or ""


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("auditor", "torch", "transformers", "peft", "langgraph")}
