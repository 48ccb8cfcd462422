"""What the service knows about a user, and how it forgets it."""

import asyncio
import json

import numpy as np
from fastapi import APIRouter

from rayrec.recall.sources.topics import top_topics
from rayrec.serving.http import answers
from rayrec.serving.http.backend import Backend, UserId
from rayrec.serving.http.bodies import UsersRequest
from rayrec.serving.http.schemas import Forgotten, User, UsersAnswer, UserTopic
from rayrec.serving.recommender import now_ms


def create_router(backend: Backend) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/users", summary="Say what is known of users")
    async def put(request: UsersRequest) -> UsersAnswer:
        """Keeps side fields of users, such as age or country, for the ranker, also of users whom training did not know.

        They count from the next request on, instead of those that training had of the user. The ranker reads the columns of the
        table of users that it was trained with; other fields are kept, and make no difference.
        """
        said = {user.user_id: json.dumps(user.fields, ensure_ascii=False, separators=(",", ":")) for user in request.users}
        await backend.write(backend.arms().stable.store.put_users, said)
        return UsersAnswer(users=len(said))

    # The paths end with `:path` because ids may hold slashes.
    @router.get("/v1/users/{user_id:path}", summary="Get what is known about a user")
    async def user(user_id: UserId) -> User:
        _, recommender = backend.arms().arm_of(user_id)
        state = await asyncio.to_thread(recommender.user, user_id)
        topics, clicks = top_topics(state.clicked, recommender.items.topics, recommender.settings)
        words = recommender.bundle.words
        found = [
            UserTopic(topic=topic, words=words.get(topic, []), clicks=count)
            for topic, count in zip(topics.tolist(), clicks.tolist(), strict=True)
        ]
        fields = json.loads(state.fields or "{}")
        said = answers.feedback(recommender, state.said, now_ms())
        seen = len(np.unique(state.seen))
        return User(user_id=user_id, clicks=len(state.clicked), seen=seen, topics=found, fields=fields, feedback=said)

    @router.delete("/v1/users/{user_id:path}", summary="Forget a user")
    async def forget(user_id: UserId) -> Forgotten:
        """Deletes the user's events, and what was said of the user.

        The service also stops using what the training log holds about the user. The next training on a log without the user removes
        that, too.
        """
        return Forgotten(events=await backend.write(backend.arms().stable.store.forget, user_id))

    return router
