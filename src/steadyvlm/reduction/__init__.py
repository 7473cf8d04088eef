"""Token-reduction methods: which visual tokens a model may forget, one file per method.

A row in the table enrols a method everywhere: the contract tests, the recipe text, the command line and the docs.
"""

from __future__ import annotations

from steadyvlm.registry import Registry

REDUCTIONS = Registry(
    "reduction",
    {
        "keep_all": "steadyvlm.reduction.keep_all:KeepAll",
        "random": "steadyvlm.reduction.random:Random",
        "least_attended": "steadyvlm.reduction.least_attended:LeastAttended",
        "fastv": "steadyvlm.reduction.fastv:FastV",
        "visionzip": "steadyvlm.reduction.visionzip:VisionZip",
    },
    group="steadyvlm.reductions",
)

__all__ = ["REDUCTIONS"]
