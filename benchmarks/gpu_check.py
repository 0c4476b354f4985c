"""Check and measure on a GPU in one command, within a time limit.

    python benchmarks/gpu_check.py [--minutes 9] [--output build/gpu_check] [--only memory training]

Every step runs in processes of its own and has a time limit. The most valuable steps come first.
Steps that compare results with float64 on the CPU run side by side; steps that measure speed run
alone. OUTPUT/gpu_check.json and gpu_check.md are written after every row, so a check that is cut
off keeps what it measured. The last line of a failed step is recorded, and the next step runs.
On a CPU (--device cpu) all sizes are reduced.
Exit code 0: every step finished and every comparison holds.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpu_job import RESULTS, Job

TABLES = "gpu_check.md"
MARK = "row "  # in front of the JSON of a row on a process's standard output
MARGIN = 5.0  # seconds kept for the end


@dataclass(frozen=True)
class Step:
    """A function of gpu_equality.py or gpu_speed.py."""

    name: str
    module: str
    seconds: int  # that it may take
    processes: int = 1  # that share its cells on a GPU


# Steps of one phase run side by side.
PHASES = (
    (Step("machine", "gpu_speed", 40),),
    (
        Step("memory", "gpu_equality", 120, 3),
        Step("models", "gpu_equality", 120, 4),
        Step("newton_schulz", "gpu_equality", 90),
        Step("library", "gpu_equality", 120, 4),
        Step("operations", "gpu_speed", 90, 2),
        Step("tests", "gpu_speed", 120),
        Step("compiling", "gpu_speed", 115, 5),
    ),
    (Step("training", "gpu_speed", 160),),
    (Step("newton_schulz_speed", "gpu_speed", 30),),
    (Step("demo", "gpu_speed", 70),),
    (Step("compiled", "gpu_speed", 50),),
    (Step("streaming", "gpu_speed", 360),),
)


class Check:
    """The results so far, and where they are written."""

    def __init__(self, folder: Path, device: str, minutes: float) -> None:
        self.folder, self.device = folder, device
        self.ends = time.monotonic() + 60 * minutes - MARGIN
        self.started = time.monotonic()
        self.steps: dict[str, dict] = {}
        self.lock = threading.Lock()
        self.processes: list[subprocess.Popen] = []
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, phase: Iterable[Step]) -> None:
        """Run the phase's steps side by side; on a CPU, where cores are few, in turn."""
        threads = []
        for step in phase:
            processes = step.processes if self.device == "cuda" else 1
            self.steps[step.name] = {"what": _what(step), "status": "running", "rows": []}
            for part in range(processes):
                thread = threading.Thread(target=self._process, args=(step, part, processes))
                thread.start()
                threads.append(thread)
                if self.device == "cpu":
                    thread.join()
        for thread in threads:
            thread.join()

    def _process(self, step: Step, part: int, parts: int) -> None:
        """One process of a step; killed with all that it started where its time is over."""
        seconds = min(step.seconds, self.ends - time.monotonic())
        if seconds < MARGIN:
            self._end(step, "not started: the time was over", 0)
            return
        command = [sys.executable, __file__, "--one", step.name, str(part), str(parts)]
        command += [
            "--device",
            self.device,
            "--output",
            str(self.folder),
            "--seconds",
            str(seconds),
        ]
        started = time.monotonic()
        with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, process_group=0
            )
            self.processes.append(process)
            timer = threading.Timer(seconds, _kill, [process])
            timer.start()
            for line in process.stdout:
                if line.startswith(MARK):
                    self._add(step, json.loads(line.removeprefix(MARK)))
            code = process.wait()
            timer.cancel()
            _kill(process)  # what it left running
            log.seek(0)
            said = log.read().strip().splitlines()
        spent = time.monotonic() - started
        status = "done"
        if spent >= seconds:
            status = f"cut off after {seconds:.0f} s"
        elif code:
            status = f"failed: {said[-1][:300] if said else f'exit code {code}'}"
        self._end(step, status, spent)

    def _add(self, step: Step, row: dict) -> None:
        """A row replaces an earlier one of the same cell and type."""
        with self.lock:
            rows = self.steps[step.name]["rows"]
            place = [(old["cell"], old.get("type")) for old in rows]
            key = (row["cell"], row.get("type"))
            if key in place:
                rows[place.index(key)] = row
            else:
                rows.append(row)
            self._write()

    def _end(self, step: Step, status: str, seconds: float) -> None:
        """The worst status of a step's processes stays."""
        with self.lock:
            found = self.steps[step.name]
            if found["status"] in ("running", "done"):
                found["status"] = status
            found["seconds"] = round(max(seconds, found.get("seconds", 0)), 1)
            self._write()
            print(f"{time.monotonic() - self.started:6.1f} s  {step.name}: {status}", flush=True)

    def _write(self) -> None:
        content = {"device": self.device, "steps": self.steps}
        for name, text in (
            (RESULTS, json.dumps(content, indent=1)),
            (TABLES, as_markdown(self.steps)),
        ):
            temporary = self.folder / f".{name}"
            temporary.write_text(text + "\n", encoding="utf-8")
            os.replace(temporary, self.folder / name)

    @property
    def passed(self) -> bool:
        return all(
            step["status"] == "done" and all(row.get("equal", True) for row in step["rows"])
            for step in self.steps.values()
        )


def _kill(process: subprocess.Popen) -> None:
    """The process and those that it started, if any are left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _what(step: Step) -> str:
    """The first paragraph of the step's docstring, read without importing torch."""
    source = Path(__file__).with_name(f"{step.module}.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == step.name:
            return " ".join(ast.get_docstring(node).split("\n\n")[0].split())
    raise LookupError(step.name)


def as_markdown(steps: dict[str, dict]) -> str:
    lines = []
    for name, step in steps.items():
        rows = step["rows"]
        lines += [f"## {name}", "", f"{step['what']} {step['status'].capitalize()}."[:600], ""]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        if rows:
            lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        for row in rows:
            lines.append("| " + " | ".join(_shown(row.get(column)) for column in columns) + " |")
        lines.append("")
    return "\n".join(lines)


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, (int, float)) and (value == 0 or 0.01 <= abs(value) < 1e12):
        return f"{value:,.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:.3g}"
    if isinstance(value, float):
        return f"{value:.1e}"
    return str(value).replace("|", "/")


def do_one(name: str, job: Job) -> None:
    """In a process of its own: the rows of one step's share on standard output."""
    step = next(step for phase in PHASES for step in phase if step.name == name)
    if step.module == "gpu_equality" or job.parts > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    for row in getattr(importlib.import_module(step.module), name)(job):
        print(MARK + json.dumps(row), flush=True)


def main() -> None:
    names = [step.name for phase in PHASES for step in phase]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--output", type=Path, default=Path("build/gpu_check"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="STEP")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, part, parts = arguments.one
        job = Job(arguments.device, int(part), int(parts), arguments.output, arguments.seconds)
        do_one(name, job)
        return
    check = Check(arguments.output, arguments.device, arguments.minutes)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        for phase in PHASES:
            check.run([step for step in phase if step.name in arguments.only])
    finally:
        for process in check.processes:
            _kill(process)
    print(check.folder / TABLES)
    sys.exit(0 if check.passed else 1)


if __name__ == "__main__":
    main()
