"""The shared style: names, numbers as text, and files that come out the same every time."""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from analysis import style
from pipeline.settings.configuration import compose_config
from rm.errors import InputError


@style.styled
def small_figure(value: float = 1.0) -> Figure:
    figure = style.new_figure(height=2.0)
    axes = figure.subplots()
    axes.plot([0, 1, 2], [0, value, 4], label=r"$\Vert h_w - h_l\Vert_2$")
    style.add_text(figure, "A title", "n = 3 pairs", "SmolLM2-135M-Instruct · 1 seed", [axes])
    return figure


def test_same_bytes_for_two_figures_and_for_one_written_twice(tmp_path: Path) -> None:
    figure = small_figure()
    runs = [
        [path.read_bytes() for path in style.write_figure(made, tmp_path / name / "figure9")]
        for name, made in (("a", figure), ("b", figure), ("c", small_figure()))
    ]
    assert runs[0] == runs[1] == runs[2]
    other = style.write_figure(small_figure(2.0), tmp_path / "d" / "figure9")
    assert [path.read_bytes() for path in other] != runs[0]


def test_a_format_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda *given: (drawn.append(1), draw(*given)))
    style.write_figure(small_figure(), tmp_path / "figure9")
    assert len(drawn) == 2


def test_files_are_png_at_200_dpi_and_svg_without_dates_or_fonts(tmp_path: Path) -> None:
    png, svg = style.write_figure(small_figure(), tmp_path / "figure9")
    assert (png.name, svg.name) == ("figure9.png", "figure9.svg")
    with Image.open(png) as image:
        assert image.size == (1400, 400)
        assert "Software" not in image.info
    text = svg.read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "date" not in text and "Matplotlib" not in text
    assert "<text" not in text  # fonts as paths
    assert sorted(os.listdir(tmp_path)) == ["figure9.png", "figure9.svg"]  # no temporary left


def test_users_settings_change_nothing(tmp_path: Path) -> None:
    plain = style.write_figure(small_figure(), tmp_path / "plain")
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "none", "axes.grid": False}):
        own = style.write_figure(small_figure(), tmp_path / "own")
        assert matplotlib.rcParams["font.size"] == 20
    assert [p.read_bytes() for p in plain] == [p.read_bytes() for p in own]


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the figures' folder"):
        style.write_figure(small_figure(), tmp_path / "file" / "figure9")


def test_the_note_is_in_the_picture_and_the_caption_beside_it() -> None:
    figure = small_figure()
    assert figure.get_supxlabel() == "SmolLM2-135M-Instruct · 1 seed"
    assert figure.get_label() == "n = 3 pairs"


@style.styled
def named_figure(names: list[str], title: str) -> Figure:
    figure = style.new_figure(height=3.0)
    for axes in figure.subplots(1, 2):
        for name in names:
            axes.plot([0, 1], label=name)
    style.add_text(figure, title, "", legend=figure.axes)
    return figure


@pytest.mark.parametrize(
    ("names", "title"),
    [(["a", "b"], "short"), ([f"a rather long name {i}" for i in range(12)], "word " * 30)],
)
def test_the_legend_stands_between_title_and_panels(names: list[str], title: str) -> None:
    """Names of all panels, each once; nothing overlaps, whatever the number of names and lines."""
    figure = named_figure(names, title)
    style.freeze_layout(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    renderer = FigureCanvasAgg(figure).get_renderer()
    box = legend.get_window_extent(renderer)
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    assert figure.texts[0].get_window_extent(renderer).y0 >= box.y1 - 1
    assert all(axes.get_tightbbox(renderer).y1 <= box.y0 + 1 for axes in figure.axes)


def test_a_method_looks_the_same_everywhere_and_like_no_other() -> None:
    looks = [tuple(style.method_look(method).values()) for method in style.METHOD_COLOURS]
    for each in zip(*looks, strict=True):
        assert len(set(each)) == len(style.METHOD_COLOURS)
    rivals = compose_config("reproduce", ["experiment=confirmatory", "matrix=rivals"]).methods
    assert len({style.method_look(name)["marker"] for name in rivals}) == len(rivals)


@pytest.mark.parametrize(
    ("method", "label"),
    [
        ("bt", "BT"),
        ("normbt", "NormBT"),
        ("bt_label_smoothing", "BT + label smoothing"),
        ("normbt_margin_out", "NormBT + margin out"),
        ("normbt_no_ema", "NormBT without EMA"),
        ("untrained", "untrained"),
        ("hinge", "hinge"),
    ],
)
def test_method_labels(method: str, label: str) -> None:
    assert style.method_label(method) == label


def test_sections_have_one_order_whatever_their_spelling() -> None:
    assert [style.section_label(s) for s in ("chat_hard", "Reasoning")] == [
        "Chat Hard",
        "Reasoning",
    ]
    assert style.section_label("Precise IF") == "Precise IF"
    given = ["Reasoning", "Zebra", "Chat", "Chat", "Safety", "Ape"]
    assert style.ordered(given, style.SECTIONS) == ["Chat", "Safety", "Reasoning", "Ape", "Zebra"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1.2345, "1.23"), (-0.04567, "−0.0457"), (123.4, "123"), (2e-6, "2.00e−06"),
     (float("nan"), "–")],
)  # fmt: skip
def test_short_numbers(value: float, text: str) -> None:
    assert style.short(value) == text


def test_plural() -> None:
    assert [style.plural(n, "pair") for n in (1, 2, 1200)] == ["1 pair", "2 pairs", "1,200 pairs"]
