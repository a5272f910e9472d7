"""The reports' figures, as SVG that is the same bytes for the same rows.

Tokens are data: they are drawn as plain text, never read as mathtext, with what the font lacks shown as escapes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator

from reports.escape import visible
from reports.finding import TestRecord
from reports.record import PeakExample
from tools.calibration.file import Judged

KL = "kl.svg"
EVIDENCE = "evidence.svg"
FONT = "DejaVu Sans"
INK, QUIET, MARK = "#1f2933", "#9fb3c8", "#c2410c"
MAX_TOKENS = 28
LOWEST = 1e-4
MAX_LAYERS = 160
RC: dict[str, Any] = {
    "svg.hashsalt": "auditor",
    "svg.fonttype": "path",
    "font.family": FONT,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.w_pad": 0.09,
    "figure.constrained_layout.h_pad": 0.09,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def kl_figure(example: PeakExample) -> bytes:
    """Return the SVG of the KL at each token of one reply, its peak marked with what the subject gains there."""
    start = min(max(0, example.peak - MAX_TOKENS // 2), max(0, len(example.tokens) - MAX_TOKENS))
    shown = range(start, min(start + MAX_TOKENS, len(example.tokens)))
    with matplotlib.rc_context():
        _defaults()
        figure = Figure(figsize=(max(1.6 + 0.32 * len(shown), 5.4), 3.6), layout="constrained")
        axes = figure.add_subplot()
        heights = [example.kl_nats[i] for i in shown]
        axes.bar(range(len(shown)), heights, width=0.8, color=[MARK if i == example.peak else QUIET for i in shown])
        axes.set_xlim(-0.7, max(len(shown), 8) - 0.3)
        axes.set_ylim(0, max(*heights, 0.1) * 1.22)
        axes.set_xticks(
            range(len(shown)),
            [drawable(example.tokens[i]) for i in shown],
            rotation=60,
            ha="right",
            rotation_mode="anchor",
            parse_math=False,
        )
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel("KL(subject ‖ base), nats")
        _annotate(axes, example, start, len(shown))
        part = (
            ""
            if len(shown) == len(example.tokens)
            else f", tokens {start + 1} to {shown[-1] + 1} of {len(example.tokens)}"
        )
        axes.set_title(f"A reply of the base, token by token{part} (reading #{example.seq})", pad=10)
        return _svg(figure)


def _annotate(axes: Axes, example: PeakExample, start: int, n: int) -> None:
    """Say over the peak's bar how high it is and what the subject gains there, towards the wider side."""
    at, height = example.peak - start, example.kl_nats[example.peak]
    left = at < max(n, 8) / 2
    text = f"{height:.2f} nats: the subject gains “{drawable(example.gained[example.peak], 28)}”"
    axes.annotate(
        text,
        (at, height),
        xytext=(-4 if left else 4, 5),
        textcoords="offset points",
        color=MARK,
        weight="bold",
        ha="left" if left else "right",
        va="bottom",
        parse_math=False,
    )


