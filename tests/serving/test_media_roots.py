"""Hostile names of files: nothing outside of the folders that the operator lists is read."""

import json
from pathlib import Path

import pytest

from rayrec.config import Config, load
from rayrec.serving.cluster.service import serve
from rayrec.serving.media_roots import NotPermittedError, missing_folders, permitted, roots_of
from rayrec.workspace.files import WorkspaceError

S3 = "s3://bucket/media?endpoint_override=127.0.0.1:9000&scheme=http"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a.mp4").write_bytes(b"a")
    (tmp_path / "secret.mp4").write_bytes(b"s")
    (root / "leak.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    (root / "fine.mp4").symlink_to(root / "in" / "a.mp4")
    (tmp_path / "media-of-others").mkdir()
    return root


def test_a_folder_that_is_not_there_is_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    def config_of(**more: object) -> Config:
        uploads = {"watch_folder": f"{root}/in", "media_roots": [str(root)]} | more
        settings = [f"workspace={root}/workspace", f"serving.uploads={json.dumps(uploads)}", "serving.port=18431"]
        return load(None, [*settings, f"dataset={{kind: files, catalog: {root}/c.csv, media_root: {root}}}"])

    assert missing_folders(config_of()) == missing_folders(load(None)) == []
    wrong = config_of(watch_folder=f"{root}/inn", media_roots=[str(root), f"{root}/in/a.mp4", "nothing://at/all"])
    sentence = "{}: there is no folder {}; no video can come from it until there is"
    sentences = [sentence.format("serving.uploads.watch_folder", f"{root}/inn")]
    sentences += [sentence.format("serving.uploads.media_roots", each) for each in (f"{root}/in/a.mp4", "nothing://at/all")]
    assert missing_folders(wrong) == sentences
    with pytest.raises(WorkspaceError, match="has not run yet"):  # nothing is published
        serve(wrong)
    assert [record.message for record in caplog.records] == sentences


def test_files_below_a_root_are_read(root: Path) -> None:
    wanted = str(root.resolve() / "in" / "a.mp4")
    for uri in ("in/a.mp4", "./in/../in/a.mp4", str(root / "in" / "a.mp4"), "fine.mp4", f"{root}//in/./a.mp4"):
        assert permitted(uri, [str(root)]) == wanted
    for literal in ("in/a 100%?.mp4", "concat:in/a.mp4|/etc/passwd", "~/.ssh/id_rsa"):  # names of files that need not be there
        assert permitted(literal, [str(root)]) == str(root.resolve() / literal)
    assert permitted(wanted, ["s3://bucket/media", str(root)]) == wanted


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "../secret.mp4",
            "in/../../secret.mp4",
            "/etc/passwd",
            "{tmp}/secret.mp4",
            "{root}/../secret.mp4",
            "{root}",
            ".",
            "in/..",
        ),
        *("leak.mp4", "out/secret.mp4", "{root}/out/secret.mp4", "loop", "loop/a.mp4", "{tmp}/media-of-others/a.mp4"),
        *("file:///etc/passwd", "file://{root}/in/a.mp4", "http://169.254.169.254/latest/meta-data", "https://example.org/a.mp4"),
        *(
            "ftp://host/a.mp4",
            "s3://bucket/a.mp4",
            "concat:/../../secret.mp4",
            "in/a.mp4\0.txt",
            "a\nb.mp4",
        ),
        *(
            "//host/share/a.mp4",
            "data://text/plain,x",
            "memory://a.mp4",
            "{root}/in/a.mp4/../../../secret.mp4",
            "\\\\host\\a.mp4/../..",
        ),
    ],
)
def test_nothing_else_is_read(root: Path, tmp_path: Path, uri: str) -> None:
    with pytest.raises(NotPermittedError, match="uri: "):
        permitted(uri.format(root=root, tmp=tmp_path), [str(root)])


def test_objects_below_a_root_of_a_store_are_read() -> None:
    options = "?endpoint_override=127.0.0.1:9000&scheme=http"
    wanted = f"s3://bucket/media/in/a 1%.mp4{options}"
    for uri in (wanted, wanted.removesuffix(options), "in/a 1%.mp4"):
        assert permitted(uri, [S3]) == wanted


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "s3://other/media/a.mp4",
            "s3://bucket/secret/a.mp4",
            "s3://bucket/media",
            "s3://bucket/media/",
            "s3://bucket/media-2/a.mp4",
        ),
        *(
            "s3://bucket/media/../secret/a.mp4",
            "s3://bucket/media/%2e%2e/secret/a.mp4",
            "s3://bucket/media/%252e%252e/secret/a.mp4",
        ),
        *(
            "s3://bucket/media/a.mp4?endpoint_override=169.254.169.254",
            "s3://user:pass@bucket/media/a.mp4",
            "gs://bucket/media/a.mp4",
        ),
        *("../secret/a.mp4", "%2e%2e/secret/a.mp4", "/media/a.mp4", "s3://bucket/media/a.mp4?x=1?endpoint_override=h&scheme=http"),
    ],
)
def test_no_other_object_and_no_other_host(uri: str) -> None:
    with pytest.raises(NotPermittedError):
        permitted(uri, [S3])


def test_without_roots_no_file_may_be_named(tmp_path: Path) -> None:
    with pytest.raises(NotPermittedError, match="it lists none, so send the file itself"):
        permitted("a.mp4", [])


def test_the_media_root_of_the_data_set_is_one() -> None:
    files = ["dataset={kind: files, catalog: c.csv, media_root: /media}"]
    assert roots_of(load(None, [*files, "serving.uploads={media_roots: [/more]}"])) == ["/more", "/media"]
    assert roots_of(load(None, ["serving.uploads={}"])) == []
