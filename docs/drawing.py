"""Draw a table of transitions: a line for each state, and an arrow for each transition, from line to line, with the events that cause it.

Every transition has a row of its own, so that nothing overlaps however many there are. The drawing takes the colour of the text around it.
"""

from __future__ import annotations

import re
from html import escape

__all__ = ["draw", "transitions"]

_COLUMN, _ROW, _TOP, _MARGIN = 116, 34, 46, 70
_ARROW = re.compile(r"^\s*(\S+) --> (\S+) : (.*)$", re.MULTILINE)


def transitions(diagram: str) -> list[tuple[str, str, str]]:
    """Return (from, to, events) of each transition of a Mermaid state diagram; ``[*]`` is before the beginning and behind the end."""
    return [(source, target, events) for source, target, events in _ARROW.findall(diagram)]


def draw(diagram: str) -> str:
    """Return an SVG element, to be placed in a page, of a Mermaid state diagram."""
    table = transitions(diagram)
    states = ["begin", *dict.fromkeys(state for source, target, _ in table for state in (source, target) if state != "[*]"), "end"]
    at = {state: _MARGIN + _COLUMN * number for number, state in enumerate(states)}
    width, height = 2 * _MARGIN + _COLUMN * (len(states) - 1), _TOP + _ROW * (len(table) + 1)
    parts = []
    for state, x in at.items():
        parts.append(f'<text x="{x}" y="20" text-anchor="middle" font-weight="600">{escape(state)}</text>')
        parts.append(f'<line x1="{x}" y1="30" x2="{x}" y2="{height - 10}" stroke="currentColor" stroke-opacity="0.25"/>')
    for number, (source, target, events) in enumerate(table, 1):
        y = _TOP + _ROW * number
        start, end = at["begin" if source == "[*]" else source], at["end" if target == "[*]" else target]
        if start == end:  # a state that is kept
            path, label = f"M{start},{y - 8} h22 v8 h-20", start + 28
            anchor = "start"
        else:
            path, label, anchor = f"M{start},{y} H{end - 3 if end > start else end + 3}", (start + end) // 2, "middle"
        parts.append(f'<circle cx="{start}" cy="{y - (8 if start == end else 0)}" r="3" fill="currentColor"/>')
        parts.append(f'<path d="{path}" fill="none" stroke="currentColor" marker-end="url(#tip)"/>')
        parts.append(f'<text x="{label}" y="{y - (2 if start == end else 6)}" text-anchor="{anchor}" opacity="0.75">{escape(events)}</text>')
    point = '<path d="M0,0 L7,3 L0,6 z" fill="currentColor"/>'
    tip = f'<marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">{point}</marker>'
    body = "\n".join(parts)
    return (
        f'<svg class="drawing" role="img" viewBox="0 0 {width} {height}" width="{width}" font-size="11" font-family="sans-serif" fill="currentColor" '
        f'xmlns="http://www.w3.org/2000/svg"><title>States, and what leads from one to another</title><defs>{tip}</defs>\n{body}\n</svg>'
    )
