"""A vision-language chat model behind a URL, asked one question at a time.

``transformers serve`` (of transformers[serving]) or vLLM serve a local model at such a URL. The API
key comes from the environment only and never appears in a result, message or log: whatever the
server returns is cleared of it.
"""

import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import openai

from media.errors import InputError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
JPEG_QUALITY = 85
MAX_TOKENS = 300  # per reply


class NoReply(Exception):
    """The model gave no usable reply to one question, retries included."""


class Endpoint:
    """A chat model behind an OpenAI-compatible URL (vLLM, Qwen's service)."""

    def __init__(
        self, base_url: str, model: str, system: str = "", timeout: float = 60.0, retries: int = 4
    ) -> None:
        """Check the URL, send nothing; raises InputError if it carries or would expose a key."""
        self._key = os.environ.get("OPENAI_API_KEY", "")
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            rule = f"{model}: the chat model's URL must start with http:// or https:// and name a"
            raise InputError(f"{rule} host (--base-url or --chat-url)")
        if url.username or url.password or url.query:
            raise InputError("base_url must hold no user, password or query: keys go in a variable")
        if self._key and url.scheme == "http" and url.hostname not in LOOPBACK:
            raise InputError(f"{url.hostname}: a key is not sent over http; use https or unset it")
        self.name, self.system, self._retries = model, system, retries
        # Local servers need no key. The client retries 408, 409, 429, 5xx and lost connections.
        options = {"api_key": self._key or "none", "timeout": timeout, "max_retries": retries}
        self._client = openai.OpenAI(base_url=base_url, **options)

    def ask(self, prompt: str, frames: Sequence[np.ndarray] = ()) -> str:
        """The model's text for a prompt and frames (H, W, 3) uint8 RGB, attached as JPEG.

        Raises NoReply after all retries, InputError if the endpoint refuses key or model.
        """
        content = [{"type": "text", "text": prompt}]
        for frame in frames:
            bgr = np.ascontiguousarray(frame[..., ::-1])  # OpenCV's order
            _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            url = "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
            content.append({"type": "image_url", "image_url": {"url": url}})
        messages = [{"role": "user", "content": content}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        for _ in range(1 + self._retries):
            if (reply := self._complete(messages)) is not None:
                break
        if isinstance(reply, str):
            return self._hide(reply)
        # Raised outside any handler: as a cause, the client's error would carry the key.
        raise reply or NoReply("the reply is no chat completion")

    def _complete(self, messages: list[dict[str, Any]]) -> str | Exception | None:
        """The reply, the exception to raise, or None for a malformed reply (ask again)."""
        try:
            reply = self._client.chat.completions.create(
                model=self.name, messages=messages, max_tokens=MAX_TOKENS
            )
            text = reply.choices[0].message.content
            return text if isinstance(text, str) else None
        except openai.APIStatusError as error:
            status, message = error.status_code, self._hide(str(error))[:300]
            if status in (401, 403):
                return InputError(f"the endpoint refuses the key in OPENAI_API_KEY: {message}")
            if status == 404:
                return InputError(f"no model {self.name} at the endpoint, or wrong URL: {message}")
            return NoReply(f"HTTP {status}: {message}")
        except openai.APIError as error:
            return NoReply(self._hide(f"{type(error).__name__}: {error}"))
        except (ValueError, AttributeError, IndexError, TypeError):
            return None  # not JSON, or not a chat completion

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


class Results:
    """Rows of a JSONL file by digest, of which the last counts; a torn last line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                self.rows[row["digest"]] = row
            except (ValueError, TypeError, LookupError, RecursionError):
                raise InputError(f"{path}, line {number}: not a result; remove the line") from None
        if len(whole) < len(content):
            os.truncate(path, len(whole))

    def add(self, row: dict[str, Any]) -> None:
        """Append a row to the file."""
        with self.path.open("ab") as stream:
            stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.rows[row["digest"]] = row
