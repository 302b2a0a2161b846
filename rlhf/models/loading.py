"""The one way to load what somebody else's folder holds: no code of theirs, no pickles, no gaps.

transformers draws weights that a folder lacks at random, opens pickles beside a stray safetensors
file, and asks whether to run code that came along; none of that happens through here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, utils
from transformers.utils import GENERATION_CONFIG_NAME, logging

from rlhf.problems import InputError, some

# Only the losses of object detectors use it, which every model would import: a third of a second.
utils.is_scipy_available = lambda: False  # type: ignore[attr-defined]

UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers raises at files that are cut, empty, foreign or wrong."""


def read_config(path: Any) -> Any:
    """The model's configuration; its text part, where it reads more than text."""
    return AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()


def read_tokenizer(path: Any) -> Any:
    """The tokenizer; raises ValueError where its own library says no more than that it failed."""
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        if type(error) is not Exception:  # which is what `tokenizers` raises
            raise
        raise ValueError(f"its tokenizer.json cannot be used: {first_line(error)}") from error


def read_generation_config(path: Any) -> GenerationConfig | None:
    """None where there is none, since a model need not have one."""
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:
        if (Path(path) / GENERATION_CONFIG_NAME).is_file():  # and it is broken
            raise
        return None


def most_positions(model: Any) -> int | None:
    """How many tokens a model has positions for; None if it says nothing of it."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        # RoBERTa and those like it count from behind their padding token.
        if most and padding is not None and name.endswith("position_embeddings"):
            return most - padding - 1
    return most


def load_causal(path: Any, dtype: torch.dtype, **options: Any) -> Any:
    """A causal language model with every weight from its files, and dropout and noise off.

    Raises InputError if weights are missing, left over, or of another shape.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path,
        config=_without_noise(AutoConfig.from_pretrained(path, trust_remote_code=False)),
        dtype=dtype,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # told below, in words
        output_loading_info=True,
        **options,
    )
    model, loading = loaded
    if faults := list(name_faults(loading)):
        raise InputError([f"{path}: {fault}" for fault in faults])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def name_faults(loading: Any) -> Iterator[str]:
    """In words, what transformers' loading info says of names and shapes."""
    if missing := sorted(loading["missing_keys"]):
        yield (
            f"its files lack {len(missing)} weights ({some(missing)}), which would be drawn at "
            "random; give a whole causal language model"
        )
    if unexpected := sorted(loading["unexpected_keys"]):
        yield (
            f"its files have {len(unexpected)} weights that a causal language model of its "
            f"config.json has no place for ({some(unexpected)}); give the model without them"
        )
    yield from mismatch_faults(loading)


def mismatch_faults(loading: Any) -> Iterator[str]:
    """Of them, those of shapes."""
    for name, found, expected in sorted(loading["mismatched_keys"], key=str):
        yield (
            f"{name} is {tuple(found)} in its files, and {tuple(expected)} by its config.json; "
            "download both again, from one model"
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Within it, transformers shows no progress and no reports: what they say is told in words."""
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """Of its text, with the next where it ends in a colon, or its kind where it has none."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if first.endswith(":") and others:
        first = f"{first} {others[0]}"
    return first or type(error).__name__


def _without_noise(config: Any) -> Any:
    """Dropout and router jitter act in training alone, where they would make the policy another
    than the one that sampled; evaluation mode would switch checkpointed activations off too."""
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        for name, value in vars(part).copy().items():
            noisy = any(word in name for word in ("drop", "jitter"))
            if noisy and isinstance(value, float):
                setattr(part, name, 0.0)
    return config
