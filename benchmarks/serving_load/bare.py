"""The same pipeline in one uvicorn process without Ray: what a request costs before anything makes it scale or survive.

    PYTHONPATH=. python benchmarks/serving_load/bare.py CONFIG

The API and the recommender are those of the service; the ranker is called in a thread of its own, one request after the other.
"""

import asyncio
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import uvicorn

from rayrec.config import load
from rayrec.ranking.frozen import room
from rayrec.serving.bundle import Bundle, load_scorer, locate
from rayrec.serving.http.app import create_api
from rayrec.serving.http.auth import Keys
from rayrec.serving.metrics import LocalMetrics
from rayrec.serving.recommender import Recommender, UserState, now_ms
from rayrec.serving.rollout.arms import Arms
from rayrec.serving.state.opening import open_store
from rayrec.workspace.versions import Workspace


def main() -> None:
    config = load(sys.argv[1])
    torch.set_num_threads(1)
    workspace = Workspace(config.workspace)
    version, folder = locate(workspace, None)
    bundle, scorer = Bundle.load(workspace.fs, folder, version), load_scorer(workspace.fs, folder)
    scorer.freeze(room(scorer.device))
    ranking = ThreadPoolExecutor(1)

    async def rank(user_id: str, user: UserState, at: int, candidates: np.ndarray, context: dict[str, Any]) -> np.ndarray:
        def score() -> np.ndarray:
            return scorer.score([user_id], [user.clicked], [user.clicked_at], np.array([at]), candidates[None], [context])[0]

        return await asyncio.get_running_loop().run_in_executor(ranking, score)

    recommender = Recommender(bundle, open_store(config), rank, config.recall, config.selection, config.seed)

    def refresh() -> None:
        while True:
            time.sleep(config.serving.refresh_s)
            recommender.refresh(now_ms())

    threading.Thread(target=refresh, daemon=True).start()
    arms = Arms(recommender)
    api = create_api(lambda: arms, config.serving, Keys(), LocalMetrics(), list)
    uvicorn.run(api, port=config.serving.port, access_log=False, log_level="error")


if __name__ == "__main__":
    main()
