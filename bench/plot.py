"""Draw latest.json as a chart. Run as `python plot.py RESULTS.json CHART.png` by an environment with matplotlib."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

PANELS = [
    ("c32_rps", "requests/s, 32 connections (more is better)"),
    ("c32_cpu_us", "CPU µs per request, whole process tree (less is better)"),
    ("added_c1_p99_ms", "added p99 at one connection, ms (less is better)"),
    ("stream_cpu_us", "CPU µs per streamed chunk (less is better)"),
]
OURS, OTHERS = "#1f6f8b", "#b8b8b8"


def draw(results: dict[str, Any], chart: Path) -> None:
    """Write the chart of a latest.json as a PNG."""
    # By name: matplotlib is in the harness's own environment, where nothing type-checks against it.
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 6.5), constrained_layout=True)
    for axis, (metric, title) in zip(axes.flat, PANELS, strict=True):
        bars = {
            name: values[metric]
            for name, values in results["summary"].items()
            # A logarithmic axis has no place for a difference that noise made negative.
            if name != "direct" and metric in values and values[metric]["median"] > 0
        }
        names = list(reversed(bars))
        medians = [bars[name]["median"] for name in names]
        lows = [bars[name]["median"] - max(bars[name]["low"], bars[name]["median"] * 0.1) for name in names]
        highs = [bars[name]["high"] - bars[name]["median"] for name in names]
        colours = [OURS if name.startswith("router") else OTHERS for name in names]
        axis.barh(names, medians, xerr=[lows, highs], color=colours, ecolor="#555555", capsize=2)
        for index, median in enumerate(medians):
            axis.annotate(f" {median:,.3g}" if median < 100 else f" {median:,.0f}", (median, index + 0.12), fontsize=8)
        axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Median of rounds, bars from least to greatest – {results['machine']['processor']}", fontsize=9)
    figure.savefig(chart, dpi=130)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
