# SPDX-License-Identifier: MIT

import builtins
from os import PathLike
from types import TracebackType
from typing import Callable, ClassVar, Iterable, Iterator, Literal, SupportsIndex, TypedDict, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeAlias, Unpack

_Weights: TypeAlias = Literal["float32", "float16", "bfloat16", "int8", "int4"]
_Isa: TypeAlias = Literal["portable", "avx2", "avx2_vnni", "avx512", "avx512_vnni"]
_KvDtype: TypeAlias = Literal["float32", "float16"]
_Pooling: TypeAlias = Literal["mean", "last"]
_Overflow: TypeAlias = Literal["error", "slide", "truncate_left"]
_Tokens: TypeAlias = Iterable[SupportsIndex]
_Prompt: TypeAlias = str | bytes | _Tokens
_Callback: TypeAlias = Callable[[Token], Flow | None]
_BatchCallback: TypeAlias = Callable[[int, Token], Flow | None]
_Floats: TypeAlias = NDArray[np.float32]
_TopLogprobs: TypeAlias = list[tuple[int, float]]
_LogitsProcessor: TypeAlias = Callable[[NDArray[np.int32], NDArray[np.float32]], object]

class _ExponentialDecay(TypedDict, total=False):
    start: int
    factor: float

class _Dry(TypedDict, total=False):
    multiplier: float
    base: float
    allowed_length: int
    penalty_last_n: int | None
    sequence_breakers: Iterable[str | bytes]

class _Xtc(TypedDict, total=False):
    probability: float
    threshold: float

class _Mirostat(TypedDict, total=False):
    tau: float
    eta: float

# The members of gpt2::GenerationConfig.
class _Options(TypedDict, total=False):
    max_new_tokens: int
    do_sample: bool
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    sample: int
    stop_strings: str | bytes | Iterable[str | bytes]
    logprobs: bool
    eos_token_id: int | None
    ignore_eos: bool
    overflow: _Overflow
    guidance_scale: float | None
    negative_prompt_ids: _Tokens
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    top_n_sigma: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    penalty_last_n: int | None
    no_repeat_ngram_size: int | None
    bad_words_ids: Iterable[_Tokens]
    suppress_tokens: _Tokens
    begin_suppress_tokens: _Tokens
    forced_bos_token_id: int | None
    forced_eos_token_id: int | None
    sequence_bias: dict[tuple[int, ...], float]
    logit_bias: dict[int, float]
    min_new_tokens: int | None
    exponential_decay_length_penalty: _ExponentialDecay | None
    dry: _Dry | None
    xtc: _Xtc | None
    mirostat: _Mirostat | None
    top_k_ties: Literal["keep", "cut"]
    top_p_rule: Literal["reach", "within"]
    logits_processors: Iterable[_LogitsProcessor]
    processor_order: Iterable[str]
    max_time: float | None
    cancellation: Cancellation | None
    num_return_sequences: int
    num_beams: int
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    num_beam_groups: int
    diversity_penalty: float | None
    prompt_lookup_num_tokens: int | None
    max_matching_ngram_size: int | None
    assistant_model: Model | None
    num_assistant_tokens: int | None
    top_logprobs: int
    prompt_logprobs: bool
    penalty_alpha: float | None
    constraint: Constraint | None

__version__: str
__all__: list[str]

class Error(RuntimeError): ...
class FileError(Error, OSError): ...
class FormatError(Error, ValueError): ...
class OptionError(Error, ValueError): ...
class ContextError(Error, ValueError): ...
class NumericError(Error, ArithmeticError): ...
class BusyError(Error): ...

class Flow:
    PROCEED: ClassVar[Flow]
    STOP: ClassVar[Flow]
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class Config:
    @property
    def vocab_size(self) -> int: ...
    @property
    def n_positions(self) -> int: ...
    @property
    def n_embd(self) -> int: ...
    @property
    def n_layer(self) -> int: ...
    @property
    def n_head(self) -> int: ...
    @property
    def n_inner(self) -> int: ...
    @property
    def layer_norm_epsilon(self) -> float: ...
    @property
    def activation_function(self) -> str: ...
    @property
    def scale_attn_weights(self) -> bool: ...
    @property
    def scale_attn_by_inverse_layer_idx(self) -> bool: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_id(self) -> int | None: ...

class Verification:
    @property
    def has_self_test(self) -> bool: ...
    @property
    def largest_difference(self) -> float: ...
    @property
    def bound(self) -> float: ...

