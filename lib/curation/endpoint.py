"""Any OpenAI-compatible chat endpoint (vLLM, Qwen's service) asked one question at a time.

The key comes from the environment only. It is in no result, message or log: the client's own log
leaves it out, and everything a server says is searched for it before it goes on.
"""

import base64
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import cv2
import numpy as np
import openai
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from alertclip.errors import InputError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
JPEG_QUALITY = 85
PIXELS_PER_TOKEN = 28 * 28  # of an image, as Qwen2-VL and Qwen2.5-VL count
CHARACTERS_PER_TOKEN = 4  # of English text, roughly, in any chat model

Result = TypeVar("Result")


class NoReply(Exception):
    """The endpoint gave no usable reply to one question, retries included."""


class _Malformed(Exception):
    """A reply that is no chat completion; asked for again."""


@dataclass
class Usage:
    """Requests that were answered and their tokens, as the server counts them."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Endpoint:
    """A chat model behind a URL. ``name`` identifies it in results; ``usage`` adds up."""

    def __init__(
        self,
        base_url: str,
        model: str,
        system: str = "",
        key_variable: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        retries: int = 4,
        requests_per_minute: float = 60.0,
        max_tokens: int = 300,
    ) -> None:
        """Nothing is sent yet. InputError for a URL that carries or would expose a key."""
        self._key, self._key_variable = os.environ.get(key_variable, ""), key_variable
        _check_url(base_url, bool(self._key))
        self.name, self.system, self.usage = model, system, Usage()
        self._max_tokens, self._retries = max_tokens, retries
        pace = Pace(requests_per_minute)
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=self._key or "none",  # local servers ask for none
            timeout=timeout,
            max_retries=retries,  # 408, 409, 429, 5xx, lost connections; heeds Retry-After
            http_client=openai.DefaultHttpxClient(
                timeout=timeout, event_hooks={"request": [lambda _: pace.wait()]}
            ),
        )

    def ask(self, prompt: str, frames: Sequence[np.ndarray] = ()) -> str:
        """The model's text for a prompt and frames (H, W, 3) uint8 RGB, attached as JPEG.

        Raises NoReply after all retries, InputError if the endpoint refuses key, model or request.
        """
        content = [{"type": "text", "text": prompt}, *map(_image_part, frames)]
        messages = [{"role": "user", "content": content}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        return self._hide(self._guarded(lambda: self._complete(messages)))

    def _complete(self, messages: list[dict[str, Any]]) -> str:
        reply = self._client.chat.completions.create(
            model=self.name, messages=messages, max_tokens=self._max_tokens
        )
        try:
            text = reply.choices[0].message.content
        except (AttributeError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            raise _Malformed("the reply is no chat completion")
        self.usage.requests += 1
        if reply.usage:
            self.usage.prompt_tokens += reply.usage.prompt_tokens or 0
            self.usage.completion_tokens += reply.usage.completion_tokens or 0
        return text

    def _guarded(self, call: Callable[[], Result]) -> Result:
        """``call`` with malformed replies retried and every failure in words of our own."""
        # ValueError: a body that is not JSON, which the client passes on as it is.
        again = Retrying(
            retry=retry_if_exception_type((_Malformed, ValueError)),
            stop=stop_after_attempt(1 + self._retries),
            wait=wait_random_exponential(multiplier=0.2, max=8),
            reraise=True,
        )
        refusal: InputError | NoReply
        try:
            return again(call)
        except openai.APIStatusError as error:
            refusal = self._refusal(error)
        except (openai.APIError, _Malformed, ValueError) as error:
            refusal = NoReply(self._hide(f"{type(error).__name__}: {error}"))
        raise refusal  # outside the handler: the client's error holds the request, key and all

    def _refusal(self, error: openai.APIStatusError) -> InputError | NoReply:
        said = self._hide(str(error))[:300]
        if error.status_code in (401, 403):
            return InputError(f"the endpoint refuses the key in {self._key_variable}: {said}")
        if error.status_code == 404:
            return InputError(
                f"the endpoint knows no model {self.name}, or the URL is wrong: {said}"
            )
        return NoReply(f"HTTP {error.status_code}: {said}")

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


class Pace:
    """At most so many requests a minute, evenly spaced; retries count."""

    def __init__(self, per_minute: float) -> None:
        if not per_minute > 0:
            raise InputError(f"requests per minute must be above 0, not {per_minute}")
        self._gap, self._next, self._lock = 60.0 / per_minute, 0.0, threading.Lock()

    def wait(self) -> None:
        """Sleep until the next request may go."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._gap
        time.sleep(start - now)


def estimated_tokens(text: str, frames: int, size: tuple[int, int]) -> int:
    """Prompt tokens of a text with ``frames`` images of ``size`` (H, W), before asking."""
    return round(len(text) / CHARACTERS_PER_TOKEN + frames * size[0] * size[1] / PIXELS_PER_TOKEN)


def _image_part(frame: np.ndarray) -> dict[str, Any]:
    done, jpeg = cv2.imencode(
        ".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )  # OpenCV takes BGR
    if not done:
        raise InputError(f"a frame of shape {frame.shape} cannot be written as JPEG")
    url = "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def _check_url(base_url: str, has_key: bool) -> None:
    url = urlsplit(base_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InputError("base_url must start with http:// or https:// and name a host")
    if url.username or url.password or url.query:
        raise InputError("base_url must hold no user, password or query: keys go into a variable")
    if has_key and url.scheme == "http" and url.hostname not in LOOPBACK:
        raise InputError(f"{url.hostname}: a key is not sent over http; use https or unset it")
