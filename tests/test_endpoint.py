"""Models that are asked: a server on loopback that misbehaves, and the key."""

import json
import logging
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_negatives import FENCED, GOOD, PROMPTS, UNIT
from test_video import write_ids

from curation import negatives
from curation.chat_models import Endpoint
from curation.negatives import Unit, Writer
from media.errors import InputError

KEY = "sk-very-secret-0123456789"
ERROR = (500, "{}", {})


class Server(ThreadingHTTPServer):
    """Answers the n-th request by the n-th entry of ``script``, the last one ever after."""

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.seen = script, []


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        server.seen.append((json.loads(body), self.headers["Authorization"]))
        step = server.script[min(len(server.seen), len(server.script)) - 1]
        status, content, headers = step if isinstance(step, tuple) else (200, said(step), {})
        if status == "hang":
            time.sleep(content)
            return
        content = content.replace("ECHO", self.headers["Authorization"])
        self.send_response(status)
        plain = {"Content-Type": "application/json", "Content-Length": str(len(content.encode()))}
        for name, value in (plain | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_):
        pass


def said(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)  # backoff, shortened
    servers = []

    def start(*script, **settings):
        servers.append(server := Server(script))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        return server, Endpoint(url, "m", PROMPTS.system, **{"retries": 2} | settings)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def outcome(endpoint):
    return Writer(endpoint, PROMPTS, ".").write(UNIT)


@pytest.mark.parametrize(
    ("script", "status", "requests"),
    [
        ([FENCED], "ok", 1),
        ([ERROR, ERROR, FENCED], "ok", 3),
        ([ERROR], "silent", 3),
        ([("hang", 9, {}), FENCED], "ok", 2),
        ([(200, said(FENCED)[:50], {"Content-Length": "999"}), FENCED], "ok", 2),
        ([(200, "<html>busy</html>", {"Content-Type": "text/html"}), FENCED], "ok", 2),
        ([(200, '{"choices": []}', {}), FENCED], "ok", 2),
    ],
)  # fmt: skip
def test_a_misbehaving_server_is_survived(serve, script, status, requests):
    server, endpoint = serve(*script, timeout=2.0)
    found = outcome(endpoint)
    assert (found["status"], len(server.seen)) == (status, requests)
    assert found["negatives"] == (GOOD if status == "ok" else [])


def test_the_key_is_nowhere(serve, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    leak = [KEY, *GOOD[:2]]
    limited = (429, '{"error": {"message": "ECHO"}}', {})
    server, endpoint = serve(json.dumps(leak), limited, (400, "ECHO", {}), retries=0)
    path = tmp_path / "r.jsonl"
    many = [Unit("a.mp4", i, "Two men fight.", False) for i in range(9)]
    with pytest.raises(InputError, match="no reply") as stopped:
        negatives.write_all(Writer(endpoint, PROMPTS, tmp_path), many, path)
    refused, endpoint = serve((401, '{"error": {"message": "bad key ECHO"}}', {}))
    with pytest.raises(InputError, match=r"refuses the key in OPENAI_API_KEY.*\[key\]") as error:
        endpoint.ask("hello")
    assert server.seen[0][1] == refused.seen[0][1] == f"Bearer {KEY}"
    texts = [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    raised = ["".join(traceback.format_exception(e.value)) for e in (stopped, error)]
    for text in [caplog.text, *texts, *raised, endpoint.name]:
        assert KEY not in text
    assert error.value.__context__ is None


def test_a_key_is_not_sent_where_it_would_show(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for url in ("http://example.org/v1", "https://u:p@h/v1", "https://h/v1?key=1", "ftp://h", "h"):
        with pytest.raises(InputError):
            Endpoint(url, "m")
    monkeypatch.delenv("OPENAI_API_KEY")
    Endpoint("http://example.org/v1", "m")


def test_frames_of_the_span_go_with_abnormal_units_only(serve, tmp_path):
    write_ids(tmp_path / "a.mp4")
    server, endpoint = serve(FENCED)
    unit = Unit("a.mp4", 0, "Two men fight.", True, None, None, (0.2, 1.0))
    writer = Writer(endpoint, PROMPTS, tmp_path, frames=3)
    assert writer.write(unit)["status"] == "ok"
    parts = server.seen[0][0]["messages"][1]["content"]
    assert [p["type"] for p in parts] == ["text", *["image_url"] * 3]
    assert server.seen[0][0]["messages"][0] == {"role": "system", "content": PROMPTS.system}
    assert parts[1]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert "NORMAL captions" in parts[0]["text"]
    gone = Unit("gone.mp4", 0, "Two men fight.", True)
    assert writer.write(gone)["status"] == "unreadable"
    writer.write(UNIT)
    (only,) = server.seen[1][0]["messages"][1]["content"]
    assert "ABNORMAL captions" in only["text"]
