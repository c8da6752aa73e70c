"""``demo``: a server, and hundreds of clients in a second process that check its answers."""

from __future__ import annotations

import argparse
import queue
import signal
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

from iocpcore import Connection, LengthPrefixed, Server
from iocpcore._bench.processes import (
    ANSWER_LIMIT,
    CONNECT_LIMIT,
    PATIENCE,
    Child,
    need_descriptors,
)
from iocpcore._cli import arguments
from iocpcore._cli.display import Display, Figures, display
from iocpcore._cli.serving import description, open_server
from iocpcore._signals import NUMBERS

DEPTH = 4  # messages that each client has in flight
SIZE = 64  # bytes of a message
TICK = 0.1  # seconds within which Ctrl-C is noticed
STOP_LIMIT = 1.0


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="a server and hundreds of clients, with live figures; ends by itself",
        description="A server, and in a second process hundreds of clients that send it messages "
        "and check every answer. Ends by itself; the exit code is 1 if one was lost or wrong.",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--seconds", type=arguments.seconds, default=5.0, help="how long (%(default)g)"
    )
    parser.add_argument(
        "--connections", type=arguments.whole(1, 50000), default=400, help="clients (%(default)s)"
    )
    arguments.add_server(parser)


def on_message(conn: Connection, message: bytes) -> None:
    conn.send_message(message.upper())


def run(options: argparse.Namespace) -> int:
    """Run the demo. Returns the exit code."""
    need_descriptors(options.connections)
    request = Request()
    server = open_server(
        "127.0.0.1",
        0,
        on_message=on_message,
        framing=LengthPrefixed(4),
        workers=options.workers,
        backend=options.backend,
    )
    demo = Demo(server, options, request)
    try:
        server.start()
        demo.run()
    finally:
        server.stop(STOP_LIMIT)
    return demo.sum_up()


class Request:
    """A request to end early: Ctrl-C, SIGTERM or, on Windows, Ctrl-Break.

    A second one raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.made = False
        for number in NUMBERS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.made:
            raise KeyboardInterrupt
        self.made = True


@dataclass
class Demo:
    server: Server
    options: argparse.Namespace
    request: Request
    end: dict[str, Any] | None = None  # the last event of the load
    connected: dict[str, Any] | None = None
    cpu: float = 0.0  # seconds of this process, while there was load

    def run(self) -> None:
        options = self.options
        print(description(self.server, options.workers))
        print(
            f"{options.connections} clients in a second process, each with {DEPTH} messages of "
            f"{SIZE} bytes under way, for {options.seconds:g} s; Ctrl-C ends it",
            flush=True,
        )
        host, port = self.server.addresses[0]
        environment = {"IOCPCORE_BACKEND": options.backend} if options.backend else {}
        with display(options.seconds) as shown:
            with Child(
                "iocpcore._bench.load",
                *(host, port, "--answer", "upper", "--depth", DEPTH, "--size", SIZE),
                *("--connections", options.connections, "--seconds", options.seconds),
                *("--interval", shown.interval),
                **environment,
            ) as child:
                self._follow(child, shown)

    def _follow(self, child: Child, shown: Display) -> None:
        """Show what the load reports, until it ends."""
        limit = CONNECT_LIMIT + self.options.seconds + ANSWER_LIMIT + PATIENCE
        deadline = time.monotonic() + limit
        asked = False
        cpu = time.process_time()
        previous: dict[str, Any] = {"answered": 0, "seconds": 0.0}
        while self.end is None:
            if self.request.made and not asked:
                asked = True
                child.end()
                deadline = time.monotonic() + ANSWER_LIMIT + PATIENCE
            if time.monotonic() > deadline:
                raise RuntimeError("the second process does not come to an end")
            try:
                event = child.event(TICK)
            except queue.Empty:
                continue
            self.cpu = time.process_time() - cpu
            if event["event"] == "connected":
                self.connected = event
                cpu = time.process_time()
            elif event["event"] == "progress":
                shown.show(self._figures(event, previous))
                previous = event
            else:
                self.end = event

    def _figures(self, event: dict[str, Any], previous: dict[str, Any]) -> Figures:
        seconds = event["seconds"] - previous["seconds"]
        return Figures(
            seconds=event["seconds"],
            connections=self.server.stats()["connections"],
            rate=(event["answered"] - previous["answered"]) / max(seconds, 1e-9),
            answered=event["answered"],
            p50=event["p50"],
            p99=event["p99"],
            cpu=self.cpu / max(event["seconds"], 1e-9),
            wrong=event["wrong"] + event["broken"],
        )

    def sum_up(self) -> int:
        """Print the result. Returns the exit code."""
        connected, end = self.connected, self.end
        assert connected is not None
        assert end is not None
        if self.request.made:
            print("ended by a signal")
        served = self.server.stats()["messages"]
        answered: int = end["answered"]
        bad = {
            "connections refused": connected["failed"],
            "connections lost": end["broken"],
            "answers lost": end["lost"],
            "answers wrong": end["wrong"],
            "messages that the server did not see": end["sent"] - served,
        }
        ok = answered > 0 and not any(bad.values())
        print(
            f"{connected['connected']} connections in {connected['seconds']:.2f} s; then "
            f"{answered:,} messages in {end['seconds']:.1f} s, "
            f"{answered / max(end['seconds'], 1e-9):,.0f} a second"
        )
        if end["p50"] is not None:
            print(
                f"from question to answer: {end['p50']:.1f} ms for half of them, "
                f"{end['p99']:.1f} ms for 99 %, {end['longest']:.1f} ms at most"
            )
            print(f"CPU of the server's process: {self.cpu / answered * 1e6:.1f} us a message")
        if ok:
            print("ok: every message was answered once, in order, and correctly", flush=True)
            return 0
        found = ", ".join(f"{what}: {count}" for what, count in bad.items() if count)
        print(f"FAILED: {found or 'nothing was answered'}", flush=True)
        return 1
