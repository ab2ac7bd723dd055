"""Print the folder of the task's definition."""

from pathlib import Path

print(Path(__file__).resolve().parent)
