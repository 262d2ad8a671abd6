"""Downloads one complete file, in bounded time and size.

torch.hub, torchvision and pooch bound neither: a slow or endless response would block them for ever.
"""

import asyncio
import logging
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import aiohttp
from fsspec.asyn import get_loop, sync

log = logging.getLogger(__name__)

ATTEMPTS = 3
PAUSE = 1.0  # seconds before the second attempt, twice that before the third
TRANSIENT = {408, 425, 429}  # HTTP statuses of a server that may do better in a moment, besides all from 500


def download(url: str, timeout: float, deadline: float, limit: int) -> bytes:
    """Downloads the content at `url`; tries again after errors that may pass, such as a cut connection.

    Args:
        url: `http://`, `https://` or `file://`.
        timeout: seconds that the server may stay silent.
        deadline: seconds for everything, however busily a server drips.
        limit: bytes, more of which are refused.

    Raises:
        OSError: with the cause in words, when there is no such content, or not in time.
    """
    if url.startswith(("http://", "https://")):
        return sync(get_loop(), _fetch, url, timeout, deadline, limit)  # the caller may have an event loop of its own
    if not url.startswith("file://"):
        raise OSError("no address of a kind that is read: http://, https:// or file://")
    with Path(url2pathname(urlsplit(url).path)).open("rb") as file:
        content = file.read(limit + 1)
    _check_size(content, limit)
    return content


async def _fetch(url: str, timeout: float, deadline: float, limit: int) -> bytes:
    bounds = aiohttp.ClientTimeout(sock_connect=timeout, sock_read=timeout)
    session = aiohttp.ClientSession(timeout=bounds, raise_for_status=True, auto_decompress=False, trust_env=True)
    attempt = 0
    try:
        async with asyncio.timeout(deadline), session:
            while True:
                attempt += 1
                content = bytearray()
                try:
                    async with session.get(url) as response:
                        async for part in response.content.iter_any():
                            content += part
                            _check_size(content, limit)
                    return bytes(content)
                except aiohttp.ClientError as error:
                    cause = str(error).partition("\n")[0]
                    if attempt == ATTEMPTS or not _may_pass(error):
                        raise OSError(cause + f", {attempt} times" * (attempt > 1)) from error
                pause = PAUSE * 2 ** (attempt - 1)
                log.info("%s: %s; trying again in %g s", url, cause, pause)
                await asyncio.sleep(pause)
    except TimeoutError:
        raise OSError(f"not done after {deadline:g} s") from None


def _may_pass(error: aiohttp.ClientError) -> bool:
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status >= 500 or error.status in TRANSIENT
    lasting = aiohttp.ServerTimeoutError, aiohttp.ClientConnectorError, aiohttp.InvalidURL
    return not isinstance(error, lasting)


def _check_size(content: bytes | bytearray, limit: int) -> None:
    if len(content) > limit:
        raise OSError(f"more than {limit} bytes")
