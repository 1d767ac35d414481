"""The shell blocks of the pages that speak of servers and of training, run as they stand and in order.

What a page can't know is replaced: the host of a Redis, folders of a share or of the system, addresses, ports, the
name of a job. A command that stays in the foreground goes to the background once it is ready. Trainings get the
smallest recipe, and the least trials and folds that the command takes: what they come to is for other tests.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import trustme

from tests.broker.test_tls import TlsProxy
from tests.canaries import secret
from tests.conftest import LABELS, RedisServer, free_port, running_redis, write_images
from tests.e2e.test_access import ACL
from tests.e2e.test_label import rows_of
from tests.e2e.test_pages import all_blocks_of, kitchen, write_photo
from tests.e2e.test_readme import run_block
from tests.e2e.test_remote import KEYS, s3
from tests.e2e.test_train import trainer
from tests.web import serving

__all__ = ["kitchen", "s3"]  # fixtures
pytestmark = pytest.mark.long

# Blocks that begin so are not run here, and why.
NOT_HERE = {
    "sortline models import mobilenetv2": "tests/e2e/test_waste.py does, with weights",
    "sortline models import efficientnet": "tests/unit/test_efficientnet_lite.py does, with weights",
    "export SORTLINE_BROKER='sentinel": "tests/broker/test_sentinel.py labels behind Sentinels",
    "cd $(python -c": "it removes files of this environment; engines and training were tried without them",
    "cp configs/compose.env.example": "no container engine; tests/compose starts the services as processes",
    "docker compose run": "the same; tests/compose holds its commands to what `sortline` takes",
}
PAGES = ("training", "tuning", "monitor", "deploy", "remote", "configuration")
STAYING = re.compile(r"^((?:[A-Z_]+=\S+ )?sortline (?:worker(?!.*--check)|monitor)\b.*)$", re.MULTILINE)
SMALL = {
    "SORTLINE_TRAINING__EPOCHS": "1",
    "SORTLINE_TRAINING__HEIGHT_PX": "16",
    "SORTLINE_TRAINING__WIDTH_PX": "16",
    "SORTLINE_TRAINING__BATCH_SIZE": "4",
    "SORTLINE_TRAINING__WARMUP_STEPS": "0",
}
READY = (
    r"rm -f staying.log; \1 > staying.log 2>&1 & for try in $(seq 600); do grep -qs 'Visit me at\|ready\.' staying.log"
    " && break; sleep 0.1;"
    " done; cat staying.log; grep -q 'Visit me at\\|ready\\.' staying.log"
)


def blocks_of(page: str) -> list[str]:
    """The blocks to run here."""
    return [block for block in all_blocks_of(page) if not block.startswith(tuple(NOT_HERE))]


def run_page(page: str, folder: Path, replaced: Mapping[str, str], env: Mapping[str, str]) -> list[str]:
    """Run the blocks of a page; return what each said."""
    return [run_block(STAYING.sub(READY, block), folder, replaced, env) for block in blocks_of(page)]


@pytest.fixture
def folder(tmp_path: Path, kitchen: Path) -> Path:
    """Where the commands run: photos by class, and a home with three versions of the pages' model."""
    for number in range(16):
        write_photo(tmp_path / "work" / "photos" / LABELS[number % 2] / f"{number:02}.jpg", number)
    (tmp_path / "work" / "waste").symlink_to("photos")
    shutil.copytree(kitchen, tmp_path / "work" / "home" / "store")
    return tmp_path / "work"


def test_every_block_of_these_pages_is_run_or_named() -> None:
    skipped = [block for page in PAGES for block in all_blocks_of(page) if block.startswith(tuple(NOT_HERE))]

    assert [start for start in NOT_HERE if not any(block.startswith(start) for block in skipped)] == []
    assert [len(blocks_of(page)) for page in PAGES] == [3, 1, 7, 4, 2, 1]


def test_the_blocks_of_the_pages_about_training_run(folder: Path, open_redis_server: RedisServer) -> None:
    home = folder / "home"
    env = {"SORTLINE_BROKER": open_redis_server.url, "SORTLINE_DATA_ROOT": "/", **SMALL}
    replaced = {
        "--config waste26": "--config digits",
        "train photos/ --name": "train photos/ --config digits --name",
        "-o audit.csv": "-o audit.csv --config digits --folds 2",
        "--folds 5": "--folds 2",
        "augmentation.repeat=0,4,8": "augmentation.flip=true",
        "--trials 20": "--trials 1",
        " --data-root /mnt/photos": " > job.txt",
        "--broker redis://queue:6379/0": f"--broker {open_redis_server.url}",
        "train-kitchen-20260301-1a2b3c": "$(cat job.txt)",
        "sortline jobs cancel": "! sortline jobs cancel",  # it is over by then
    }

    with trainer(open_redis_server, home):
        first, audited, job = run_page("training", folder, replaced, env)
        (search,) = run_page("tuning", folder, replaced, env)

    assert "published kitchen:4" in first
    assert "of 16 labels look wrong" in audited
    assert "published kitchen:5" in job
    assert "published" in search
    assert "of 16 images in 2 folds by family" in search


