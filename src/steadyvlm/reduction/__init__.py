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
        "pyramiddrop": "steadyvlm.reduction.pyramiddrop:PyramidDrop",
        "sparsevlm": "steadyvlm.reduction.sparsevlm:SparseVLM",
        "sparsevlm_plus": "steadyvlm.reduction.sparsevlm_plus:SparseVLMPlus",
        "vtw": "steadyvlm.reduction.vtw:VTW",
        "visionzip": "steadyvlm.reduction.visionzip:VisionZip",
        "hired": "steadyvlm.reduction.hired:HiRED",
        "prumerge": "steadyvlm.reduction.prumerge:PruMerge",
        "prumerge_plus": "steadyvlm.reduction.prumerge:PruMergePlus",
        "trim": "steadyvlm.reduction.trim:Trim",
        "divprune": "steadyvlm.reduction.divprune:DivPrune",
        "downsample": "steadyvlm.reduction.downsample:Downsample",
        "lofi": "steadyvlm.reduction.lofi:LoFi",
        "lvpruning": "steadyvlm.reduction.lvpruning:LVPruning",
        "quota": "steadyvlm.reduction.quota:Quota",
    },
    group="steadyvlm.reductions",
)

__all__ = ["REDUCTIONS"]
