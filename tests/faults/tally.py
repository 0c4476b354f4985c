"""How many faults were tried, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tally:
    """One row of the table in docs/reliability.md."""

    name: str
    count: int = 0
    found: dict[str, list[str]] = field(
        default_factory=lambda: {"lost": [], "wrong": [], "tracebacks": []}
    )

    def tried(self, _where: str) -> None:
        self.count += 1

    def lost(self, where: str, said: str) -> None:
        self.found["lost"].append(f"{where}: {said.strip()[-400:]}")

    def wrong(self, where: str) -> None:
        self.found["wrong"].append(where)

    def traceback(self, where: str, said: str) -> None:
        self.found["tracebacks"].append(f"{where}: {said.strip()[-1500:]}")

    def row(self) -> str:
        counts = " | ".join(str(len(each)) for each in self.found.values())
        return f"| {self.name} | {self.count} | {counts} |"
