"""Several threads in run(): who gets what, and what a blocked callback costs."""

from __future__ import annotations

import threading
import time

import pytest
from support.system import FREE_THREADED, LIMIT, SLOWNESS, WINDOWS, scaled, wait_until

pytestmark = pytest.mark.system

needs_free_threading = pytest.mark.skipif(
    not FREE_THREADED, reason="with the GIL a callback that computes holds the interpreter"
)


def test_everything_is_served_once(port, workers):
    count = scaled(20_000)
    seen = []
    for number in range(count):
        port.timer(0, callback=lambda op, number=number: seen.append(number))
    with workers(port, 4):
        wait_until(lambda: len(seen) == count, "all callbacks")
    assert sorted(seen) == list(range(count))
    assert port.in_flight == 0


def test_no_more_than_concurrency_at_once(make_port, workers):
    """Callbacks that do not block long enough to be replaced."""
    if WINDOWS:
        pytest.skip("Wine lets any number of threads run")
    port = make_port(1)
    inside = 0
    most = 0
    lock = threading.Lock()
    done = threading.Semaphore(0)

    def callback(op) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        with lock:
            inside -= 1
        done.release()

    with workers(port, 4):
        for _ in range(200):
            port.timer(0, callback=callback)
        for _ in range(200):
            assert done.acquire(timeout=LIMIT)
    # A machine that stops a thread in the middle makes it look blocked.
    assert most <= 2


class Blocked:
    """Callbacks of which the first one blocks until all others have been called."""

    def __init__(self, others: int, block) -> None:
        self.others = others
        self.block = block
        self.lock = threading.Lock()
        self.begun = False
        self.served = 0
        self.released = threading.Event()
        self.in_time = False

    def __call__(self, op) -> None:
        with self.lock:
            first, self.begun = not self.begun, True
        if first:
            self.in_time = self.block(self.released)
            return
        with self.lock:
            self.served += 1
            if self.served == self.others:
                self.released.set()


def sleep_long(released: threading.Event) -> bool:
    """As good as time.sleep(), and it tells whether the others were served meanwhile."""
    return released.wait(LIMIT)


def compute(released: threading.Event) -> bool:
    deadline = time.monotonic() + LIMIT
    while not released.is_set():
        if time.monotonic() > deadline:
            return False
        sum(range(1000))
    return True


def start_receives(port, net, callback, count):
    """Receives on so many sockets, all of them with bytes waiting: one batch."""
    handles = []
    for _ in range(count):
        a, peer = net.pair()
        peer.send(b"x")
        handles.append(a)
    return [port.recv(a, 10, callback=callback) for a in handles]


def test_a_blocked_callback_holds_up_nobody(make_port, make_net, workers):
    """One of two workers is stuck; all that came in the same batch, and all that comes later, is
    served by the other."""
    port = make_port(1)
    net = make_net(port)
    blocked = Blocked(40, sleep_long)
    ops = start_receives(port, net, blocked, 21)
    with workers(port, 2):
        wait_until(lambda: blocked.begun, "the first callback")
        for _ in range(20):
            port.timer(0, callback=blocked)
        assert blocked.released.wait(LIMIT), f"{blocked.served} of 40 while one was blocked"
        wait_until(lambda: blocked.in_time, "the end of the blocked callback")
        wait_until(lambda: port.in_flight == 0, "the rest")
    assert all(op.done for op in ops)
    if port.backend != "iocp":
        assert port.stats()["handovers"] >= 1


