"""One post, and one get: a completion without any system call of its own."""

from __future__ import annotations

from benchmarks.inside.driving import BATCH, Loop, group

pytestmark = group("posts")


def test_post_get(port, measure):
    def post_get():
        for number in range(BATCH):
            port.post(number)
            port.get()

    measure(post_get)


def test_post_get_many(port, measure):
    def post_get():
        for number in range(BATCH):
            port.post(number)
        port.get_many(BATCH)

    measure(post_get)


def test_post_to_a_callback(port, measure):
    loop = Loop(port)

    def post_run():
        for number in range(BATCH):
            port.post(number, callback=loop.one)
        loop.run(BATCH)

    measure(post_run)
