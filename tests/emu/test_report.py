import dataclasses
import html.parser

import pytest

from emu.report import Figure, Panel, Report, Series, Table, drawn, files, page, png, text

TABLE = Table(
    title="Time per token",
    columns=("weights", "ms", "note"),
    rows=(("float32 <b>", "12.5", ""), ("int8", "3.1", "fits & stays")),
    note="Lower is better.",
)
FIGURE = Figure(
    name="cliff",
    title="The cliff",
    columns=2,
    panels=(
        Panel(
            title="float32",
            x_label="MB",
            y_label="GB/s",
            log_x=True,
            series=(
                Series(label="on-chip", x=(1, 10, 100), y=(9, 8, 3), low=(8, 7, 2), high=(9, 9, 4)),
                Series(label="dram", x=(1, 100), y=(3, 3), style="dashed"),
            ),
            marks=((32, "llc"),),
        ),
        Panel(title="int8", x_label="MB", y_label="GB/s", series=(), log_y=True),
    ),
)
REPORT = Report(
    title="Residency",
    answer=("One token takes 12.5 ms.", "The cliff lies at 32 MB."),
    figures=(FIGURE,),
    tables=(TABLE,),
    facts=(Table(title="Machine", columns=("what", "value"), rows=(("cores", "2"),)),),
)


class Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith("data:"):
                self.outside.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_asks_for_nothing() -> None:
    parser = Links()
    written = page(REPORT)
    parser.feed(written)
    assert parser.open == []
    assert parser.outside == []
    assert "url(" not in written
    assert "@import" not in written
    assert "http" not in written
    assert "float32 &lt;b&gt;" in written
    assert "fits &amp; stays" in written
    order = ["One token takes 12.5 ms.", "data:image/png", "Time per token", "Machine"]
    places = [written.index(part) for part in order]
    assert places == sorted(places)


def test_text_lines_up_and_keeps_to_the_width() -> None:
    shown = text(REPORT, width=60)
    assert "* One token takes 12.5 ms.\n* The cliff lies at 32 MB.\n" in shown
    assert "weights        ms  note\n" in shown
    assert "float32 <b>  12.5\n" in shown
    assert "int8          3.1  fits & stays\nLower is better.\n" in shown


def test_numbers_and_their_heads_go_to_the_right_signed_ones_too() -> None:
    errors = Table(
        title="Errors",
        columns=("row", "error", "of"),
        rows=(("a", "-3.7%", "1 of 2"), ("b", "+12.5% *", "not metered"), ("c", "-", "")),
    )
    report = Report(title="T", answer=("A.",), figures=(), tables=(errors,))
    assert "a       -3.7%  1 of 2\nb    +12.5% *  not metered\nc           -\n" in text(report)
    written = page(report)
    assert '<th class="n">error</th>' in written
    assert '<td class="n">-3.7%</td>' in written
    assert "<th >of</th>" in written
    assert "<td >1 of 2</td>" in written


def test_a_table_too_long_for_a_terminal_is_left_to_the_page() -> None:
    long = Table(title="Every row", columns=("ms",), rows=tuple((str(n),) for n in range(51)))
    report = Report(title="T", answer=("A.",), figures=(), tables=(long, TABLE))
    shown = text(report, width=60)
    assert "Every row: 51 rows, in report.html\n\nTime per token\n" in shown
    assert page(report).count("<tr>") == 52 + 3


def test_png_draws_what_it_is_given() -> None:
    drawn = png(FIGURE)
    assert drawn.startswith(b"\x89PNG")
    assert drawn != png(Figure(name="cliff", title="The cliff", panels=FIGURE.panels[1:]))


@pytest.mark.parametrize("places", [(), (14.2,), (14.2, 14.2)])
@pytest.mark.parametrize("mark", [14.2, 20.0, 1e-3, None])
def test_a_sweep_of_one_size_is_drawn_without_a_warning(
    places: tuple[float, ...], mark: float | None
) -> None:
    # Any warning is an error in these tests.
    panel = Panel(
        title="float32",
        x_label="MB",
        y_label="GB/s",
        log_x=True,
        series=tuple(
            Series(label=label, x=places, y=tuple(9.0 for _ in places), style=style)
            for label, style in (("on-chip", "line"), ("mixed", "points"), ("host", "dashed"))
        ),
        marks=() if mark is None else ((mark, "llc"),),
    )
    canvas = drawn(Figure(name="cliff", title="The cliff", panels=(panel,)))
    canvas.draw_without_rendering()  # ticks and layout too
    low, high = canvas.axes[0].get_xlim()
    for x in (*places, *([] if mark is None else [mark])):
        assert low < x < high


