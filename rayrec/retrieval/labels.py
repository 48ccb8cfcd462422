"""Which videos are alike, by what people said of them: the same class, or common tags."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from rayrec.topics.tag_graph import incidence


@dataclass(frozen=True)
class Labels:
    """The classes and tags of N videos."""

    classes: np.ndarray  # int64 [N], -1 for a video without one
    tags: sp.csr_matrix  # which video has which tag, 0/1 [N, tags]
    names: list[str]  # of the tags

    @classmethod
    def of(cls, catalog: pa.Table, max_tags: int) -> "Labels":
        codes = pc.dictionary_encode(catalog["primary_class"].combine_chunks()).indices
        tags, names = incidence(catalog["tags"], max_tags)
        return cls(codes.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), tags, names)

    def likeness(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """How alike pairs of videos are, float32 [rows, columns]: 1 in a class, else the share of their tags that both have.

        The share is Jaccard's: common tags by all tags of both.
        """
        first, second = self.tags[rows], self.tags[columns]
        common = (first @ second.T).toarray().astype(np.float32)
        total = np.diff(first.indptr)[:, None] + np.diff(second.indptr)[None] - common
        shares = np.divide(common, total, out=np.zeros_like(common), where=total > 0)
        same = (self.classes[rows][:, None] == self.classes[columns][None]) & (self.classes[rows] >= 0)[:, None]
        return np.where(same, np.float32(1), shares)
