"""What the campaign must catch: a program that writes in place, without waiting, and believes what is there."""

from pathlib import Path


def main() -> None:
    if not Path("result").exists():
        Path("result").write_text("whole " * 10_000)
