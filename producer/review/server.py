"""The review page's server: 127.0.0.1, a port of its own, for whoever has the link. Who that is, `guard` decides."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from base.errors import ImageError
from base.process import available_cpus
from pages import asset, template
from producer.errors import ProducerError, UsageError
from producer.review.corrections import Conflict
from producer.review.guard import ADDRESS, COOKIE, Guard
from producer.review.retraining import Retraining
from producer.review.session import Session, ViewGone
from producer.review.views import Query

MOST_A_PAGE = 500
SCRIPTS = ("review.js", "review-grid.js", "review-labels.js", "review-server.js")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
KEPT = {"Cache-Control": "private, max-age=3600"}  # of pictures, whose address changes with the server
# The browser goes on by itself: a redirect would count as part of the other site that the link may stand on.
ENTRY = (  # an icon, or browsers ask for one that they are refused
    '<!DOCTYPE html><html lang="en"><title>Review</title><link rel="icon" href="data:,">'
    '<meta http-equiv="refresh" content="0; url=/{}/">'
)


def listen() -> socket.socket:
    """Return a socket on a free port of this machine's own address."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind((ADDRESS, 0))
    listening.listen()  # whoever opens the link before the server is up waits
    return listening


def make_server(session: Session, guard: Guard) -> uvicorn.Server:
    """Return the server; its ``run(sockets=[listen()])`` answers until the process is interrupted."""
    config = uvicorn.Config(
        make_app(session, guard), log_level="warning", access_log=False, server_header=False, lifespan="off",
        ws="none", http="h11", timeout_graceful_shutdown=2,
    )  # fmt: skip
    return uvicorn.Server(config)


def make_app(session: Session, guard: Guard) -> Starlette:
    """Return the server as an ASGI application."""
    routes = _Routes(session, guard)
    return Starlette(
        routes=[Route("/", routes.enter), Mount(f"/{guard.path}", routes=routes.all())],
        middleware=[Middleware(_Guarded, guard=guard)],
    )


class _Guarded:
    """Asks `Guard` before anything is answered, and puts the same headers on every answer."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        headers, peer = dict(request.headers), scope.get("client")
        check = partial(self._guard.stranger, headers, peer)
        if scope["path"] != "/":
            check = partial(self._guard.refusal, scope["method"], headers, request.cookies.get(COOKIE, ""), peer)
        refusal = check()

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] += [
                    (name.lower().encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.lower().encode() not in given
                ]
            await send(message)

        answer = PlainTextResponse(refusal, 403) if refusal else self._app
        await answer(scope, receive, with_headers)


class _Routes:
    """One method an address."""

    def __init__(self, session: Session, guard: Guard) -> None:
        self._session, self._guard = session, guard
        # Decoding takes all cores; what is decided must not wait behind it.
        self._decoding = ThreadPoolExecutor(available_cpus(), thread_name_prefix="picture")
        self._answering = ThreadPoolExecutor(1, thread_name_prefix="answer")

    def all(self) -> list[Route]:
        posts = {"decide": self._decide, "undo": self._undo, "redo": self._redo, "near": self._near}
        posts["reload"] = lambda body: self._session.reload()
        posts["train"] = lambda body: self._retraining().start()
        gets = {"state": self._state, "view": self._view, "page": self._page, "news": self._news}
        gets["training"] = lambda given: self._retraining().state()
        return [
            Route("/", self._html),
            Route("/scripts/{name}", self._script),
            Route("/small/{number:int}", self._small),
            Route("/large/{number:int}", self._large),
            *(Route(f"/{name}", self._get(call)) for name, call in gets.items()),
            *(Route(f"/{name}", self._post(call), methods=["POST"]) for name, call in posts.items()),
        ]

    async def enter(self, request: Request) -> Response:
        """Give a cookie for the link's token."""
        if not self._guard.take_link(request.query_params.get("token", "")):
            why = "This link has been used, or is of another server. If it was not you: end `sortline review`."
            return PlainTextResponse(f"{why}\nThe page that it opened goes on in the browser that opened it.", 403)
        return HTMLResponse(ENTRY.format(self._guard.path), headers={"Set-Cookie": self._guard.cookie})

    async def _html(self, request: Request) -> Response:
        title = self._session.state()["title"]
        page = template("review.html").render(title=f"Review of {title}", subtitle="", token=self._guard.token)
        return HTMLResponse(page)

    async def _script(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in SCRIPTS:
            return PlainTextResponse("no such script", 404)
        return Response(asset(name), media_type="text/javascript")

    async def _small(self, request: Request) -> Response:
        return await self._picture(lambda index: self._session.pictures.small(index).webp, request)

    async def _large(self, request: Request) -> Response:
        return await self._picture(self._session.pictures.large, request)

    async def _picture(self, make: Callable[[int], bytes], request: Request) -> Response:
        try:
            data = await self._in(self._decoding, partial(make, self._session.index(request.path_params["number"])))
        except ImageError as error:
            return PlainTextResponse(error.detail, 404)
        except UsageError as error:
            return PlainTextResponse(str(error), 404)
        return Response(data, media_type="image/webp", headers=KEPT)

    def _get(self, call: Callable[[dict[str, str]], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await self._answer(partial(call, dict(request.query_params)))

        return answer

    def _post(self, call: Callable[[dict[str, Any]], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            body = await request.body()

            def work() -> Any:
                return call(_object(body))

            return await self._answer(work)

        return answer

    async def _answer(self, work: Callable[[], Any]) -> Response:
        """Return what ``work`` returns as JSON, or the sentence of what went wrong."""
        try:
            return JSONResponse(await self._in(self._answering, work))
        except Conflict as error:
            return JSONResponse({"error": str(error), "conflict": True}, 409)
        except ViewGone as error:
            return JSONResponse({"error": str(error)}, 410)
        except UsageError as error:
            return JSONResponse({"error": str(error)}, 400)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return JSONResponse({"error": f"not a request of this page: {error}"}, 400)
        except (ProducerError, OSError) as error:
            return JSONResponse({"error": str(error)}, 500)

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def _retraining(self) -> Retraining:
        if self._session.retraining is None:
            raise UsageError("no training is started from here")
        return self._session.retraining

    def _state(self, given: dict[str, str]) -> Any:
        return self._session.state()

    def _view(self, given: dict[str, str]) -> Any:
        return self._session.open_view(Query(**given))

    def _page(self, given: dict[str, str]) -> Any:
        return self._session.page(given["key"], int(given["start"]), min(int(given["count"]), MOST_A_PAGE))

    def _news(self, given: dict[str, str]) -> Any:
        return self._session.news(int(given["known"]))

    def _decide(self, body: dict[str, Any]) -> Any:
        indexes = [int(index) for index in body["images"]]
        return self._session.decide(indexes, str(body["verdict"]), str(body.get("label", "")), int(body["known"]))

    def _undo(self, body: dict[str, Any]) -> Any:
        return self._session.undo(int(body["known"]), str(body.get("view", "")))

    def _redo(self, body: dict[str, Any]) -> Any:
        return self._session.redo(int(body["known"]), str(body.get("view", "")))

    def _near(self, body: dict[str, Any]) -> Any:
        return self._session.near([int(index) for index in body["images"]])


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except RecursionError as error:
        raise ValueError("JSON of too many levels") from error
    if not isinstance(found, dict):
        raise TypeError("no JSON object")
    return found
