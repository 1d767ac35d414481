"""What messages carry of the input paths of a run."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from base.paths import below_root, path_to_text, text_to_path
from producer.run.enqueue import BelowRoot
from tests.unit.test_run_file import plan

PARTS = st.sampled_from(["a", "b", "c", "x y", "..", ".", "", "caf%E9", "100%25"])
PATHS = st.tuples(st.sampled_from(["", "/", "//"]), st.lists(PARTS, min_size=1, max_size=5)).map(
    lambda found: found[0] + "/".join(found[1])
)
ROOTS = st.sampled_from(
    [("/a/b", "/"), ("/a/b", "/a"), ("/a", "/a/b"), ("/a/b", "/a/b"), ("/a", "/a/b/c"), ("/", "/c")]
)


@given(st.lists(PATHS.filter(bool), min_size=1, max_size=20), ROOTS)
def test_a_listed_path_is_the_same_below_the_root_whether_its_folder_was_seen_before(
    paths: list[str], places: tuple[str, str]
) -> None:
    base, root = places
    below = BelowRoot(replace(plan(), walked=False, base=base, data_root=root))

    assert [below.text(path) for path in paths] == [
        path_to_text(below_root(text_to_path(path), base, root)) for path in paths
    ]


def test_the_paths_of_a_walked_folder_begin_with_it() -> None:
    assert BelowRoot(plan()).text("2026/a.jpg") == "inbox/2026/a.jpg"
    assert BelowRoot(replace(plan(), base="/data")).text("2026/a.jpg") == "2026/a.jpg"
