"""The stand-in of Slack's Web API (`relay/cli/demo/vendors/slack_web.py`) for tests: slack_sdk's models must accept its
blocks too, it can be told to fail, and it can be a sink for the dispatcher."""

from slack_sdk.models.blocks import Block
from starlette.applications import Starlette
from starlette.routing import Route

from relay.cli.demo.vendors import slack_web
from relay.cli.demo.vendors.slack_web import POST, TOKEN, UPDATE, Fault, Post
from relay.core.delivery import OutboundRequest, Response

__all__ = ["POST", "TOKEN", "UPDATE", "Fault", "Post", "SlackWeb"]


class SlackWeb(slack_web.SlackWeb):
    """One workspace."""

    def fail(self, method: str, *faults: Fault) -> None:
        """Gives these answers to the next calls of a method."""
        self.faults.setdefault(method, []).extend(faults)

    def delete(self, post: Post) -> None:
        """Somebody deletes a message; its thread goes with it."""
        for posts in self.posts.values():
            posts[:] = [one for one in posts if one is not post]

    def app(self) -> Starlette:
        """The workspace over HTTP."""
        return Starlette(routes=[Route("/api/{method}", self.receive, methods=["POST"])])

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        """The workspace as a transport."""
        assert request.method == "POST"
        assert timeout_seconds > 0
        status, headers, body = self.answer(request.url, dict(request.headers), request.body)
        if not status:
            return Response(started_at=0.0, duration_ms=1.0, error="read", detail="the connection broke")
        return Response(
            started_at=0.0, duration_ms=1.0, status_code=status, headers=tuple(headers.items()), excerpt=body
        )

    def problem_of_blocks(self, blocks: object) -> str | None:
        problem = super().problem_of_blocks(blocks)
        if problem is not None:
            return problem
        assert isinstance(blocks, list)
        for sent in blocks:
            try:
                (block,) = Block.parse_all([sent])
                if block is None or block.to_dict().keys() != sent.keys():
                    return "invalid_blocks"
                block.validate_json()
            except Exception:
                return "invalid_blocks"
        return None
