"""Uses the Python client with a running service, such as that of `make demo`.

    .venv/bin/python examples/client.py [--url http://127.0.0.1:8000] [--user USER] [--key KEY]

It shows a user a page of videos, tells the service what the user did with them, gets another page and similar videos, and shows how
errors are handled. A service with API keys needs a key.
"""

import argparse
from typing import Any

from rayrec.client import Client, ServiceError


def show(title: str, videos: list[dict[str, Any]]) -> None:
    print(f"\n{title}")
    for video in videos:
        print(f"  {video['video_id']:12} {video['title'] or '(no title)':40} {video.get('why', '')}")


def browse(service: Client, user: str) -> None:
    page = service.recommend(user, k=5)
    show(f"A page for {user} (the reason is on the right)", page["videos"])

    # The user watches and clicks the first video, likes the second one and skips the third one. The service knows already that all
    # five were shown. `request_id` and `arm` connect an event with the page on which it happened.
    first, second, third = (video["video_id"] for video in page["videos"][:3])
    common = {"user_id": user, "request_id": page["request_id"], "arm": page["arm"]}
    answer = service.events(
        [
            {**common, "video_id": first, "kind": "watch", "watch_s": 4.5},
            {**common, "video_id": first, "kind": "click"},
            {**common, "video_id": second, "kind": "click"},
            {**common, "video_id": second, "kind": "like"},
            {**common, "video_id": third, "kind": "skip"},
            {**common, "video_id": "no-such-video", "kind": "click"},
        ]
    )
    print(f"\n{answer['new']} of {answer['received']} events were new and are on the disk")
    for refused in answer["refused"]:
        print(f"  refused: {refused['error']}")

    # The next page takes the clicks into account and repeats no video.
    show(f"The next page for {user}", service.recommend(user, k=5, exclude=[first])["videos"])
    show(f"Similar to {second}", service.similar(second, k=3)["videos"])


def handle_errors(service: Client) -> None:
    """The client tries again by itself while the service is busy; what it raises is final."""
    try:
        service.similar("no-such-video")
    except ServiceError as error:
        print(f"\nStatus {error.status} of an error that the caller can mend: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--user", default="somebody-new")
    parser.add_argument("--key", help="one of the service's API keys, if it has any")
    options = parser.parse_args()
    try:
        with Client(options.url, options.key, patience_s=5) as service:
            browse(service, options.user)
            handle_errors(service)
    except ServiceError as error:
        raise SystemExit(f"{options.url}: {error}") from None


if __name__ == "__main__":
    main()