def test_a_callback_that_sleeps(make_port, workers):
    """The same with time.sleep(1), as the promise says it: others are served within a fraction."""
    port = make_port(1)
    delays = []
    begun, ended = threading.Event(), threading.Event()

    def sleeper(op) -> None:
        begun.set()
        time.sleep(1)
        ended.set()

    with workers(port, 2):
        for _ in range(3):
            begun.clear()
            ended.clear()
            port.timer(0, callback=sleeper)
            assert begun.wait(LIMIT)
            for _ in range(5):
                served = threading.Event()
                start = time.monotonic()
                port.timer(0, callback=lambda op, served=served: served.set())
                assert served.wait(LIMIT)
                delays.append(time.monotonic() - start)
            assert ended.wait(LIMIT)
    # The bound is for each of them; a machine that is busy for a moment spoils one or two.
    assert sorted(delays)[len(delays) // 2] < 0.02 * (5 if SLOWNESS > 1 else 2)
    assert max(delays) < 0.9


def test_replies_of_the_batch_go_out(make_port, make_net, workers):
    """What callbacks of the same batch have sent before one blocks reaches its peers."""
    port = make_port(1)
    net = make_net(port)
    pairs = [net.pair() for _ in range(10)]
    for number, (_, peer) in enumerate(pairs):
        peer.send(b"%d" % number)
    release = threading.Event()
    answered = []

    def answer(op) -> None:
        port.send(op.handle, op.result())
        answered.append(op)
        if len(answered) == 5:
            release.wait(LIMIT)

    for a, _ in pairs:
        port.recv(a, 10, callback=answer)
    net.pumping = False
    with workers(port, 2):
        try:
            for number, (_, peer) in enumerate(pairs):
                assert peer.recv(1) == b"%d" % number
        finally:
            release.set()
        wait_until(lambda: port.in_flight == 0, "the rest")


@needs_free_threading
def test_a_computing_callback_holds_up_nobody(make_port, make_net, workers):
    iocp = WINDOWS  # its kernel counts a thread that computes as running
    port = make_port(2 if iocp else 1)
    net = make_net(port)
    blocked = Blocked(40, compute)
    start_receives(port, net, blocked, 21)
    with workers(port, 3 if iocp else 2):
        wait_until(lambda: blocked.begun, "the first callback")
        for _ in range(20):
            port.timer(0, callback=blocked)
        assert blocked.released.wait(LIMIT), f"{blocked.served} of 40 while one was blocked"
        wait_until(lambda: port.in_flight == 0 and blocked.in_time, "the rest")


def test_several_blocked_callbacks(make_port, workers):
    """As many as there are workers but one."""
    port = make_port(1)
    release = threading.Event()
    stuck = threading.Semaphore(0)

    def block(op) -> None:
        stuck.release()
        release.wait(LIMIT)

    with workers(port, 4):
        try:
            for _ in range(3):
                port.timer(0, callback=block)
            for _ in range(3):
                assert stuck.acquire(timeout=LIMIT)
            served = threading.Semaphore(0)
            for _ in range(50):
                port.timer(0, callback=lambda op: served.release())
            for _ in range(50):
                assert served.acquire(timeout=LIMIT)
        finally:
            release.set()


def test_all_workers_blocked_and_free_again(make_port, workers):
    """Nobody is left to take over; the work waits, and goes on when one comes back."""
    port = make_port(1)
    release = threading.Event()
    stuck = threading.Semaphore(0)
    served = threading.Semaphore(0)

    def block(op) -> None:
        stuck.release()
        release.wait(LIMIT)

    with workers(port, 2):
        for _ in range(2):
            port.timer(0, callback=block)
        for _ in range(2):
            assert stuck.acquire(timeout=LIMIT)
        for _ in range(50):
            port.timer(0, callback=lambda op: served.release())
        assert not served.acquire(timeout=0.05)
        release.set()
        for _ in range(50):
            assert served.acquire(timeout=LIMIT)


@pytest.mark.stress
def test_callbacks_that_block_at_random(make_port, workers):
    """Hand-over again and again, workers coming back in the middle: each callback once."""
    port = make_port(1)
    count = scaled(400, 40)
    seen = []

    def callback(op) -> None:
        if len(seen) % 10 == 0:
            time.sleep(0.005)
        seen.append(op)

    ops = [port.timer(0.0005 * number, callback=callback) for number in range(count)]
    with workers(port, 4):
        wait_until(lambda: len(seen) == count, "all callbacks")
    assert sorted(map(id, seen)) == sorted(map(id, ops))


def test_getters_beside_workers(port, workers):
    """Any of them may get any completion; together they get all."""
    count = scaled(2000, 100)
    called, got = [], []

    def get() -> None:
        while (op := port.get(LIMIT)).result() != "end":
            got.append(op)

    getters = [threading.Thread(target=get) for _ in range(2)]
    for thread in getters:
        thread.start()
    with workers(port, 2):
        ops = [port.timer(0, callback=called.append) for _ in range(count)]
        wait_until(lambda: len(called) + len(got) == count, "all completions")
    for _ in getters:
        port.post("end")
    for thread in getters:
        thread.join(LIMIT)
    assert sorted(map(id, called + got)) == sorted(map(id, ops))


def test_workers_come_and_go(port):
    """run() ended by SystemExit in one thread leaves the others at work."""
    seen, left = [], []
    threads = []

    def leave(op) -> None:
        raise SystemExit

    def work() -> None:
        try:
            port.run()
        except SystemExit:
            left.append(threading.current_thread())

    def start() -> None:
        threads.append(threading.Thread(target=work))
        threads[-1].start()

    start()
    for number in range(1, 11):
        start()
        wait_until(lambda: port.stats()["workers"] == 2, "two workers")
        port.timer(0, callback=leave)
        wait_until(lambda number=number: len(left) == number, "a worker to leave")
        port.timer(0, callback=seen.append)
        wait_until(lambda number=number: len(seen) == number, "a callback")
        assert port.stats()["workers"] == 1
    port.stop()
    for thread in threads:
        thread.join(LIMIT)
    assert len(left) == 10


def test_stats_count_the_workers(port, workers):
    with workers(port, 3):
        wait_until(lambda: port.stats()["workers"] == 3, "three workers")
    assert port.stats()["workers"] == 0


@pytest.mark.stress
def test_idle_workers_cost_nothing(port, workers):
    """Four workers with tiny callbacks use about as much processor time as one."""
    if SLOWNESS > 1:
        pytest.skip("processor time means nothing here")

    def measure(port, count: int) -> float:
        left = threading.Semaphore(0)
        total = 20_000
        remaining = iter(range(total))

        def callback(op) -> None:
            if next(remaining, None) is None:
                left.release()
            else:
                port.timer(0, callback=callback)

        with workers(port, count):
            begin = time.process_time()
            port.timer(0, callback=callback)
            assert left.acquire(timeout=LIMIT)
            return time.process_time() - begin

    import iocpcore

    ratios = []
    for _ in range(7):
        used = []
        for count in (1, 4):
            with iocpcore.CompletionPort(1, backend=port.backend) as fresh:
                used.append(measure(fresh, count))
        ratios.append(used[1] / used[0])
    # 10 % is the aim, and what benchmarks measure; here it is that nobody spins.
    assert sorted(ratios)[1] < 1.5, ratios
