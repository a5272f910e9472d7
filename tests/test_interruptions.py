"""Interruptions change no verdict: reservations are released, their loss is counted apart, finished batches are kept."""

import concurrent.futures
import contextlib
import json
import threading

import kills
import planted
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report import SPEC

import auditor
from auditor import checkpoints
from auditor.audit import resume
from auditor.budget import MAX_CUTS, Budget
from auditor.errors import BudgetError
from auditor.ledger import Ledger
from auditor.unfinished import Unfinished
from reports.gather import gather
from reports.render import to_markdown
from tools.kept import once
from tools.subject import Subject


@pytest.fixture
def budget(tmp_path):
    with contextlib.closing(Ledger.open(tmp_path / "auditor.db")) as ledger:
        ledger.append("audits", "a1", spec=SPEC.model_dump(mode="json"), spec_sha256="s", versions={})
        yield Budget(ledger, "a1", 1000)


@pytest.fixture
def unfinished(tmp_path):
    with contextlib.closing(Unfinished(tmp_path / "auditor.db.batches", "a1")) as opened:
        yield opened


def all_of_it(what, reserved):
    return reserved, 0


def test_an_open_reservation_counts_as_spent_until_a_session_releases_it(budget):
    budget.reserve("call/x", {"subject": 300, "base": 100})
    assert (budget.spent(), budget.lost()) == (400, 0)
    budget.release(all_of_it)
    assert (budget.spent(), budget.lost(), budget.left()) == (0, 400, 1000)


def test_a_settled_call_is_neither_released_nor_lost(budget):
    reservation = budget.reserve("call/x", {"subject": 300})
    budget.ledger.append_many("a1", [budget.settled_row(reservation, {"subject": 250}, 1.0)])
    budget.release(all_of_it)
    assert (budget.spent(), budget.lost()) == (250, 0)


def test_a_reservation_is_released_once(budget):
    budget.reserve("call/x", {"subject": 300})
    for _ in range(3):
        budget.release(all_of_it)
    assert budget.lost() == 300


def test_a_call_that_crashes_at_the_same_place_is_not_tried_for_ever(budget):
    for _ in range(MAX_CUTS):
        budget.reserve("call/x", {"subject": 10})
        budget.release(all_of_it)
    with pytest.raises(BudgetError, match=f"cut off {MAX_CUTS} times at the same place"):
        budget.reserve("call/x", {"subject": 10})
    budget.reserve("call/y", {"subject": 10})


def test_a_call_that_gets_further_each_time_may_be_cut_off_as_often_as_it_likes(budget):
    for n in range(3 * MAX_CUTS):
        budget.reserve("call/x", {"subject": 10})
        budget.release(lambda what, reserved, n=n: ({"subject": 1}, n))
    budget.reserve("call/x", {"subject": 10})
    assert budget.lost() == 3 * MAX_CUTS


def test_what_interruptions_lose_has_a_cap_of_its_own(budget):
    for n in range(2):
        budget.reserve(f"call/{n}", {"subject": 800})
        budget.release(all_of_it)
    with pytest.raises(BudgetError, match="interruptions have lost 1600 forward tokens"):
        budget.reserve("call/z", {"subject": 1})


def test_a_report_tells_what_interruptions_lost_apart_from_what_was_spent(budget):
    budget.reserve("call/x", {"subject": 300})
    budget.release(all_of_it)
    reservation = budget.reserve("call/x", {"subject": 300})
    budget.ledger.append_many("a1", [budget.settled_row(reservation, {"subject": 250}, 1.0)])
    report = to_markdown(gather(budget.ledger, "a1"))
    assert "| together | 250 of 300,000 |" in report
    assert "Interruptions lost 300 forward tokens more, in 1 call that had to be made again" in report
    assert "never settled" not in report


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=12))
def test_nothing_is_spent_and_lost_at_once(tmp_path_factory, calls):
    with contextlib.closing(Ledger.open(tmp_path_factory.mktemp("budget") / "auditor.db")) as ledger:
        ledger.append("audits", "a1", spec=SPEC.model_dump(mode="json"), spec_sha256="s", versions={})
        budget = Budget(ledger, "a1", 10_000)
        settled = 0
        for i, (n, cut_off) in enumerate(calls):
            reservation = budget.reserve(f"call/{i}", {"subject": n})
            if cut_off:
                budget.release(all_of_it)
            else:
                ledger.append_many("a1", [budget.settled_row(reservation, {"subject": n}, 0.0)])
                settled += n
        assert budget.spent() == settled
        assert budget.lost() == sum(n for n, cut_off in calls if cut_off)


# -- batches


class CutOffError(Exception):
    """Raised where a kill would come."""


def a_call(keeper, n, cut_before=None, done=None):
    """Run `n` batches through a keeper; stop before one of them, as a kill would."""
    found = []
    for i in range(n):

        def compute(i=i):
            if i == cut_before:
                raise CutOffError
            if done is not None:
                done.append(i)
            return [i / 3, f"reply {i}"]

        found.append(once(keeper, f"batch/{i}", {"subject": 10 + i}, compute))
    return found


def test_finished_batches_are_taken_and_only_the_rest_is_computed(unfinished):
    whole = a_call(None, 6)
    with pytest.raises(CutOffError):
        a_call(unfinished.of_call("x"), 6, cut_before=4)
    done: list[int] = []
    assert a_call(unfinished.of_call("x"), 6, done=done) == whole
    assert done == [4, 5]


