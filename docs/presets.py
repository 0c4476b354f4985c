"""The page docs/fidelity.md: every setting of every preset beside what its paper says.

`python docs/presets.py` writes it from docs/presets.yaml, conf/model and conf/tuned.
tests/models/test_presets_of_papers.py fails where a preset, the table and the page differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from atlas_bench.config.locations import folder_of
from atlas_bench.models.settings import ModelSettings, ScaleSettings

PAGE = Path(__file__).with_name("fidelity.md")
PRESETS = """\
# Beside the papers

Every setting of every preset beside what its paper says. A setting is the paper's, with the place
where it stands; or the paper is silent and the reason of our choice follows; or the preset
**departs**, with the paper's value and the reason. A preset that is like another has the other's
settings but for those listed. Settings that a preset does not use are left out. `match` and the
sizes are the same for all ([cost](models.md#cost-of-a-model)). `python docs/presets.py` writes this
page from `docs/presets.yaml`, `conf/model` and `conf/tuned`, and a test compares them.

"""
TUNED = """
## Chosen by validation

At these scales, `model=NAME` takes settings that validation chose among the same number of trials
for every model ([tuning](tuning.md)). `tuned=none` leaves them out.

"""
NO_PAPER = ("hf", "none")  # choices of model= that are no preset


def papers() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(Path(__file__).with_name("presets.yaml").read_text(encoding="utf-8"))


def presets() -> list[str]:
    names = (path.stem for path in (folder_of("conf") / "model").glob("*.yaml"))
    return sorted(name for name in names if name not in NO_PAPER)


def preset(name: str) -> ModelSettings:
    """The settings of a file of conf/model and of those that it builds on, as they are written."""
    values = OmegaConf.load(folder_of("conf") / "model" / f"{name}.yaml")
    base = [each for each in values.pop("defaults", []) if each != "_self_"]
    schema = OmegaConf.structured(preset(base[0]) if base else ModelSettings)
    root = {"scale": ScaleSettings, "model": OmegaConf.merge(schema, values)}
    return OmegaConf.to_object(OmegaConf.create(root).model)


def settings_in_use(model: ModelSettings) -> dict[str, Any]:
    """The settings that change what the preset computes, by the names of presets.yaml."""
    used = {"model.mixers": model.mixers}
    segments = {"memory_as_context", "cached_memory"} & set(model.mixers)
    if segments or model.recurrence.memory_tokens:
        used["model.segment"] = model.segment
    if "memory_as_context" in model.mixers:
        used["model.query_convolution"] = model.query_convolution
    if "memory_as_gate" in model.mixers:
        used["model.attention.norm"] = model.attention.norm
    if model.recurrence.memory_tokens:
        used["model.recurrence.memory_tokens"] = model.recurrence.memory_tokens
        used["model.recurrence.key_dim"] = model.recurrence.key_dim
    attend = ("attention", "lact", "memory_as_context", "memory_as_gate", "memory_as_layer")
    if any(mixer in attend for mixer in model.mixers):
        used["model.attention.window"] = model.attention.window
        used["model.attention.persistent_tokens"] = model.attention.persistent_tokens
        if model.attention.convolution is not None:  # else the scale's
            used["model.attention.convolution"] = model.attention.convolution
    if model.mixers == ["lact"]:
        names = ["chunk", "expansion", "newton_schulz_steps", "newton_schulz_coefficients"]
        return used | {name: getattr(model.memory, name) for name in names}
    if not any("memory" in mixer or mixer == "delta_ttt" for mixer in model.mixers):
        return used
    memory = model.memory
    used |= {"model.write_gate": model.write_gate, "model.coarse_factor": model.coarse_factor}
    names = ["network", "features", "objective", "window", "optimizer", "update_every", "chunk"]
    names += ["retain"]
    if model.write_gate:
        used["model.initial_step"] = model.initial_step
        names.append("rate_inside")
    if model.write_gate or memory.retain in ("scalar", "channel"):
        names.append("gate")
    if memory.network != "matrix":
        names.append("expansion")
    if memory.network != "matrix" or memory.branch_norm:
        names.append("branch_norm")
    if memory.branch_norm:
        names.append("branch_norm_affine")
    if memory.objective == "lp":
        names.append("loss_power")
    if memory.retention != "l2":
        names.append("retention")
    if memory.retention == "lq":
        names.append("retention_power")
    if memory.features != "identity":
        names += ["degree", "constant_feature"]
    if memory.features == "sketch":
        names.append("sketch_size")
    if memory.window > 1:
        names.append("window_weights")
    if memory.optimizer == "muon":
        names += ["newton_schulz_steps", "newton_schulz_coefficients"]
    else:
        names += ["bounded_step"] + ["bounded_by"] * memory.bounded_step
    return used | {name: getattr(memory, name) for name in names}


def entry_of(table: dict[str, dict[str, Any]], name: str, setting: str) -> dict[str, Any] | None:
    """What the paper says of a setting: the preset's own entry, or that of the one it is like."""
    while name is not None:
        if setting in table[name]:
            return table[name][setting]
        name = table[name].get("like")
    return None


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Preset, setting, value, and what the paper says; the entries of a preset's own."""
    for name, entries in papers().items():
        head = ", ".join(
            text
            for text in (
                entries.get("source"),
                f"otherwise as `{entries['like']}`" if "like" in entries else None,
            )
            if text
        )
        yield f"`{name}`", "", "", f"*{head}*"
        for setting, entry in entries.items():
            if setting in ("like", "source"):
                continue
            shown = f"`{setting.removeprefix('model.')}`", f"`{_yaml(entry['is'])}`"
            yield "", *shown, _paper(entry)


def _paper(entry: dict[str, Any]) -> str:
    if "at" in entry:
        return str(entry["at"])
    if "silent" in entry:
        return f"silent; {entry['silent']}"
    return f"**departs**: {entry['paper']}; {entry['because']}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def tuned() -> Iterator[tuple[str, str, str, str]]:
    """Model and scale, what was chosen, among how many trials, and how."""
    for path in sorted((folder_of("conf") / "tuned").glob("*_*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        training = OmegaConf.load(path).training
        chosen = ", ".join(f"`{key}={value}`" for key, value in training.chosen.items())
        how = " ".join(line[2:] for line in lines[1:] if line.startswith("# "))
        yield f"`{path.stem}`", chosen, str(training.trials), how


def page() -> str:
    """docs/fidelity.md as it should be now."""
    presets_table = _table(("preset", "setting", "here", "the paper"), rows())
    tuned_table = _table(("model and scale", "chosen", "trials", "how"), tuned())
    return PRESETS + presets_table + TUNED + tuned_table


def _table(headings: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
