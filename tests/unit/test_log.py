"""Log lines are JSON, or readable with `--dev`; a line that cannot be written never stops the program."""

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from relay import log, redaction
from relay.redaction import REDACTED


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], level = before
    log._shows_deliveries = False
    root.setLevel(level)
    logging.getLogger("apscheduler").setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    structlog.reset_defaults()


CONTROLS = (
    *("\x00", "\x07", "\x08", "\x1b", "\x7f", "\x85", "\x9b", "\x9d", "\u200f", "\u2028", "\u202e", "\u2066"),
    "\ufeff",
)
SENT = {"sink": "http://127.0.0.1/", "type": "ai.revor.job.failed", "job": "7d9f"}


@pytest.mark.usefixtures("logging_restored")
class TestConfigure:
    def test_lines_are_json(self) -> None:
        out = io.StringIO()
        log.configure(dev=False, stream=out)
        structlog.get_logger().info("look", job="job_1", api_key="hidden", at=1.5)
        structlog.get_logger().debug("not at this level")
        line = json.loads(out.getvalue())
        assert line["event"] == "look"
        assert line["level"] == "info"
        assert line["timestamp"].endswith("Z")
        assert (line["job"], line["api_key"], line["at"]) == ("job_1", REDACTED, 1.5)

    def test_text_that_orjson_refuses_is_logged(self) -> None:
        out = io.StringIO()
        log.configure(dev=False, stream=out)
        structlog.get_logger().info("odd \ud800", big=1 << 80, thing=object(), nan=float("nan"), key={1: 2})
        line = json.loads(out.getvalue())
        assert line["event"] == "odd \\ud800"
        assert line["big"] == str(1 << 80)

    @pytest.mark.parametrize("dev", [True, False])
    def test_nothing_in_a_line_controls_a_terminal(self, dev: bool) -> None:
        """From a sink, an upstream, a token's name: in values, keys, events, tracebacks and libraries' lines."""
        out = io.StringIO()
        log.configure(dev=dev, stream=out)
        for one in CONTROLS:
            odd = f"a{one}[2J"
            structlog.get_logger().info(odd, **{odd: odd}, error=odd, headers=[("X", odd)], deep={odd: [odd.encode()]})
            logging.getLogger(odd).warning("%s", odd)
            try:
                raise ValueError(odd)
            except ValueError:
                structlog.get_logger().exception(odd)
        text = out.getvalue()
        assert not set(text) & set(CONTROLS)
        assert all(one.isprintable() or one == "\n" for one in text)
        assert "a\\x1b[2J" in text.replace("\\\\", "\\"), "it can still be read"

    @pytest.mark.parametrize("dev", [True, False])
    def test_value_cannot_add_a_line(self, dev: bool) -> None:
        out = io.StringIO()
        log.configure(dev=dev, stream=out)
        for end in ("\n", "\r", "\u2028", "\x85", "\x0b"):
            structlog.get_logger().info(f"first{end}12:00:00 [info] forged", error=f"x{end}y", plain=f"x{end}y")
        assert len(out.getvalue().splitlines()) == 5

    @pytest.mark.parametrize("dev", [True, False])
    def test_urls_show_neither_path_nor_query(self, dev: bool) -> None:
        """Any receiver may use them as a credential, not only the known hooks."""
        out = io.StringIO()
        log.configure(dev=dev, stream=out)
        url = "https://receiver.example:8443/in/hidden/?a=hidden"
        structlog.get_logger().info(
            f"to {url}", sink=url, error=f"POST {url}: 404", deep={"a": [url]}, quoted=f'"{url}"'
        )
        logging.getLogger("asyncio").warning("unclosed %s", "HTTPS://receiver.example?hidden=1")
        try:
            raise ValueError(f"cannot send to {url}")
        except ValueError:
            structlog.get_logger().exception("failed")
        text = out.getvalue()
        assert "hidden" not in text
        assert "https://receiver.example:8443/…" in text

    @pytest.mark.parametrize("dev", [True, False])
    def test_libraries_and_tracebacks_are_redacted(self, dev: bool) -> None:
        out = io.StringIO()
        log.configure(dev=dev, stream=out)
        uvicorn = logging.getLogger("uvicorn.error")
        uvicorn.warning("%s - %s", "10.0.0.1", "GET /x?token=hidden")
        try:
            raise ValueError("postgresql://u:hidden@h/d for jane.hidden@example.com")
        except ValueError:
            uvicorn.exception("failed with Bearer hidden")
            structlog.get_logger().exception("failed too", sink="https://hooks.slack.com/hidden")
        structlog.get_logger().error("stack", stack_info=True)
        text = out.getvalue()
        assert "hidden" not in text
        assert text.count("ValueError") >= 2
        assert "test_libraries_and_tracebacks_are_redacted" in text
        if not dev:
            lines = [json.loads(line) for line in text.splitlines()]
            assert [line["level"] for line in lines] == ["warning", "error", "error", "error"]
            assert lines[0]["logger"] == "uvicorn.error"

    @pytest.mark.parametrize(
        ("event", "fields", "shown"),
        [
            (
                "transition",
                {"job": "7d9f", "previous": "queued", "kind": "running", "sequence": 2, "job_uid": "job_1"},
                "7d9f  queued → running",
            ),
            ("transition", {"job": "7d9f", "previous": None, "kind": "queued", "sequence": 1}, "7d9f  queued"),
            (
                "attempt",
                {**SENT, "state": "delivered", "status_code": 204},
                "7d9f  failed: 204 from http://127.0.0.1/",
            ),
            (
                "attempt",
                {**SENT, "state": "pending", "error": "timeout"},
                "7d9f  failed: not delivered to http://127.0.0.1/",
            ),
            (
                "attempt",
                {**SENT, "job": None, "type": "com.acme.paid", "state": "pending", "error": "timeout"},
                " com.acme.paid: not delivered to http://127.0.0.1/",
            ),
        ],
    )
    def test_dev_logs_transitions_and_deliveries_as_sentences_with_local_times(
        self, event: str, fields: dict[str, object], shown: str
    ) -> None:
        out = io.StringIO()
        log.configure(dev=True, stream=out)
        structlog.get_logger().info(event, **fields)
        line = out.getvalue()
        assert re.match(r"\d\d:\d\d:\d\d ", line)
        assert shown in line
        assert "job_1" not in line

    @pytest.mark.parametrize(
        ("dev", "level", "expected"), [(True, "info", True), (False, "info", False), (False, "debug", True)]
    )
    def test_successful_deliveries_are_logged_only_with_dev_or_debug(
        self, dev: bool, level: str, expected: bool
    ) -> None:
        log.configure(dev=dev, level=level, stream=io.StringIO())
        assert log.shows_deliveries() is expected

    def test_a_long_traceback_keeps_its_end(self) -> None:
        def deeper(level: int) -> None:
            if level == 0:
                raise KeyError("the beginning")
            try:
                deeper(level - 1)
            except KeyError as error:
                raise KeyError(f"the reason {level}") from error

        out = io.StringIO()
        log.configure(dev=False, stream=out)
        try:
            deeper(40)
        except KeyError:
            structlog.get_logger().exception("failed")
        shown = json.loads(out.getvalue())["exception"]
        assert len(shown) <= redaction.MAX_TEXT_CHARS
        assert shown.startswith("…[truncated]")
        assert "the reason 40" in shown

    def test_failing_stream_leaks_nothing_elsewhere(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = io.StringIO()
        log.configure(dev=False, stream=out)
        out.close()
        logging.getLogger("x").warning("a password=hidden")
        logging.getLogger("x").warning("%d", "token=hidden")
        assert capsys.readouterr() == ("", "")

    def test_levels(self) -> None:
        out = io.StringIO()
        log.configure(dev=False, level="ERROR", stream=out)
        structlog.get_logger().warning("a")
        logging.getLogger("a").warning("b")
        assert out.getvalue() == ""
        with pytest.raises(ValueError, match="'loud' is not a log level"):
            log.configure(dev=False, level="loud")


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize("dev", [False, True])
@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "no space left on device"), ValueError("closed")])
def test_unwritable_line_is_dropped(dev: bool, error: Exception) -> None:
    """Else a full disk, or a reader that has gone, would end the delivery that is logged about."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise error

        def flush(self) -> None:
            raise error

    log.configure(dev=dev, stream=Broken())
    structlog.get_logger("relay.test").error("said", text="\ud83d")
