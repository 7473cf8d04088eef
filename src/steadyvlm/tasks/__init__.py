"""Benchmarks: what is asked, how an answer is read, and how it is scored."""

from __future__ import annotations

from steadyvlm.registry import Registry

TASKS = Registry(
    "task",
    {
        "folder": "steadyvlm.tasks.folder:FolderTask",
        "pocket": "steadyvlm.pocket.benchmark:PocketTask",
    },
    group="steadyvlm.tasks",
)
"""Every task by name. A row here enrols it in the command line, the study grammar and the contract tests."""
