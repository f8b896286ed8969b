"""stub"""

from typing import Any


def library() -> Any:
    return None


class NativeFetcher:
    def __init__(self, topic: str, properties: Any) -> None:
        raise NotImplementedError
