"""A party's paths lead into its own folders only, and name a table by their endings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secretflow_task.contract.errors import MissingFile, PathNotAllowed
from secretflow_task.contract.paths import PathRules, check_format
from secretflow_task.data_loader.table import Table


class TestPathRules:
    """Where one party's paths may lead."""

    @pytest.fixture
    def rules(self, tmp_path: Path) -> PathRules:
        """Alice's rules; her folder, bob's, a shared one and a foreign one exist."""
        for name in ("data/alice/sub", "data/bob", "shared/sub", "elsewhere"):
            (tmp_path / name).mkdir(parents=True)
        return PathRules("alice", tmp_path / "data", (tmp_path / "shared",))

    def test_a_relative_path_starts_in_the_partys_own_folder(
        self, rules: PathRules, tmp_path: Path
    ) -> None:
        assert rules.resolve("sub/../x.csv", "input_data") == tmp_path / "data/alice/x.csv"

    def test_without_an_own_folder_a_relative_path_starts_in_the_data_root(
        self, tmp_path: Path
    ) -> None:
        rules = PathRules("carol", tmp_path)
        assert rules.resolve("x.csv", "input_data") == tmp_path / "x.csv"

    def test_an_absolute_path_may_lie_in_any_root(self, rules: PathRules, tmp_path: Path) -> None:
        for path in (
            "data/alice/x.csv",
            "data/alice/new/deep/x.csv",
            "shared/x.csv",
            "shared/sub/x.csv",
        ):
            assert rules.resolve(str(tmp_path / path), "input_data") == tmp_path / path

    @pytest.mark.parametrize(
        "path",
        [
            "../../elsewhere/x.csv",
            "../bob/bob.csv",
            "{tmp}/data/bob/bob.csv",
            "{tmp}/data/x.csv",
            "{tmp}/elsewhere/x.csv",
            "{tmp}/shared/../elsewhere/x.csv",
            "{tmp}/sharedx/x.csv",
            "/etc/passwd",
            "../alicex/x.csv",
            "a\0b.csv",
            "\0",
            "\ud800.csv",
        ],
    )
    def test_a_path_that_leaves_the_roots_is_refused(
        self, rules: PathRules, tmp_path: Path, path: str
    ) -> None:
        with pytest.raises(PathNotAllowed) as caught:
            rules.resolve(path.replace("{tmp}", str(tmp_path)), "train_data")
        assert (
            caught.value.message
            == "The path of train_data lies outside the folders that alice allows."
        )
        assert caught.value.party == "alice" and caught.value.detail is None

    @pytest.mark.parametrize(
        "path",
        [
            "",
            ".",
            "..",
            "sub/..",
            "/",
            "{tmp}",
            "{tmp}/data",
            "{tmp}/shared",
            "{tmp}/shared/sub/..",
        ],
    )
    def test_a_root_or_what_contains_one_is_refused(
        self, rules: PathRules, tmp_path: Path, path: str
    ) -> None:
        with pytest.raises(PathNotAllowed):
            rules.resolve(path.replace("{tmp}", str(tmp_path)), "model_output")

    def test_a_root_inside_another_is_refused_too(self, tmp_path: Path) -> None:
        rules = PathRules("carol", tmp_path / "all" / "data", (tmp_path / "all",))
        with pytest.raises(PathNotAllowed):
            rules.resolve(str(tmp_path / "all" / "data"), "model_output")
        assert (
            rules.resolve(str(tmp_path / "all" / "x.csv"), "input_data")
            == tmp_path / "all" / "x.csv"
        )

    def test_a_link_that_leaves_the_roots_is_refused(
        self, rules: PathRules, tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere/x.csv").write_text("a\n1\n")
        (tmp_path / "data/alice/file.csv").symlink_to(tmp_path / "elsewhere/x.csv")
        (tmp_path / "data/alice/folder").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "data/alice/chain.csv").symlink_to("file.csv")
        (tmp_path / "data/alice/bobs").symlink_to("../bob")
        for path in ("file.csv", "folder/x.csv", "folder/new.csv", "chain.csv", "bobs/bob.csv"):
            with pytest.raises(PathNotAllowed):
                rules.resolve(path, "input_data")

    def test_a_link_within_the_roots_is_followed(self, rules: PathRules, tmp_path: Path) -> None:
        (tmp_path / "data/alice/x.csv").symlink_to(tmp_path / "shared/x.csv")
        assert rules.resolve("x.csv", "input_data") == tmp_path / "shared/x.csv"

    def test_a_root_may_be_a_link_itself(self, rules: PathRules, tmp_path: Path) -> None:
        (tmp_path / "linked").symlink_to(tmp_path / "data")
        linked = PathRules("alice", tmp_path / "linked")
        assert linked.resolve("x.csv", "input_data") == tmp_path / "data/alice/x.csv"

    def test_a_circle_of_links_is_no_crash(self, rules: PathRules, tmp_path: Path) -> None:
        (tmp_path / "data/alice/a.csv").symlink_to("b.csv")
        (tmp_path / "data/alice/b.csv").symlink_to("a.csv")
        with pytest.raises(MissingFile):
            Table.read(rules.resolve("a.csv", "input_data"), "alice", "input_data")

    @given(st.text(max_size=20))
    def test_whatever_the_text_the_path_is_inside_or_refused(self, text: str) -> None:
        root = Path("/nonexistent/data")
        try:
            path = PathRules("alice", root).resolve(text, "input_data")
        except PathNotAllowed:
            return
        assert root in path.parents


class TestFormats:
    """Which files are tables."""

    @pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.parquet", "t.PARQUET", "a.b.csv"])
    def test_csv_and_parquet_are_known_by_their_endings(self, name: str) -> None:
        check_format(Path(name), "alice", "input_data")