def test_whiskers_stand_beside_one_another() -> None:
    series = tuple(
        Series(label=label, x=(1, 2), y=(3, 4), low=low, high=low and (5, 5))
        for label, low in (("on", (1, 1)), ("mixed", (1, 1)), ("off", (1, 1)), ("predicted", ()))
    )
    panel = Panel(title="", x_label="", y_label="", series=series)
    canvas = drawn(Figure(name="cliff", title="", panels=(panel,)))
    canvas.draw_without_rendering()
    (axes,) = canvas.axes
    places = [line.get_transform().transform((1, 3)) for line in axes.get_lines()]
    apart = 3 / 72 * canvas.dpi
    across = [x - places[3][0] for x, _ in places]
    assert across == pytest.approx([-apart, 0, apart, 0])
    assert [y for _, y in places] == pytest.approx([places[3][1]] * 4)
    for line, whiskers in zip(axes.get_lines(), axes.collections, strict=False):
        below = whiskers.get_transform().transform(whiskers.get_paths()[0].vertices[0])
        assert below[0] == pytest.approx(line.get_transform().transform((1, 3))[0])


def test_series_differ_by_more_than_their_hue() -> None:
    labels = [f"{dtype}, {where}" for dtype in ("float32", "int8") for where in ("on", "off")]
    panels = tuple(
        Panel(
            title=title,
            x_label="tokens",
            y_label="ms",
            series=tuple(Series(label=n, x=(1, 2), y=(1, 2), style="points") for n in order),
        )
        for title, order in (("TTFT", labels), ("TPOT", labels[::-1]))
    )
    first, second = (
        {line.get_label(): line.get_marker() for line in axes.get_lines()}
        for axes in drawn(Figure(name="humaneval", title="", panels=panels)).axes
    )
    assert len(set(first.values())) == len(labels)
    assert first == second


def test_names_hide_neither_one_another_nor_points() -> None:
    close = Series(
        label="near", x=(1.0, 1.02, 1.04, 5.0), y=(1.0, 1.02, 1.0, 9.0), style="points",
        names=("tpu-v5e", "tpu-v5p", "tpu-v6e", "h100"),
    )  # fmt: skip
    line = Series(label="a line", x=(1, 5), y=(2, 3))
    panel = Panel(title="", x_label="", y_label="", series=(line, close), log_x=True, log_y=True)
    canvas = drawn(Figure(name="map", title="Map", panels=(panel,), scale=1.5))
    canvas.draw_without_rendering()
    (axes,) = canvas.axes
    assert [one.get_text() for one in axes.texts] == list(close.names)
    boxes = [one.get_window_extent() for one in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    places = axes.transData.transform(list(zip(close.x, close.y, strict=True)))
    assert not any(box.contains(*place) for box in boxes for place in places)
    for box, place in zip(boxes, places, strict=True):  # and each is beside its own point
        assert abs(box.x0 - place[0]) < 60
        assert abs(box.y0 - place[1]) < 60


def test_the_files_are_the_page_and_the_figures() -> None:
    written = files(REPORT)
    assert list(written) == ["cliff.png", "report.html"]
    assert written["cliff.png"].startswith(b"\x89PNG")
    assert written["report.html"].decode() == page(REPORT)


def test_rows_fit_their_columns() -> None:
    with pytest.raises(AssertionError, match="T: "):
        Table(title="T", columns=("a", "b"), rows=(("1",),))


def test_points_with_whiskers_are_inside_linear_axes():
    of = Series(label="a", x=(10, 20), y=(4, 5), style="points", low=(3, 3), high=(6, 7))
    for series in (of, dataclasses.replace(of, band=True)):
        panel = Panel(title="", x_label="", y_label="", series=(series,))
        (axes,) = drawn(Figure(name="x", title="x", panels=(panel,))).axes
        left, right = axes.get_xlim()
        bottom, top = axes.get_ylim()
        assert 9 < left < 10
        assert 20 < right < 21
        assert bottom == 0
        assert 7 < top < 8
