"""A ranker as a model that scores all items, for the protocol of `lists`."""

import numpy as np
import torch
from scipy import sparse

from rayrec.data.batches import Batch
from rayrec.data.history import ClickHistory
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
            scores_BI[start : start + step] = model(batch).float().cpu().numpy()
        return scores_BI

    return scores
