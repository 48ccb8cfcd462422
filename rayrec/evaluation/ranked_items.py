"""A ranker as a model that scores all items, for the protocol of `lists`."""

from dataclasses import replace

import numpy as np
import torch
from scipy import sparse

from rayrec.data.batches import Batch
from rayrec.data.examples import Examples
from rayrec.data.history import ClickHistory
from rayrec.data.loading import RankingData
from rayrec.data.windows import HistoryGather
from rayrec.evaluation.lists import ListScorer
from rayrec.ranking.model import RankingModel

PAIRS_AT_ONCE = 50_000  # of users and items


def ranker_lists(model: RankingModel, clicks: ClickHistory, at: int, context_fields: int, device: torch.device) -> ListScorer:
    """Scores as the ranker would give them at one time (UTC ms): a history has the clicks before it, and the context is unknown."""
    gather = HistoryGather(clicks, model.window, device)

    @torch.inference_mode()
    def scores(user_B: np.ndarray, likes_BI: sparse.csr_array) -> np.ndarray:
        model.eval()
        items = likes_BI.shape[1]
        scores_BI = np.empty(likes_BI.shape, np.float32)
        step, candidates_N = max(1, PAIRS_AT_ONCE // items), torch.arange(items, device=device)
        for start in range(0, len(user_B), step):
            user = user_B[start : start + step]
            times = np.full(len(user), at, np.int64)
            ends = torch.from_numpy(clicks.ends(user, times)).to(device)
            users = torch.from_numpy(user.astype(np.int64)).to(device)
            history, history_at = gather(users, ends)
            context = torch.zeros(len(user), context_fields, dtype=torch.int64, device=device)
            candidates = candidates_N.expand(len(user), items)
            batch = Batch(users, torch.from_numpy(times).to(device), history, history_at, context, candidates)
            scores_BI[start : start + step] = model.page_score(batch).float().cpu().numpy()
        return scores_BI

    return scores


def leaving_out(data: RankingData, validation: sparse.csr_array, test: sparse.csr_array) -> RankingData:
    """The same data with other splits: the examples of these pairs [U, I] of user and item are held out, and all others train."""
    train = data.train.blocks(range(len(data.train.block_sizes)), torch.device("cpu"))
    columns = [
        *(tuple(column.numpy() for column in block.columns.given) for block in train),
        data.validation.columns,
        data.test.columns,
    ]
    user, item, clicked, at, end, context, *goals = (np.concatenate(each) for each in zip(*columns, strict=True))
    order = np.argsort(at, kind="stable")
    examples = Examples(user, item, clicked, at, end, context, *goals).take(order)
    in_validation, in_test = (_among(examples.user, examples.item, pairs) for pairs in (validation, test))
    parts = [examples.take(rows) for rows in (~in_validation & ~in_test, in_validation, in_test)]
    rows = np.arange(len(parts[2]), dtype=np.int32)
    clicks_only = bool(parts[0].clicked.all())
    return replace(data, train=parts[0], validation=parts[1], read_test=lambda: (parts[2], rows), clicks_only=clicks_only)


def clicks_without(clicks: ClickHistory, pairs: sparse.csr_array) -> ClickHistory:
    """The clicks on all but these pairs [U, I] of user and item."""
    users = len(clicks.offsets) - 1
    user = np.repeat(np.arange(users), np.diff(clicks.offsets))
    kept = ~_among(user, clicks.items, pairs)
    return ClickHistory.of(user[kept], clicks.items[kept], clicks.times[kept], users)


def _among(user: np.ndarray, item: np.ndarray, pairs: sparse.csr_array) -> np.ndarray:
    """Which of these users and items are among the pairs."""
    entries, items = pairs.tocoo(), pairs.shape[1]
    return np.isin(user.astype(np.int64) * items + item, entries.row.astype(np.int64) * items + entries.col)
