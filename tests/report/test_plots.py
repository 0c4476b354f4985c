"""Plots: what is drawn, looked at through the figure, and the files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.colors import to_hex
from matplotlib.image import imread

from atlas_bench.artifacts.records import RecordError
from atlas_bench.artifacts.schema import DepthScore, Record
from atlas_bench.report.plots.figures import (
    accuracy_figure,
    cost_figure,
    depth_figure,
    plots_of,
    state_figure,
)
from atlas_bench.report.plots.style import AXIS, COLOURS, GREY, GRID, INK, save
from atlas_bench.report.plots.training import loss_figure, read_metrics, training_figure

MakeRecord = Callable[..., Record]
MODELS = ("atlas", "titans", "transformer")


def lines_of(axes: Axes) -> dict[str, tuple[list, list]]:
    return {line.get_label(): line.get_data() for line in axes.lines}


def ticks_of(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


# accuracy -------------------------------------------------------------------------------------


def test_one_line_for_each_model_with_its_values(make_record: MakeRecord) -> None:
    figure = accuracy_figure([make_record(model) for model in MODELS])
    (axes,) = figure.axes
    lines = lines_of(axes)
    assert list(lines) == [f"{model} tiny" for model in MODELS]
    tokens, values = lines["transformer tiny"]
    assert list(tokens) == [0, 1000, 2000, 4000, 8000, 16000]
    assert list(values) == [1.0, 0.95, 0.8, 0.55, 0.33, 0.18]
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines}
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == 3


def test_bands_are_the_intervals(make_record: MakeRecord) -> None:
    record = make_record("transformer")
    (axes,) = accuracy_figure([record]).axes
    (band,) = [c for c in axes.collections if isinstance(c, FillBetweenPolyCollection)]
    corners = {tuple(np.round(vertex, 6)) for vertex in band.get_paths()[0].vertices}
    for score in record.scores:
        assert (score.length_tokens, round(score.ci_low, 6)) in corners
        assert (score.length_tokens, round(score.ci_high, 6)) in corners


def test_axes_show_0k_and_doublings_at_equal_steps(make_record: MakeRecord) -> None:
    (axes,) = accuracy_figure([make_record()]).axes
    assert ticks_of(axes) == ["0k", "1k", "2k", "4k", "8k", "16k"]
    left, right = axes.get_xlim()
    assert left < 0 < 16000 < right
    places = axes.transData.transform([(t, 0) for t in (0, 1000, 2000, 4000, 8000, 16000)])[:, 0]
    np.testing.assert_allclose(np.diff(places), np.diff(places)[0], rtol=1e-6)
    low, high = axes.get_ylim()
    assert -0.1 < low < 0 < 1 < high < 1.1
    assert axes.get_xlabel() == "context length (tokens)"
    assert axes.get_ylabel() == "exact match"
    assert axes.get_title(loc="left") == "babilong qa1"


@pytest.mark.parametrize(
    ("lengths", "names"),
    [
        ([(0, "0k")], ["0k"]),
        ([(4000, "4k")], ["4k"]),
        ([(1000, "1k"), (10_000_000, "10M")], ["1k", "10M"]),
        ([(0, "0k"), (1000, "1k"), (1024, "1k"), (2048, "2k")], ["0k", "1k", "2k"]),
    ],
)
def test_every_choice_of_lengths_lies_inside_the_axis(
    make_record: MakeRecord, lengths: list[tuple[int, str]], names: list[str]
) -> None:
    (axes,) = accuracy_figure([make_record(lengths=lengths)]).axes
    left, right = axes.get_xlim()
    assert all(left < tokens < right for tokens, _ in lengths)
    assert ticks_of(axes) == names


def test_seeds_are_one_line_and_the_legend_says_so(make_record: MakeRecord) -> None:
    records = [make_record(seed=seed, correct=[90 + seed] * 6) for seed in range(3)]
    figure = accuracy_figure([*records, make_record("titans")])
    (axes,) = figure.axes
    assert list(lines_of(axes)) == ["atlas tiny (3 seeds)", "titans tiny"]
    np.testing.assert_allclose(lines_of(axes)["atlas tiny (3 seeds)"][1], 0.91)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(lines_of(axes))
    title = legend.get_title().get_text()
    assert "95% Wilson interval or standard deviation over seeds; 100 samples" in title


def test_one_panel_for_each_subtask(make_record: MakeRecord) -> None:
    both = make_record(subtasks=("qa2", "qa10", "qa1", "qa3"))
    figure = accuracy_figure([both, make_record("titans")], metric="published_metric")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["babilong qa1", "babilong qa2", "babilong qa3", "babilong qa10"]
    assert list(lines_of(figure.axes[0])) == ["atlas tiny", "titans tiny"]
    assert list(lines_of(figure.axes[1])) == ["atlas tiny"]
    assert figure.axes[0].get_ylabel() == "published metric"
    assert [axes.get_xlabel() != "" for axes in figure.axes] == [False, True, True, True]


@pytest.mark.parametrize(
    ("chance", "height"), [(None, None), (0.25, 0.25), ({"qa1": 0.5}, 0.5), ({"qa2": 0.5}, None)]
)
def test_chance_is_a_line_where_it_is_known(
    make_record: MakeRecord, chance: object, height: float | None
) -> None:
    (axes,) = accuracy_figure([make_record(protocol={"chance": chance})]).axes
    lines = lines_of(axes)
    assert ("chance" in lines) == (height is not None)
    if height is not None:
        assert list(lines["chance"][1]) == [height, height]


def test_files_are_images_and_repeat_exactly(make_record: MakeRecord, tmp_path: Path) -> None:
    records = [make_record(model) for model in MODELS]
    for name in ("a.png", "b.png", "a.svg", "b.svg"):
        assert (
            save(accuracy_figure(records), tmp_path / "plots" / name) == tmp_path / "plots" / name
        )
    folder = tmp_path / "plots"
    image = imread(folder / "a.png")
    assert image.shape[1] > 1000
    assert image.std() > 0.02  # not an empty page
    assert (folder / "a.svg").read_text().lstrip().startswith("<?xml")
    for kind in ("png", "svg"):
        assert (folder / f"a.{kind}").read_bytes() == (folder / f"b.{kind}").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]


def test_a_failed_plot_leaves_the_old_file(make_record: MakeRecord, tmp_path: Path) -> None:
    path = tmp_path / "accuracy.png"
    path.write_text("old")
    assert accuracy_figure([make_record(lengths=[])]) is None
    with pytest.raises(ValueError, match="jpx"):
        save(accuracy_figure([make_record()]), tmp_path / "accuracy.jpx")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_torch_no_hydra_no_pyplot_state() -> None:
    code = (
        "import sys, atlas_bench.cli.report, atlas_bench.report.assemble\n"
        "print([name for name in ('torch', 'hydra', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# depth ------------------------------------------------------------------------------------------


def by_depth(subtask: str, metric: str = "string_match_all") -> list[DepthScore]:
    """Worse with length and depth; at 4k nothing lies in the second fifth."""
    return [
        DepthScore(subtask, tokens, name, metric, part / 5, (part + 1) / 5, 1 - 0.1 * part * k, 20)
        for k, (tokens, name) in enumerate([(2048, "2k"), (4096, "4k"), (16384, "16k")])
        for part in range(5)
        if (name, part) != ("4k", 1)
    ]


def test_depths_are_where_the_answers_lay(make_record: MakeRecord) -> None:
    depths = [*by_depth("S-NIAH-PK"), *by_depth("S-NIAH-N"), *by_depth("S-NIAH-N", "other")]
    figure = depth_figure([make_record(depths=depths)])
    first, second, bar = figure.axes
    assert [first.get_title(loc="left"), second.get_title(loc="left")] == ["S-NIAH-PK", "S-NIAH-N"]
    assert bar.get_ylabel() == "string match all"
    assert ticks_of(first) == ["2k", "4k", "16k"]
    assert first.get_ylim() == (1, 0)  # the beginning of the context is on top
    (mesh,) = first.collections
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(corners[:, 0, 1], np.linspace(0, 1, 6))
    values = mesh.get_array()
    np.testing.assert_allclose(values[:, 2], [1.0, 0.8, 0.6, 0.4, 0.2])
    assert [bool(empty) for empty in np.ma.getmaskarray(values)[:, 1]] == [0, 1, 0, 0, 0]
    said = {(text.get_position(), text.get_text()) for text in first.texts}
    assert len(said) == 14
    assert ((2, 0.7), "40") in said


def test_depth_plot_is_a_file_that_repeats(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record(depths=[score for name in "abcde" for score in by_depth(name)])
    for name in ("a.svg", "b.svg"):
        assert save(depth_figure([record]), tmp_path / name) == tmp_path / name
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert depth_figure([make_record()]) is None


# training -------------------------------------------------------------------------------------


def steps_of(lengths: list[int], loss: float = 2.0) -> list[dict]:
    return [
        {
            "step": index + 1,
            "tokens": 2048 * (index + 1),
            "loss": loss,
            "answer_accuracy": index / len(lengths),
            "length_tokens": length,
        }
        for index, length in enumerate(lengths)
    ]


def test_training_curve_has_both_panels(tmp_path: Path) -> None:
    steps = steps_of([64] * 60 + [128] * 60)
    figure = training_figure(steps)
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "answer accuracy")
    assert accuracy.get_xlabel() == "tokens trained"
    assert loss.get_ylim()[0] == 0
    raw, smooth = loss.lines[:2]
    assert list(raw.get_xdata()) == [step["tokens"] for step in steps]
    np.testing.assert_allclose(smooth.get_ydata(), 2.0)  # at both ends too
    stages = [line.get_xdata()[0] for line in loss.lines[2:]]
    assert stages == [2048, 2048 * 61]
    assert [text.get_text() for text in loss.texts] == ["streams of 64", "128"]


def test_stages_passed_quickly_do_not_print_over_each_other() -> None:
    figure = training_figure(steps_of([64] * 2 + [128] * 2 + [256] * 96))
    loss = figure.axes[0]
    assert len(loss.lines) == 2 + 3
    assert [text.get_text() for text in loss.texts] == ["streams of 64"]


def test_training_plot_survives_what_a_kill_leaves(tmp_path: Path) -> None:
    steps = steps_of([64] * 3)
    steps[1]["loss"] = float("nan")
    lines = [json.dumps(step) for step in steps]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("\n".join([lines[0], "", '{"evaluation": 1}', *lines[1:], lines[2][:20]]))
    assert len(read_metrics(metrics)) == 3
    assert (
        save(training_figure(read_metrics(metrics)), tmp_path / "plots" / "t.png").stat().st_size
        > 5000
    )


@pytest.mark.parametrize("steps", [0, 1])
def test_training_plot_of_almost_nothing(tmp_path: Path, steps: int) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(step) + "\n" for step in steps_of([64] * steps)))
    assert save(training_figure(read_metrics(metrics)), tmp_path / "t.png").stat().st_size > 1000
    with pytest.raises(RecordError, match="gone.jsonl cannot be read"):
        read_metrics(tmp_path / "gone.jsonl")


# many runs ------------------------------------------------------------------------------------


def test_losses_of_all_seeds_have_one_colour(make_record: MakeRecord, tmp_path: Path) -> None:
    records = []
    for index, (model, seed) in enumerate([("atlas", 0), ("atlas", 1), ("titans", 0)]):
        path = tmp_path / str(index) / "record.json"
        path.parent.mkdir()
        lines = [json.dumps(step) for step in steps_of([64] * 1000, loss=2.0 + index)]
        (path.parent / "metrics.jsonl").write_text("\n".join(lines))
        records.append(make_record(model, seed, path=path))
    (axes,) = loss_figure(records).axes
    assert len(axes.lines) == 3
    assert axes.lines[0].get_color() == axes.lines[1].get_color() != axes.lines[2].get_color()
    for index, line in enumerate(axes.lines):
        assert len(line.get_xdata()) <= 500
        np.testing.assert_allclose(line.get_ydata(), 2.0 + index)
    assert axes.get_legend_handles_labels()[1] == ["atlas tiny (2 seeds)", "titans tiny"]


def test_no_losses_no_plot(make_record: MakeRecord, tmp_path: Path) -> None:
    assert (
        loss_figure([make_record(), make_record("titans", path=tmp_path / "record.json")]) is None
    )


def test_costs_are_means_of_what_was_measured(make_record: MakeRecord) -> None:
    first, second = make_record(seed=0), make_record(seed=1)
    for score in second.scores:
        score.tokens_per_second, score.peak_memory_bytes = 3e4, None
    speed, memory = cost_figure([first, second]).axes
    assert (speed.get_title(loc="left"), memory.get_title(loc="left")) == (
        *("tokens read a second", "peak memory"),
    )
    (line,) = speed.lines
    assert list(line.get_xdata()) == [0, 1000, 2000, 4000, 8000, 16000]
    np.testing.assert_allclose(line.get_ydata(), 2e4)
    np.testing.assert_allclose(memory.lines[0].get_ydata(), 1e9)
    for record in (first, second):
        for score in record.scores:
            score.tokens_per_second = score.peak_memory_bytes = None
    assert cost_figure([first, second]) is None


def test_accuracy_over_state_joins_the_sizes_of_a_model(make_record: MakeRecord) -> None:
    records = [
        make_record(model, scale=f"width_{size}", state_bytes=size * 1000, correct=[99, 100 - size])
        for model in ("titans", "atlas")
        for size in (32, 8, 16)
    ]
    records.append(make_record("transformer"))  # tells no state
    (axes,) = state_figure(records, "exact_match").axes
    lines = lines_of(axes)
    assert sorted(lines) == ["atlas", "titans"]
    sizes, values = lines["atlas"]
    assert list(sizes) == [8000, 16000, 32000]
    np.testing.assert_allclose(values, [0.92, 0.84, 0.68])  # at the longest length
    assert axes.get_xscale() == "log"
    assert state_figure([make_record()], "exact_match") is None


def test_seeds_are_one_heat_map(make_record: MakeRecord) -> None:
    records = [make_record(seed=seed, depths=by_depth("qa1")) for seed in range(2)]
    for score in records[1].depths:
        score.value /= 2
    (plot,) = [plot for plot in plots_of(records, ["exact_match"]) if plot.name == "depths"]
    assert plot.title == "atlas tiny (2 seeds) by depth of the answer"
    said = {text.get_position(): text.get_text() for text in plot.figure.axes[0].texts}
    assert said[0, 0.1] == "75"


def test_plots_are_those_that_have_something_to_show(make_record: MakeRecord) -> None:
    names = [plot.name for plot in plots_of([make_record()], ["exact_match", "published_metric"])]
    assert names == ["accuracy", "accuracy_published_metric", "cost"]
    at_one_length = make_record(lengths=[(0, "0-shot")], state_bytes=1000)
    names = [plot.name for plot in plots_of([at_one_length], ["exact_match"])]
    assert names == ["state", "cost"]


def test_dollar_signs_in_a_name_are_no_formula(make_record: MakeRecord, tmp_path: Path) -> None:
    figure = accuracy_figure([make_record(subtasks=["a$^_{$"])])
    assert save(figure, tmp_path / "accuracy.png").stat().st_size > 1000


def test_a_page_can_tell_its_colours_from_a_heat_map() -> None:
    themed = {*COLOURS, INK, GREY, AXIS, GRID}
    assert len(themed) == len(COLOURS) + 4
    shades = {to_hex(colour) for colour in matplotlib.colormaps["cividis"](range(256))}
    assert not themed & shades
