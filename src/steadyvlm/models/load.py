"""From a registered name, a folder or a hub id to a model that can be driven.

Only safetensors are read, no code from a checkpoint is ever run, and everything that can be refused from the
configuration is refused before weights are touched. Packed low-bit checkpoints of this package are read by
`low_bit_files`; others that are already quantised load through transformers with the backend they name.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from steadyvlm.errors import CheckpointError, MissingDependency, Unsupported
from steadyvlm.models import MODELS, compressed_tensors, llava_original, low_bit_files
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.families import FAMILIES, Family
from steadyvlm.models.placement import resolve_device, resolve_dtype
from steadyvlm.models.processors import load_image_processor, optional_json, read_json
from steadyvlm.models.skeleton import skeleton

_ARCHITECTURES = {family.architecture: family for family in FAMILIES.values()}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DOWNLOADED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
_BACKENDS = {
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "gptq": "gptqmodel optimum",
    "awq": "autoawq",
    "torchao": "torchao",
}


def load(source: str | Path, *, device: str = "auto", dtype: str = "auto") -> VisionLanguageModel:
    """Load a vision-language model.

    Args:
        source: a name from `MODELS` ("pocket"), a folder written by `save_pretrained`, or a Hugging Face hub id.
        device: auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps.
        dtype: auto (bfloat16 on GPUs that compute in it, else float32), float32, bfloat16, float16.

    Raises:
        CheckpointError: when nothing is found there, weights are pickles, or files are missing or do not fit.
        Unsupported: for an architecture without an adapter.
        MissingDependency: when a quantised checkpoint needs a package that is not installed.

    >>> load("pocket").info.num_layers   # doctest: +SKIP
    12
    """
    place = resolve_device(device)
    precision = resolve_dtype(dtype, place)
    folder = find_folder(source)
    if llava_original.is_original(folder):
        return _load_original(folder, str(source), place, precision)

    def read(architecture: str, config: Any) -> Any:
        _refuse_pickles(folder)
        packed = low_bit_files.is_packed(folder)
        return (low_bit_files.read_module if packed else _load_weights)(folder, architecture, config, place, precision)

    return _around(folder, str(source), read)


def outline(source: str | Path, *, dtype: str = "float32") -> VisionLanguageModel:
    """Return a model without its weights: its sizes, blocks, tokenizer and image processor, whatever its size.

    Args:
        source: as for `load`, in transformers' own layout.
        dtype: precision the weights would have.

    Raises:
        CheckpointError, Unsupported, MissingDependency: as `load`; Unsupported also for LLaVA-Med in its own layout.

    >>> outline("pocket").module.lm_head.weight.device   # doctest: +SKIP
    device(type='meta')
    """
    precision = resolve_dtype(dtype, torch.device("cpu"))
    folder = find_folder(source)
    if llava_original.is_original(folder):
        raise Unsupported(
            f"'{folder}' is LLaVA-Med in its authors' own layout, which is only read as a whole; convert it with "
            "transformers' convert_llava_weights_to_hf.py, or load it and quantise it in memory."
        )
    return _around(folder, str(source), lambda name, config: skeleton(config, name, precision))


def _around(folder: Path, name: str, make: Callable[[str, Any], Any]) -> VisionLanguageModel:
    """Return the adapter of a folder's family around the module that `make` makes of architecture and config."""
    family = _family(folder)
    path, _, kind = family.adapter.partition(":")
    adapter: Any = getattr(importlib.import_module(path), kind)
    config = _read_config(folder)
    adapter.check_config(config)
    loaded: VisionLanguageModel = adapter(
        make(family.architecture, config),
        _load_tokenizer(folder),
        load_image_processor(folder, family),
        name=name,
        template=_processor_template(folder),
        folder=folder,
    )
    return loaded


def find_folder(source: str | Path) -> Path:
    """Return the folder `source` stands for, downloading a hub id without its pickles.

    Raises:
        CheckpointError: when there is neither such a name, nor a folder, nor a reachable hub repository.
    """
    text = str(source)
    if text in MODELS:
        return Path(MODELS.load(text)())
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    known = ", ".join(MODELS)
    if isinstance(source, Path) or text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(f"no model at '{text}': give a folder, a hub id 'owner/name', or one of: {known}.")
    return _download(text, known)


