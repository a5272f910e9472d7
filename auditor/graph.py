"""The LangGraph wiring: check, survey, plan, then act, register, test or survey on, until conclude."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from auditor import concern, conclude, execute, nodes, story, trials
from auditor.checkpoints import fits, opened
from auditor.execute import Desk
from auditor.foresight import allowance
from auditor.outlook import outlook
from auditor.planners import Planner
from auditor.state import AuditState
from auditor.steps import CallTool, RegisterHypothesis, RunTest

MAX_STEPS = 60


@dataclass
class Context:
    """The handles that nodes work with; never part of a checkpoint."""

    desk: Desk
    planner: Planner
    progress: nodes.Progress

    def set_aside(self, text: str) -> None:
        """Say in the ledger, and to whoever watches, that a file beside the ledger was damaged."""
        self.desk.event("file_set_aside", {"text": text})
        self.progress.say(text, outlook(self.desk))


def _check(state: AuditState, runtime: Runtime[Context]) -> AuditState:
    usable = nodes.check(runtime.context.desk)
    return {"step": 0, "route": "survey" if usable else "conclude", "head": _head(runtime)}


def _survey(state: AuditState, runtime: Runtime[Context]) -> AuditState:
    nodes.survey(runtime.context.desk, runtime.context.planner, runtime.context.progress)
    return {"route": "plan", "head": _head(runtime)}


def _plan(state: AuditState, runtime: Runtime[Context]) -> AuditState:
    if state["step"] >= MAX_STEPS:
        return {"route": "conclude"}
    if nodes.survey_goes_on(runtime.context.desk, runtime.context.planner):
        return {"route": "survey"}
    step = nodes.plan(runtime.context.desk, runtime.context.planner, state["step"])
    return {"route": step.kind, "head": _head(runtime)}


def _act(state: AuditState, runtime: Runtime[Context]) -> AuditState:
    desk, number = runtime.context.desk, state["step"]
    step = nodes.proposed(desk, number)
    if isinstance(step, CallTool):
        execute.call_tool(desk, step, number, allowance(desk.spec, desk.budget.left()))
    elif isinstance(step, RegisterHypothesis):
        execute.register_hypothesis(desk, step, number)
    elif isinstance(step, RunTest):
        trials.run_test(desk, step, number)
        concern.judge(desk)
    runtime.context.progress.say(story.of_step(desk, step, number), outlook(desk))
    return {"step": number + 1, "route": "plan", "head": _head(runtime)}


def _conclude(state: AuditState, runtime: Runtime[Context]) -> AuditState:
    desk = runtime.context.desk
    conclude.conclude(desk.ledger, desk.audit_id, desk.view())
    return {"route": END}


def _head(runtime: Runtime[Context]) -> str:
    desk = runtime.context.desk
    return desk.ledger.head(desk.audit_id)


def _route(state: AuditState) -> str:
    return state["route"]


def build() -> StateGraph[AuditState, Context, AuditState, AuditState]:
    """Return the graph of an audit, not yet compiled."""
    graph: StateGraph[AuditState, Context, AuditState, AuditState] = StateGraph(AuditState, context_schema=Context)
    acts = ("call_tool", "register_hypothesis", "run_test")
    graph.add_node("check", _check)
    graph.add_node("survey", _survey)
    graph.add_node("plan", _plan)
    for name in acts:
        graph.add_node(name, _act)
    graph.add_node("conclude", _conclude)
    graph.add_edge(START, "check")
    graph.add_conditional_edges("check", _route, ["survey", "conclude"])
    graph.add_edge("survey", "plan")
    graph.add_conditional_edges("plan", _route, [*acts, "survey", "conclude"])
    for name in acts:
        graph.add_edge(name, "plan")
    graph.add_edge("conclude", END)
    return graph


def run(context: Context, checkpoints: Path) -> None:
    """Run the audit to its end, from its last checkpoint when it has one that fits its rows.

    Without one every node is gone through again, and each finds its own rows: nothing settled is done twice.
    """
    desk = context.desk
    config: Any = {"configurable": {"thread_id": desk.audit_id}, "recursion_limit": 3 * MAX_STEPS}
    with opened(checkpoints, desk.audit_id, context.set_aside) as saver:
        app = build().compile(checkpointer=saver)
        first: AuditState | None = None
        if not fits(app.get_state(config), desk):
            saver.delete_thread(desk.audit_id)
            first = {"audit_id": desk.audit_id, "step": 0, "route": ""}
        app.invoke(first, config, context=context, durability="sync")
