"""Tables and plots that somebody else has computed, as a terminal page, PNGs and one HTML page.

A `Report` is answers first, then figures, tables, and the facts about where they came from.
Everything in it is already a string or a point to draw: nothing here computes, so that what is
read is what was measured. The HTML file holds its figures and styles itself and asks no network
for anything.
"""

import base64
import dataclasses
import html
import io
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Literal

from adjustText import adjust_text
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Affine2DBase, ScaledTranslation, Transform

_MOST_ROWS = 50  # of a table in a terminal
_COLOURS = ("#0b6e4f", "#c8553d", "#3d5a98", "#b58900", "#7b4b94", "#2aa1b3", "#6b6b6b")
_ADJUSTMENTS = 300  # of names that are in one another's way: a limit in seconds would vary
_APART_POINTS = 3.0  # between series with whiskers, which would hide one another's
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # so that no series is told by its hue alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as they are to be read; a note says what the columns mean."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), f"{self.title}: {row} against {self.columns}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One line or cloud of points; the same label has the same colour and marker in all panels.

    `like` is the label of the series whose colour this one takes instead.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    style: Literal["line", "points", "dashed"] = "line"
    low: tuple[float, ...] = ()  # the ends of the whiskers, where there are any
    high: tuple[float, ...] = ()
    band: bool = False  # an area from the lows to the highs in the place of whiskers
    like: str = ""
    names: tuple[str, ...] = ()  # written beside the points, where there are any

    def __post_init__(self) -> None:
        assert not self.names or len(self.names) == len(self.x), f"{self.label}: names and points"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes; `marks` are labelled vertical lines."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    marks: tuple[tuple[float, str], ...] = ()
    log_x: bool = False
    log_y: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bars:
    """Horizontal bars, a line each, made of parts one after the other; the same part has the same
    colour in all panels.
    """

    title: str
    x_label: str
    labels: tuple[str, ...]
    parts: dict[str, tuple[float, ...]]  # of each label
    low: tuple[float, ...] = ()  # the ends of a whisker on each bar, where there are any
    high: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """Panels side by side, `columns` a row, saved as `name.png`."""

    name: str
    title: str
    panels: tuple[Panel | Bars, ...]
    columns: int = 1
    note: str = ""
    scale: float = 1.0  # how much larger than usual each panel is drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a reader is shown, in the order in which it matters."""

    title: str
    answer: tuple[str, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    facts: tuple[Table, ...] = ()


def text(report: Report, width: int | None = None) -> str:
    """The answer and the tables for a terminal `width` columns wide (by default, this one).

    Tables too long for one are left to the page: they would push the answer out of sight.
    """
    width = width or max(60, shutil.get_terminal_size((100, 24)).columns)
    parts = [report.title, "=" * len(report.title), ""]
    for line in report.answer:
        parts += [textwrap.fill(line, width, initial_indent="* ", subsequent_indent="  ")]
    for table in report.tables:
        parts += ["", *_table_lines(table, width)]
    return "\n".join(parts) + "\n"


def page(report: Report) -> str:
    """The whole report as one self-contained HTML page."""
    body = [f"<h1>{_escape(report.title)}</h1>", '<section class="answer">']
    body += [f"<p>{_escape(line)}</p>" for line in report.answer] + ["</section>"]
    for figure in report.figures:
        data = base64.b64encode(png(figure)).decode()
        body.append(
            f'<figure><img alt="{_escape(figure.title)}" src="data:image/png;base64,{data}">'
            f"<figcaption><b>{_escape(figure.title)}.</b> {_escape(figure.note)}</figcaption>"
            "</figure>"
        )
    body += [_table_html(table) for table in report.tables]
    if report.facts:
        body.append("<h2>Where this comes from</h2>")
        body += [_table_html(table) for table in report.facts]
    return _PAGE.format(title=_escape(report.title), body="\n".join(body))


def png(figure: Figure) -> bytes:
    """One figure as a PNG."""
    out = io.BytesIO()
    drawn(figure).savefig(out, format="png")
    return out.getvalue()


def drawn(figure: Figure) -> Canvas:
    """One figure as matplotlib draws it."""
    columns = min(figure.columns, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    size = (1.2 + 4.4 * figure.scale * columns, 0.9 + 3.2 * figure.scale * rows)
    canvas = Canvas(figsize=size, dpi=110, layout="constrained")
    labels = dict.fromkeys(name for panel in figure.panels for name in _names(panel))
    looks = {
        # Beyond the colours they go round again, each with another marker.
        label: (_COLOURS[i % len(_COLOURS)], _MARKERS[(i + i // len(_COLOURS)) % len(_MARKERS)])
        for i, label in enumerate(labels)
    }
    shown: dict[str, Artist] = {}
    for number, panel in enumerate(figure.panels, start=1):
        axes = canvas.add_subplot(rows, columns, number)
        if isinstance(panel, Bars):
            _draw_bars(axes, panel, looks)
        else:
            _draw(axes, panel, looks, canvas.dpi_scale_trans)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(str(label), handle)
    canvas.suptitle(figure.title, fontsize=12)
    abreast = round(2 * columns * figure.scale)
    if shown:
        canvas.legend(
            list(shown.values()),
            list(shown),
            loc="outside lower center",
            ncols=-(-len(shown) // -(-len(shown) // abreast)),  # rows of even length
            fontsize=8,
            frameon=False,
        )
    _name_points(canvas, figure.panels)
    return canvas


def _name_points(canvas: Canvas, panels: Sequence[Panel | Bars]) -> None:
    """Writes the points' names where they hide neither points nor one another."""
    named = [
        (axes, points)
        for axes, panel in zip(canvas.axes, panels, strict=True)
        if isinstance(panel, Panel)
        and (
            points := [
                p for s in panel.series if s.names for p in zip(s.x, s.y, s.names, strict=True)
            ]
        )
    ]
    if named:
        canvas.draw_without_rendering()  # room is known once all else is laid out
    for axes, points in named:
        x, y, _ = zip(*points, strict=True)
        texts = [axes.text(*point, fontsize=7, color="#444444") for point in points]
        adjust_text(texts, x, y, ax=axes, iter_lim=_ADJUSTMENTS)


def files(report: Report) -> dict[str, bytes]:
    """`report.html` and a PNG per figure, by name."""
    named = {f"{figure.name}.png": png(figure) for figure in report.figures}
    return named | {"report.html": page(report).encode()}


def _names(panel: Panel | Bars) -> Iterable[str]:
    return panel.parts if isinstance(panel, Bars) else (s.like or s.label for s in panel.series)


def _draw_bars(axes: Axes, panel: Bars, looks: dict[str, tuple[str, str]]) -> None:
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.x_label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, which="major", axis="x", alpha=0.25)
    places = range(len(panel.labels))
    left = [0.0] * len(panel.labels)
    for name, lengths in panel.parts.items():
        axes.barh(places, lengths, left=left, color=looks[name][0], label=name, height=0.7)
        left = [a + b for a, b in zip(left, lengths, strict=True)]
    if panel.low:
        axes.hlines(places, panel.low, panel.high, color="#222222", linewidth=1.2)
    axes.set_yticks(places, panel.labels)
    axes.invert_yaxis()
    axes.set_xlim(left=0)


def _draw(
    axes: Axes, panel: Panel, looks: dict[str, tuple[str, str]], dpi_scale: Affine2DBase
) -> None:
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.x_label, fontsize=9)
    axes.set_ylabel(panel.y_label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.set_xscale("log" if panel.log_x else "linear")
    axes.set_yscale("log" if panel.log_y else "linear")
    if panel.log_x:
        _span_x(axes, panel)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")  # 10, not 10 to the 1
        axes.xaxis.set_minor_formatter(NullFormatter())
    for series in panel.series:  # matplotlib takes limits from what is drawn in data alone
        reach = zip(series.x * 3, (*series.y, *series.low, *series.high), strict=False)
        axes.update_datalim(list(reach))
    for series, place in zip(panel.series, _places(axes, panel, dpi_scale), strict=True):
        colour, own_marker = looks[series.like or series.label]
        if series.low and series.band:
            axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.15, lw=0)
        elif series.low:
            axes.vlines(
                *(series.x, series.low, series.high),
                color=colour,
                alpha=0.35,
                linewidth=1.5,
                transform=place,
            )
        line, marker, faint = {
            "line": ("-", own_marker, 1.0),
            "points": ("", own_marker, 0.75),
            "dashed": ("--", "", 0.8),
        }[series.style]
        axes.plot(
            series.x,
            series.y,
            linestyle=line,
            marker=marker,
            markersize=4.5,
            linewidth=1.5,
            color=colour,
            alpha=faint,
            label=series.label,
            transform=place,
        )
    if panel.log_y:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    for x, label in panel.marks:
        axes.axvline(x, color="#444444", linewidth=1, linestyle=":")
        axes.annotate(
            label,
            (x, 0.98),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=7,
            color="#444444",
            va="top",
        )


def _places(axes: Axes, panel: Panel, dpi_scale: Affine2DBase) -> list[Transform]:
    """Where each series is drawn: those with whiskers a little beside one another."""
    whiskered = [s.label for s in panel.series if s.low and not s.band]
    right = {
        label: (number - (len(whiskered) - 1) / 2) * _APART_POINTS / 72
        for number, label in enumerate(whiskered)
    }
    return [
        axes.transData + ScaledTranslation(right.get(s.label, 0.0), 0, dpi_scale)
        for s in panel.series
    ]


def _span_x(axes: Axes, panel: Panel) -> None:
    """Limits of a logarithmic axis, which matplotlib cannot choose where all is at one place."""
    places = [x for series in panel.series for x in series.x] + [x for x, _ in panel.marks]
    if places:
        low, high = min(places), max(places)
        margin = max((high / low) ** 0.05, 1.5 if low == high else 1.0)
        axes.set_xlim(low / margin, high * margin)


def _table_lines(table: Table, width: int) -> list[str]:
    if len(table.rows) > _MOST_ROWS:
        return [f"{table.title}: {len(table.rows)} rows, in report.html"]
    columns = [
        [table.columns[i], *(row[i] for row in table.rows)] for i in range(len(table.columns))
    ]
    widths = [max(map(len, column)) for column in columns]
    left = [i == 0 or not _is_of_figures(column[1:]) for i, column in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        pairs = zip(cells, widths, left, strict=True)
        return "  ".join(c.ljust(w) if west else c.rjust(w) for c, w, west in pairs).rstrip()

    lines = [table.title, line(table.columns), line(["-" * w for w in widths])]
    lines += [line(row) for row in table.rows]
    return lines + (textwrap.wrap(table.note, width) if table.note else [])


def _table_html(table: Table) -> str:
    columns = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    kinds = ['class="n"' if _is_of_figures(column) else "" for column in columns]
    heads = zip(table.columns, kinds, strict=True)
    head = "".join(f"<th {k}>{_escape(c)}</th>" for c, k in heads)
    rows = []
    for row in table.rows:
        cells = zip(row, kinds, strict=True)
        rows.append("<tr>" + "".join(f"<td {k}>{_escape(c)}</td>" for c, k in cells) + "</tr>")
    note = f"<p class=note>{_escape(table.note)}</p>" if table.note else ""
    return (
        f"<h2>{_escape(table.title)}</h2><div class=wide><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _is_of_figures(column: Sequence[str]) -> bool:
    """Whether a column is numbers, so that they and their head go to the right."""
    return any(column) and all(re.match(r"([<>] |[-+])?\d|-?$", cell) for cell in column)


def _escape(words: str) -> str:
    return html.escape(words, quote=True)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.55 system-ui, sans-serif; color: #1c1c1c; background: #fbfaf7;
  max-width: 70rem; margin: 2.5rem auto; padding: 0 1.25rem; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; }}
h2 {{ font-size: 1.1rem; margin: 2.2rem 0 .5rem; }}
.answer {{ border-left: 4px solid #0b6e4f; background: #fff; padding: .6rem 1.2rem; }}
.answer p {{ margin: .5rem 0; }}
.answer p:first-child {{ font-size: 1.15rem; }}
figure {{ margin: 2rem 0; }}
img {{ max-width: 100%; height: auto; background: #fff; border: 1px solid #e3e0d8; }}
figcaption, .note {{ color: #555; font-size: .88rem; max-width: 56rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .88rem; background: #fff; }}
th, td {{ border-bottom: 1px solid #e3e0d8; padding: .3rem .8rem; text-align: left; }}
th {{ border-bottom: 2px solid #999; }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
</style></head>
<body>
{body}
</body></html>
"""