def _download(repository: str, known: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise MissingDependency("hub ids need huggingface_hub: pip install 'steadyvlm[models]'.") from None
    try:
        return Path(snapshot_download(repository, allow_patterns=list(_DOWNLOADED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"'{repository}' is not a folder here and could not be fetched from the Hugging Face hub ({reason}). "
            f"Check the spelling and the network, or use one of: {known}."
        ) from error


def _family(folder: Path) -> Family:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"'{folder}' has no config.json; point to a folder written by save_pretrained.")
    found = read_json(folder / "config.json").get("architectures") or ["no architecture"]
    for name in found:
        if name in _ARCHITECTURES:
            return _ARCHITECTURES[name]
    hint = " Use a converted checkpoint such as 'llava-hf/llava-1.5-7b-hf'." if "Llava" in found[0] else ""
    raise Unsupported(f"'{folder}' holds {', '.join(found)}; known architectures: {', '.join(_ARCHITECTURES)}.{hint}")


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise CheckpointError(f"the config.json in '{folder}' cannot be read: {error}") from error


def _refuse_pickles(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if not pickles:
        raise CheckpointError(f"'{folder}' holds no weights; expected *.safetensors beside config.json.")
    raise CheckpointError(
        f"'{folder}' holds its weights as pickle files ({', '.join(pickles[:3])}), which can run code when opened, so "
        "they are never loaded. If you trust their origin, convert them once: "
        f"AutoModelForImageTextToText.from_pretrained('{folder}').save_pretrained('converted') in transformers."
    )


def _load_weights(folder: Path, architecture: str, config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    import transformers
    from safetensors import SafetensorError

    quantised = getattr(config, "quantization_config", None)
    method = _quantisation_method(quantised)
    options: dict[str, Any] = {"device_map": {"": device}} if quantised else {}
    try:
        with _quiet(), compressed_tensors.without_bars() if method == compressed_tensors.METHOD else nullcontext():
            module, report = getattr(transformers, architecture).from_pretrained(
                str(folder),
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="sdpa",
                output_loading_info=True,
                **options,
            )
    except ImportError as error:
        raise MissingDependency(
            f"'{folder}' is quantised with {method} and its backend is missing: {str(error).strip()} "
            f"Install it with: pip install {_BACKENDS.get(method, method)}."
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the weights in '{folder}' cannot be loaded: {str(error).strip()[:500]}") from error
    except (TypeError, AttributeError) as error:  # what backends raise where their settings lack a part
        if not quantised:
            raise
        raise CheckpointError(
            f"'{folder}' says that it is quantised with {method}, but its quantization_config cannot be used "
            f"({str(error).strip()[:200]}); repair config.json."
        ) from error
    _refuse_missing(folder, report)
    if not quantised:
        return module.to(device)
    if method == compressed_tensors.METHOD:
        compressed_tensors.settle(module)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns in every linear of every batch of casts
    return module


def _load_original(folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> VisionLanguageModel:
    """Load LLaVA-Med as its authors saved it."""
    from steadyvlm.models.llava import Llava

    settings = llava_original.check_settings(folder)
    _refuse_pickles(folder)
    weights = llava_original.read_weights(folder)
    config = llava_original.make_config(settings, weights)
    with _quiet():
        module, report = llava_original.build(config, weights, dtype)
    _refuse_missing(folder, report)
    return Llava(
        module.to(device),
        llava_original.add_image_token(_load_tokenizer(folder, config.text_config), module.config),
        llava_original.image_processor(settings, config.vision_config.image_size),
        name=name,
        template=llava_original.TEMPLATE,
        folder=folder,
    )


def _refuse_missing(folder: Path, report: Mapping[str, Any]) -> None:
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"the weights in '{folder}' lack {len(missing)} tensors of the model ({', '.join(missing[:3])}, …); "
            "they would be random. The file belongs to another architecture or an unfinished download."
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back progress bars, warnings and the table of unused tensors; what matters of them is raised as an error."""
    from transformers.utils import logging as untyped

    output: Any = untyped
    bars, level = output.is_progress_bar_enabled(), output.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output.disable_progress_bar()
        output.set_verbosity_error()
        try:
            yield
        finally:
            output.set_verbosity(level)
            if bars:
                output.enable_progress_bar()


def _quantisation_method(settings: Any) -> str:
    value = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    return str(getattr(value, "value", value) or "an unnamed method")


def _load_tokenizer(folder: Path, config: Any = None) -> Any:
    from transformers import AutoTokenizer

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about tokenizer formats, nothing a caller can act on
            return AutoTokenizer.from_pretrained(str(folder), config=config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise CheckpointError(
            f"no usable tokenizer in '{folder}': {str(error).strip()[:300]} "
            "Copy tokenizer.json and tokenizer_config.json of the original checkpoint beside the weights."
        ) from error


def _processor_template(folder: Path) -> str | None:
    """Return a chat template stored beside the tokenizer rather than in it, as older LLaVA checkpoints do."""
    for name in ("chat_template.json", "processor_config.json"):
        template = optional_json(folder / name).get("chat_template")
        if isinstance(template, str):
            return template
    return None