class Token:
    @property
    def id(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def bytes(self) -> builtins.bytes: ...
    @property
    def index(self) -> int: ...
    @property
    def logprob(self) -> float | None: ...
    @property
    def top_logprobs(self) -> _TopLogprobs | None: ...

class Timings:
    @property
    def ttft(self) -> float: ...
    @property
    def tpot(self) -> float: ...
    @property
    def total(self) -> float: ...

class Speculation:
    @property
    def proposed(self) -> int: ...
    @property
    def accepted(self) -> int: ...
    @property
    def passes(self) -> int: ...

class Result:
    @property
    def text(self) -> str: ...
    @property
    def bytes(self) -> builtins.bytes: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def logprobs(self) -> list[float] | None: ...
    @property
    def finish_reason(
        self,
    ) -> Literal["length", "eos", "stop_string", "callback", "max_time", "cancelled"]: ...
    @property
    def stop_string(self) -> str | None: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def timings(self) -> Timings: ...
    @property
    def score(self) -> float | None: ...
    @property
    def speculation(self) -> Speculation: ...
    @property
    def top_logprobs(self) -> list[_TopLogprobs] | None: ...
    @property
    def prompt_logprobs(self) -> list[float] | None: ...
    @property
    def prompt_top_logprobs(self) -> list[_TopLogprobs] | None: ...

class Cancellation:
    def __init__(self) -> None: ...
    def request(self) -> None: ...
    @property
    def requested(self) -> bool: ...

class Constraint:
    @staticmethod
    def regex(model: Model, pattern: str | bytes) -> Constraint: ...
    @staticmethod
    def grammar(model: Model, grammar: str | bytes) -> Constraint: ...
    def matches(self, text: str | bytes) -> bool: ...
    def may_begin_with(self, text: str | bytes) -> bool: ...

class Recorder:
    def __init__(
        self,
        *,
        hidden_states: bool = False,
        last_hidden_states: bool = False,
        attention: bool = False,
        logits: bool = False,
    ) -> None: ...
    def hidden_state_at(self, layer: SupportsIndex, position: SupportsIndex) -> _Floats: ...
    def last_hidden_state_at(self, position: SupportsIndex) -> _Floats: ...
    def attention_at(self, layer: SupportsIndex, head: SupportsIndex, position: SupportsIndex) -> _Floats: ...
    def logits_at(self, position: SupportsIndex) -> _Floats: ...

class Stream(Iterator[Token]):
    def __iter__(self) -> Stream: ...
    def __next__(self) -> Token: ...
    def __enter__(self) -> Stream: ...
    def __exit__(
        self,
        type: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def close(self) -> None: ...
    @property
    def result(self) -> Result | None: ...

class Model:
    def __init__(
        self,
        path: str | PathLike[str],
        weights: _Weights | None = None,
        *,
        head: _Weights | None = None,
        isa: _Isa | None = None,
        threads: int | None = None,
        verify: bool = False,
        huge_pages: bool = False,
        screen_head: bool = False,
    ) -> None: ...
    @staticmethod
    def from_bytes(
        file: bytes,
        weights: _Weights | None = None,
        *,
        head: _Weights | None = None,
        isa: _Isa | None = None,
        threads: int | None = None,
        verify: bool = False,
        screen_head: bool = False,
    ) -> Model: ...
    def verify(self) -> Verification: ...
    @property
    def config(self) -> Config: ...
    @property
    def isa(self) -> str: ...
    @property
    def bytes_read(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    def encode(self, text: str | bytes, *, special_tokens: bool = False) -> list[int]: ...
    def decode(self, tokens: _Tokens, *, errors: str = "replace") -> str: ...
    def decode_bytes(self, tokens: _Tokens) -> bytes: ...
    def token_bytes(self, token: SupportsIndex) -> bytes: ...
    def special_token(self, name: str) -> int | None: ...
    def is_special(self, token: SupportsIndex) -> bool: ...
    def embed(self, text: _Prompt, *, pooling: _Pooling = "mean") -> _Floats: ...
    def generate(
        self,
        prompt: _Prompt,
        *,
        callback: _Callback | None = None,
        **options: Unpack[_Options],
    ) -> Result: ...
    def generate_batch(
        self,
        prompts: Iterable[_Prompt],
        *,
        callback: _BatchCallback | None = None,
        **options: Unpack[_Options],
    ) -> list[Result]: ...
    def stream(
        self,
        prompt: _Prompt,
        **options: Unpack[_Options],
    ) -> Stream: ...

class Session:
    def __init__(
        self, model: Model, *, kv_dtype: _KvDtype | None = None, observer: Recorder | None = None
    ) -> None: ...
    @staticmethod
    def restore(
        model: Model,
        path: str | PathLike[str],
        *,
        kv_dtype: _KvDtype | None = None,
        observer: Recorder | None = None,
    ) -> Session: ...
    @staticmethod
    def from_bytes(
        model: Model, file: bytes, *, kv_dtype: _KvDtype | None = None, observer: Recorder | None = None
    ) -> Session: ...
    def save(self, path: str | PathLike[str]) -> None: ...
    def fork(self) -> Session: ...
    @overload
    def forward(self, tokens: _Tokens, *, logits: Literal["last", "all"] = "last") -> _Floats: ...
    @overload
    def forward(self, tokens: _Tokens, *, logits: Literal["none"]) -> None: ...
    def score(self, tokens: _Tokens) -> _Floats: ...
    def truncate(self, length: SupportsIndex) -> None: ...
    def generate(
        self,
        prompt: _Prompt = "",
        *,
        callback: _Callback | None = None,
        **options: Unpack[_Options],
    ) -> Result: ...
    def stream(
        self,
        prompt: _Prompt = "",
        **options: Unpack[_Options],
    ) -> Stream: ...
    @property
    def position(self) -> int: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def logits(self) -> _Floats: ...
    @property
    def kv_dtype(self) -> _KvDtype: ...
    @property
    def model(self) -> Model: ...

@overload
def forward(
    items: Iterable[tuple[Session, _Tokens]], *, logits: Literal["last", "all"] = "last"
) -> list[_Floats]: ...
@overload
def forward(items: Iterable[tuple[Session, _Tokens]], *, logits: Literal["none"]) -> list[None]: ...