def evidence_figure(tests: Sequence[TestRecord]) -> bytes:
    """Return the SVG of the e-value over pairs for each test that has any, with the line it has to reach."""
    tests = [test for test in tests if test.n]
    columns = min(3, len(tests))
    rows = math.ceil(len(tests) / columns)
    with matplotlib.rc_context():
        _defaults()
        figure = Figure(figsize=(max(3.1 * columns, 4.4), 2.5 * rows + 0.3), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        lowest = min(min(1.0, *test.view.outcome.path) for test in tests)
        highest = max(max(test.needed, *test.view.outcome.path) for test in tests)
        for i, axes in enumerate(grid.flat):
            if i >= len(tests):
                axes.remove()
                continue
            _path(axes, tests[i])
            axes.set_ylim(max(lowest, LOWEST) / 3, highest * 6)
            if i % columns == 0:
                axes.set_ylabel("e-value")
            if i + columns >= len(tests):
                axes.set_xlabel("pairs")
        return _svg(figure)


def _path(axes: Axes, test: TestRecord) -> None:
    outcome = test.view.outcome
    values = [1.0, *outcome.path]
    colour = MARK if outcome.decision == "passed" else INK
    axes.set_yscale("log")
    axes.axhline(test.needed, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.plot(
        range(len(values)),
        [max(v, LOWEST / 10) for v in values],
        color=colour,
        linewidth=1.6,
        marker="o",
        markersize=2.5,
    )
    width = max(outcome.n, 8)
    axes.set_xlim(-0.02 * width, 1.05 * width)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.annotate(
        f"1/α = {test.needed:,.0f}",
        (0, test.needed),
        xycoords=("axes fraction", "data"),
        xytext=(4, 3),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=8,
    )
    ending = outcome.decision or "undecided"
    name, hypothesis = drawable(test.view.test_id), drawable(test.hypothesis_id)
    axes.set_title(f"{name} ({hypothesis}, {test.view.grade}): {ending}", fontsize=9, color=colour, parse_math=False)


def layer_figure(modules: Sequence[dict[str, Any]]) -> bytes:
    """Return the SVG of the norm of the change in every module, modules side by side, layers from the bottom up."""
    kinds = sorted({str(m["path"]).rsplit(".", 1)[-1] for m in modules})[:16]
    layers = sorted({int(m["layer"]) for m in modules})[:MAX_LAYERS]
    norms = {(int(m["layer"]), str(m["path"]).rsplit(".", 1)[-1]): float(m["norm"]) for m in modules}
    grid = [[norms.get((layer, kind), math.nan) for kind in kinds] for layer in layers]
    with matplotlib.rc_context():
        _defaults()
        figure = Figure(
            figsize=(max(3.4, 1.6 + 0.55 * len(kinds)), max(2.2, 1.2 + 0.24 * len(layers))), layout="constrained"
        )
        axes = figure.add_subplot()
        image = axes.imshow(grid, origin="lower", aspect="auto", cmap="Oranges", vmin=0.0)
        axes.set_xticks(range(len(kinds)), [drawable(k) for k in kinds], rotation=45, ha="right", parse_math=False)
        step = max(1, len(layers) // 12)
        axes.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
        axes.set_ylabel("layer")
        axes.set_title("Norm of the change", fontsize=9)
        figure.colorbar(image, ax=axes, shrink=0.9)
        return _svg(figure)


def drawable(text: str, cap: int = 14) -> str:
    """Return a short text as a label: spaces as dots, what can't be seen or drawn as escapes."""
    glyphs = get_font(findfont(FONT)).get_charmap()
    seen = "".join(c if ord(c) in glyphs else c.encode("unicode_escape").decode() for c in visible(text))
    return (seen if len(seen) <= cap else seen[: cap - 1] + "…").replace(" ", "·")


def reliability_figure(judged: Judged) -> bytes:
    """Return the SVG of how often something was planted, by the chance that was given; on the diagonal the two are the same."""
    with matplotlib.rc_context():
        _defaults()
        figure = Figure(figsize=(4.6, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1)
        axes.plot([b.said for b in judged.bins], [b.share for b in judged.bins], color=MARK, marker="o")
        for b in judged.bins:
            axes.annotate(f"{b.n}", (b.said, b.share), xytext=(6, -11), textcoords="offset points", fontsize=8)
        axes.set_xlim(-0.04, 1.08)
        axes.set_ylim(-0.1, 1.06)
        axes.set_xlabel("chance that was given, in fifths")
        axes.set_ylabel("share in which something was planted")
        axes.set_title("What was said and what was so; at each point, audits", pad=10)
        return _svg(figure)


def _defaults() -> None:
    """Set every parameter, so that nobody's matplotlibrc changes the bytes."""
    matplotlib.rcdefaults()
    parameters: Any = matplotlib.rcParams
    parameters.update(RC)


def _svg(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
