"""Callbacks that many tests use."""

from __future__ import annotations

from iocpcore import Connection


def echo(conn: Connection, data: bytes) -> None:
    """on_data: sends the data back."""
    conn.send(data)


def ignore(conn: Connection, data: bytes) -> None:
    """on_data or on_message of a side that only sends."""
