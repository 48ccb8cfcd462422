"""What the private/public network gets to see of a file: frames in order, and the sound in equal slices."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from rayrec.config import PrivatePublic
from rayrec.features.private_public.inputs import INPUTS, mean_columns, read_inputs, shapes, sound_slices
from tests.features.clips import RATE, tone, write_clip

SETTINGS = PrivatePublic(frames=8, size=32, bands=32, width=4)


def test_frames_and_sound_of_files(tmp_path: Path) -> None:
    write_clip(tmp_path / "whole.mp4", sound=tone(440, 2.0))
    write_clip(tmp_path / "silent.mp4")
    write_clip(tmp_path / "blind.mp4", frames=0, sound=tone(440, 2.0))
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    names = ["whole", "silent", "blind", "text", "missing"]
    rows = pa.table(
        {
            "video_id": names,
            "uri": [str(tmp_path / f"{name}.mp4") for name in names],
            "role": ["train"] * 5,
            "label": pa.array([0, 1, None, 0, 0], pa.int32()),
        }
    )
    table = read_inputs(rows, SETTINGS)
    assert table.schema == INPUTS
    found = {row["video_id"]: row for row in table.to_pylist()}
    assert {name: (row["frames"] is not None, row["sound"] is not None) for name, row in found.items()} == {
        "whole": (True, True),
        "silent": (True, False),
        "blind": (False, True),
        "text": (False, False),
        "missing": (False, False),
    }
    assert [found[name]["error"] is None for name in names] == [True, True, True, False, False]
    assert "no such file" in found["missing"]["error"]
    frames_shape, sound_shape = shapes(SETTINGS)
    frames = np.frombuffer(found["whole"]["frames"], np.uint8).reshape(frames_shape)
    grey = frames[:, -1, -1].mean(axis=-1)  # the clip's frames grow brighter evenly
    assert np.allclose(np.diff(grey), np.diff(grey).mean(), atol=3)
    assert np.diff(grey).mean() > 20
    assert np.isfinite(np.frombuffer(found["whole"]["sound"], np.float16).reshape(sound_shape)).all()


def test_slices_follow_the_sound_in_time() -> None:
    rising = np.concatenate([tone(300 * 2**octave, 0.5) for octave in range(4)])
    slices = sound_slices(rising, RATE, SETTINGS).astype(np.float32)
    loudest = slices.mean(axis=2).argmax(axis=1)  # the band of each slice
    assert (np.diff(loudest[::2]) > 0).all()
    assert (np.diff(loudest) >= 0).all()


def test_a_sound_shorter_than_a_window_is_none_and_a_short_one_is_stretched() -> None:
    assert sound_slices(tone(440, 0.02), RATE, SETTINGS) is None
    assert sound_slices(tone(440, 0.03), RATE, SETTINGS).shape == (8, 32, 4)


def test_columns_are_averaged_as_torch_pools_them() -> None:
    draw = np.random.default_rng(0)
    for n in (1, 7, 40, 64, 501):
        spectrogram = draw.normal(size=(5, n)).astype(np.float32)
        pooled = torch.nn.functional.adaptive_avg_pool1d(torch.from_numpy(spectrogram), 32).numpy()
        assert np.allclose(mean_columns(spectrogram, 32), pooled, atol=1e-5)
