"""One process that serves: takes its address, says what it runs on, and runs until it is told to end."""

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import uvicorn

from aggregator.app import Role, Service
from aggregator.errors import SettingsError
from aggregator.settings import PREFIX, Settings

STOP_SECONDS = 5  # for open responses, live streams above all, when the service ends


@contextmanager
def serving(settings: Settings, role: Role = "all") -> Iterator[tuple[Service, socket.socket]]:
    """A service that is announced, and the address that it is to answer on. Raises SettingsError and StoreError."""
    # What the driver logs is raised as well, and then said by us.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    with listening(settings) as listener, Service(settings, role) as service:
        announce(service, listener)
        yield service, listener


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def announce(service: Service, listener: socket.socket) -> None:
    """The page's address, the store's URL and the Redis URL, one a line: for people, and for scripts to read.

    A consumer has no page: only its metrics, and whether it is well.
    """
    where = address(listener)
    for name, value in (
        ("metrics", f"{where}metrics") if service.role == "consumer" else ("page", where),
        ("store", service.shown_store_url),
        ("redis", service.shown_redis_url),
    ):
        print(f"{name}\t{value}", flush=True)
    if not service.settings.secret:
        print("access\tno AGGREGATOR_SECRET: answering on loopback only, everybody there is an operator", flush=True)


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The address is taken first: a port in use must be said before a store is opened."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen()  # whoever follows the printed address at once waits instead of being refused
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {settings.host} port {settings.port} ({error.strerror}): "
                f"set {PREFIX}PORT or --port to another, or 0 for any free one"
            ) from error
        yield listener


def run(service: Service, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; the caller's context managers then end everything in order."""
    configuration = uvicorn.Config(
        service.app, log_level="warning", access_log=False, timeout_graceful_shutdown=STOP_SECONDS, lifespan="off"
    )
    # uvicorn raises the signal again once it has stopped: then it must unwind us, not end the process on the spot.
    signal.signal(signal.SIGTERM, _unwind)
    uvicorn.Server(configuration).run(sockets=[listener])


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