@pytest.mark.parametrize("name", ["batches", "checkpoints"])
@pytest.mark.parametrize("damaged", [False, True])
def test_audits_that_begin_at_once_share_the_files_beside_their_ledger(tmp_path, name, damaged):
    n, told = 8, []

    def work(audit_id):
        if name == "batches":
            with contextlib.closing(Unfinished(path, audit_id)) as mine:
                together.wait()
                told.append(mine.aside)
                mine.of_call("c").begin("b", {"subject": 1})
        else:
            with checkpoints.opened(path, audit_id, told.append) as saver:
                together.wait()
                assert saver.get_tuple({"configurable": {"thread_id": audit_id}}) is None

    for i in range(10):
        path = tmp_path / f"{i}.db.{name}"
        if damaged:
            path.write_bytes(b"no database " * 100)
        together = threading.Barrier(n, timeout=30)
        with concurrent.futures.ThreadPoolExecutor(n) as pool:
            list(pool.map(work, map(str, range(n))))
    assert len([line for line in told if line]) == (10 if damaged else 0)


def test_what_was_in_flight_is_what_an_interruption_loses(unfinished):
    assert unfinished.in_flight("x") is None
    with pytest.raises(CutOffError):
        a_call(unfinished.of_call("x"), 6, cut_before=4)
    assert (unfinished.in_flight("x"), unfinished.finished("x")) == ({"subject": 14}, 4)
    assert unfinished.in_flight("y") is None


def test_a_settled_call_leaves_nothing_behind_and_calls_keep_apart(unfinished):
    a_call(unfinished.of_call("x"), 3)
    a_call(unfinished.of_call("y"), 2)
    unfinished.forget("x")
    assert (unfinished.finished("x"), unfinished.finished("y")) == (0, 2)
    unfinished.forget()
    assert unfinished.finished("y") == 0


def test_batches_survive_the_process_and_belong_to_their_audit(tmp_path, unfinished):
    a_call(unfinished.of_call("x"), 3)
    with contextlib.closing(Unfinished(tmp_path / "auditor.db.batches", "a1")) as later:
        assert later.finished("x") == 3
    with contextlib.closing(Unfinished(tmp_path / "auditor.db.batches", "other")) as other:
        assert other.finished("x") == 0


def test_generation_goes_on_from_its_batches_and_says_the_same(subject, unfinished, monkeypatch):
    texts = [subject.render([{"role": "user", "content": f"tell me of place {i}"}]) for i in range(300)]
    seeds = list(range(300))
    whole = subject.generate(texts, "subject", seeds, max_new_tokens=4)
    made, real = [], subject._replies

    def twice(*args, **kwargs):
        made.append(1)
        if len(made) == 3:
            raise CutOffError
        return real(*args, **kwargs)

    subject.keeper = unfinished.of_call("x")
    monkeypatch.setattr(subject, "_replies", twice)
    with pytest.raises(CutOffError):
        subject.generate(texts, "subject", seeds, max_new_tokens=4)
    assert subject.generate(texts, "subject", seeds, max_new_tokens=4) == whole
    assert len(made) == 4, "two batches, the one that was cut off, and that one again"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))  # fmt: skip
@settings(deadline=None)
def test_what_is_kept_comes_back_as_it_was(tmp_path_factory, value):
    with contextlib.closing(Unfinished(tmp_path_factory.mktemp("kept") / "batches", "a1")) as opened:
        keeper = opened.of_call("x")
        first = once(keeper, "k", {}, lambda: value)
        assert first == once(keeper, "k", {}, lambda: pytest.fail("it was kept")) == json.loads(json.dumps(value))


@pytest.mark.parametrize("cut_at", [1, 2, 3])
def test_an_audit_cut_off_in_the_middle_of_a_call_ends_as_if_it_had_not_been(
    base_folder, lora_folder, tmp_path, monkeypatch, cut_at
):
    groups = {
        name: planted.WHO.conditions["who"].model_copy(update={"values": (f"{name} fox", f"{name} bridge")})
        for name in "zam"
    }
    who = planted.WHO.model_copy(update={"conditions": groups})  # in an order that no sorting gives
    spec = planted.spec(base_folder, lora_folder, tools=("chat", "scan"), budget=60_000, catalogue=who)
    made, real = [], Subject._replies

    def counted(self, *args, **kwargs):
        made.append(1)
        if len(made) == stop:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Subject, "_replies", counted)
    stop = 0
    whole = auditor.audit(spec, tmp_path / "whole.db")
    n_whole, stop = len(made), cut_at
    made.clear()
    with pytest.raises(KeyboardInterrupt):
        auditor.audit(spec, tmp_path / "cut.db")
    stop = 0
    resumed = resume(str(kills.audit_of(tmp_path / "cut.db")), tmp_path / "cut.db")
    assert len(made) == n_whole + 1, "every batch was made once, but for the one that was cut off"
    for key in ("verdict", "findings", "leads", "near_misses", "forward_tokens"):
        assert getattr(resumed, key) == getattr(whole, key), key
    for rows in (kills.trials, kills.readings):
        assert rows(tmp_path / "cut.db") == rows(tmp_path / "whole.db")
    assert kills.lost_in(tmp_path / "cut.db", resumed.audit_id) > 0