def test_the_blocks_of_the_monitoring_page_run(folder: Path, redis_server: RedisServer) -> None:
    env = {"SORTLINE_DATA_ROOT": "/", "SORTLINE_BROKER": redis_server.url}
    port, metrics = free_port(), free_port()
    replaced = {
        "redis://queue:6379/0": redis_server.url,
        "me:PASSWORD": f"me:{secret('flower')}",
        "10.0.0.7 --port 5555": f"127.0.0.2 --port {port}",
        "9808": str(metrics),
        "/mnt/photos": str(folder),
        "/mnt/models": str(folder / "home" / "store"),
    }
    (folder / "home" / "flower-password").touch(0o600)
    (folder / "home" / "flower-password").write_text(secret("flower"))

    plain, changing, elsewhere, options, measured, watched, collected = run_page("monitor", folder, replaced, env)

    assert "Flower at http://127.0.0.1:" in plain
    assert "Flower at http://127.0.0.1:" in changing + options
    assert f"http://127.0.0.2:{port}" in elsewhere
    assert str(metrics) in measured
    assert watched == "ok   0 chunks are queued, 0 are with workers\n"
    assert '"event": ' in collected


def test_the_blocks_of_the_deployment_page_run(folder: Path, tmp_path: Path) -> None:
    authority, etc = trustme.CA(), tmp_path / "etc"
    etc.mkdir()
    authority.cert_pem.write_to_path(etc / "redis-ca.pem")
    acl, *others = blocks_of("deploy")
    env = {"REDIS_PASSWORD": secret("sortline")}
    run_block(acl, folder, {"configs/redis-users.acl": str(ACL), "/etc/redis/": f"{etc}/"}, env)

    with running_redis(tmp_path / "redis", "", "--aclfile", str(etc / "users.acl")) as server, ExitStack() as stack:
        proxy = stack.enter_context(closing(TlsProxy(authority.issue_cert("localhost"), server.port)))
        replaced = {
            "PASSWORD@queue:6380": f"{secret('sortline')}@localhost:{proxy.port}",
            "/etc/ssl/": f"{etc}/",
            "/mnt/photos": str(folder),
            "/mnt/models": str(folder / "home" / "store"),
        }
        doctor = run_block(others[0], folder, replaced, env)
        env |= {
            "SORTLINE_BROKER": f"rediss://sortline:{secret('sortline')}@localhost:{proxy.port}/0",
            "SORTLINE_BROKER_CA": str(etc / "redis-ca.pem"),
        }
        workers = run_block(STAYING.sub(READY, others[1]), folder, replaced, env)
        named = "sortline worker --queues label --name label --data-root ."
        check = run_block(f"{STAYING.sub(READY, named)}\n{others[2]}", folder, replaced, env)

    assert f"ok   broker rediss://sortline:***@localhost:{proxy.port}/0" in doctor
    assert workers.count("ready.") >= 2
    assert len(others) == 3, check


def test_the_blocks_of_the_page_on_remote_images_run(
    folder: Path, s3: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    import s3fs

    write_images(tmp_path / "web" / "2026", 4)
    store = s3fs.S3FileSystem(
        key=KEYS["AWS_ACCESS_KEY_ID"], secret=KEYS["AWS_SECRET_ACCESS_KEY"], endpoint_url=s3, use_listings_cache=False
    )
    store.mkdir("bucket")
    for path in write_images(tmp_path / "away", 4):
        for name in ("one.jpg", path.name, f"monday/{path.name}"):
            store.pipe_file(f"bucket/photos/{name}", path.read_bytes())
    (folder / "urls.txt").write_text("s3://bucket/photos/00001.png\ns3://bucket/photos/one.jpg\n")
    with serving(tmp_path / "web") as web:
        replaced = {
            'pip install ".[remote]"': "python -c 'import s3fs'",
            "https://images.example.org": web.url,
            "redis://queue:6379/0": redis_server.url,
        }
        alone, shared = run_page("remote", folder, replaced, {**KEYS, "AWS_ENDPOINT_URL_S3": s3})

    assert "9 images: 9 labelled, 0 failed" in alone
    assert [row["status"] for row in rows_of(folder / "one.csv")] == ["ok"]
    assert [row["status"] for row in rows_of(folder / "listed.csv")] == ["ok"] * 2
    assert "4 images: 4 labelled, 0 failed" in shared
    assert "ok   data root s3://bucket" in shared


def test_the_block_of_the_configuration_page_runs(folder: Path) -> None:
    (said,) = run_page(
        "configuration", folder, {"--config waste26 --set ridge=0.3": "--config digits --set epochs=1"}, SMALL
    )

    assert "published digits:1" in said
